"""How many tokens to draft in a round: always as many, or as many as pay.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asarm.sampling.costs import GRID, Costs, best_lengths
from asarm.sampling.decoding import Decoding

MEMORY = 0.9  # of what was accepted so many rounds ago, per round
PRIOR = 1.0, 2.0  # drafts that stood, and that were looked at, before the first round

DraftLength = Callable[[Decoding], Tensor]  # how many drafts (B,) the next round may have


class FixedLength:
    """As many drafts in every round."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self, decoding: Decoding) -> Tensor:
        return torch.full_like(decoding.known, self.k)


class AutoLength:
    """As many drafts as make a token cheapest, if so many are accepted as lately.

    It knows what became of the drafts of earlier rounds of the same sequence, and nothing else, so
    the law of the samples stays as it is, and a sequence's sample does not depend on others.

    Args:
        method: "assd", "ngram" or "onepass".
        costs: of calls, rows and drafts.
        decoding: the batch.
    """

    def __init__(self, method: str, costs: Costs, decoding: Decoding):
        self.best = best_lengths(method, costs).to(decoding.known.device)
        self.accepted = self.drafted = torch.zeros_like(decoding.known)
        self.stood = self.looked_at = torch.zeros_like(decoding.known, dtype=torch.float64)

    def __call__(self, decoding: Decoding) -> Tensor:
        stood, drafted = decoding.accepted - self.accepted, decoding.drafted - self.drafted
        self.accepted, self.drafted = decoding.accepted.clone(), decoding.drafted.clone()
        self.stood = MEMORY * self.stood + stood
        self.looked_at = MEMORY * self.looked_at + stood + (stood < drafted)
        acceptance = (self.stood + PRIOR[0]) / (self.looked_at + PRIOR[1])
        return self.best[(acceptance * (GRID - 1)).round().long()]
