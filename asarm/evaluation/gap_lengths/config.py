"""The settings of the study of gap lengths."""

from __future__ import annotations

from dataclasses import dataclass

from asarm.evaluation.config import EvaluationConfig


@dataclass
class GapLengthsConfig(EvaluationConfig):
    """Blank out 1 to 8 words of held-out text, and guess how many tokens they were.

    Args:
        max_items: gaps of each kind of text, prose and code. It can be raised in the same folder,
            not lowered.
        longest: the longest length, in tokens, that is considered.
        num_fills: fillings that are drawn of each length, for the estimators that need some.
        whitespace_map: read line ends, tabs and double spaces as the published models for code do.
        seed: the seed of gaps and fillings.
    """

    output_dir: str = "runs/gap_lengths"
    max_items: int = 100
    longest: int = 32
    num_fills: int = 2
    whitespace_map: bool = False
