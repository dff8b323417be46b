"""How many tokens to draft in a round: always as many, or as many as pay.

Shapes: B batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from asarm.sampling.cost import GRID, Costs, RoundWork, best_lengths
from asarm.sampling.state import State

PRIOR = 3.0, 2.0  # pseudo-counts of accepted drafts and of rounds that end with a rejected one


class DraftLengths(Protocol):
    """Says how many drafts a round may have."""

    @property
    def max_drafts(self) -> int:
        """The most drafts that any round may have."""

    def __call__(self, state: State) -> Tensor:
        """Return how many drafts the next round of each sequence may have, (B,)."""


class FixedLength:
    """Gives every round the same number of drafts."""

    def __init__(self, k: int):
        self.max_drafts = k

    def __call__(self, state: State) -> Tensor:
        return torch.full_like(state.num_committed, self.max_drafts)


class AutoLength:
    """Gives a round as many drafts as make a token cheapest, at the acceptance rate so far.

    It knows the outcome of earlier rounds of the same sequence, and nothing else, so
    the distribution of the samples stays as it is, and a sequence's sample does not depend on
    others.

    Args:
        work: of a round, for each number of drafts that it may have.
        costs: of calls, rows and drafts.
        device: of the batch.
    """

    def __init__(self, work: tuple[tuple[int, RoundWork], ...], costs: Costs, device: torch.device):
        best = best_lengths(work, costs)
        self.max_drafts, self.best = int(best.max()), best.to(device)

    def __call__(self, state: State) -> Tensor:
        # the most likely rate p, if a round accepts each draft with probability p until it rejects
        # one: accepted drafts over accepted and rejected ones, of which a round has one at most
        accepted, rejected = state.accepted.float() + PRIOR[0], state.rejected.float() + PRIOR[1]
        return self.best[(accepted / (accepted + rejected) * (GRID - 1)).round().long()]
