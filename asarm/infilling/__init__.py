"""Blanks in texts: filled jointly, of unknown length, and ranked; and given fillings scored."""

from asarm.infilling.fill import Candidate, Fill, Infilling, infill
from asarm.infilling.scoring import Score, reference_lengths, score

__all__ = ["Candidate", "Fill", "Infilling", "Score", "infill", "reference_lengths", "score"]
