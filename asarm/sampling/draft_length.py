"""How many tokens to draft in a round: always as many, or as many as pay.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asarm.sampling.costs import GRID, Costs, best_lengths
from asarm.sampling.decoding import Decoding

PRIOR = 3.0, 2.0  # drafts that stood and drafts that fell, before the first round

DraftLength = Callable[[Decoding], Tensor]  # how many drafts (B,) the next round may have


class FixedLength:
    """As many drafts in every round."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self, decoding: Decoding) -> Tensor:
        return torch.full_like(decoding.known, self.k)


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
        self.best = best_lengths(method, costs).to(device)

    def __call__(self, decoding: Decoding) -> Tensor:
        stood, fell = decoding.accepted + PRIOR[0], decoding.rejected + PRIOR[1]
        return self.best[(stood / (stood + fell) * (GRID - 1)).round().long()]
