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
        counts = torch.zeros(4, len(decoding.known), device=decoding.known.device)
        self.accepted, self.drafted = counts[:2].long()
        self.stood, self.looked_at = counts[2:].double()

    def __call__(self, decoding: Decoding) -> Tensor:
        own = decoding.sequences
        accepted, drafted = decoding.accepted, decoding.drafted
        stood, asked = accepted - self.accepted[own], drafted - self.drafted[own]
        self.accepted[own], self.drafted[own] = accepted, drafted
        self.stood[own] = MEMORY * self.stood[own] + stood
        self.looked_at[own] = MEMORY * self.looked_at[own] + stood + (stood < asked)
        acceptance = (self.stood[own] + PRIOR[0]) / (self.looked_at[own] + PRIOR[1])
        return self.best[(acceptance * (GRID - 1)).round().long()]
