"""How many tokens to draft in a round: always as many, or as many as pay.

Shapes: B batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from asarm.sampling.costs import GRID, Costs, best_lengths
from asarm.sampling.decoding import Decoding

PRIOR = 3.0, 2.0  # drafts that stood and drafts that fell, before the first round


class DraftLength(Protocol):
    """Says how many drafts a round may have."""

    @property
    def most(self) -> int:
        """In any round."""

    def __call__(self, decoding: Decoding) -> Tensor:
        """In the next round, (B,)."""


class FixedLength:
    """As many drafts in every round."""

    def __init__(self, k: int):
        self.most = k

    def __call__(self, decoding: Decoding) -> Tensor:
        return torch.full_like(decoding.known, self.most)


class AutoLength:
    """As many drafts as make a token cheapest, if they stand as often as they did so far.

    It knows what became of the drafts of earlier rounds of the same sequence, and nothing else, so
    the law of the samples stays as it is, and a sequence's sample does not depend on others.

    Args:
        method: "assd", "ngram" or "onepass".
        costs: of calls, rows and drafts.
        device: of the batch.
    """

    def __init__(self, method: str, costs: Costs, device: torch.device):
        best = best_lengths(method, costs)
        self.most, self.best = int(best.max()), best.to(device)

    def __call__(self, decoding: Decoding) -> Tensor:
        stood, fell = decoding.accepted.float() + PRIOR[0], decoding.rejected.float() + PRIOR[1]
        return self.best[(stood / (stood + fell) * (GRID - 1)).round().long()]
