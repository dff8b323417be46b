"""What a round takes, and how many drafts make a token cheapest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from asarm.checks import is_real

MAX_DRAFTS = 16  # of a round that "auto" may choose
GRID = 64  # acceptance rates that it distinguishes
EVENNESS = 10.0  # a + b of the Beta(a, b) distribution of a round's acceptance rate


@dataclass(frozen=True)
class Costs:
    """What decoding takes, in any one unit: it decides how many drafts a round is best given.

    Attributes:
        call: of a network call, whatever is in it.
        row: of each row of a call.
        draft: of drawing a draft and of verifying it.
    """

    call: float
    row: float
    draft: float

    def __post_init__(self) -> None:
        values = self.call, self.row, self.draft
        is_finite = all(is_real(value) and 0 <= value < math.inf for value in values)
        if not (is_finite and self.call > 0):
            raise ValueError(
                f"costs are {self}; expected that of a call above 0, none below 0, all finite"
            )


COSTS = {  # by the device's type; `calibrate` measures those of a model
    "cpu": Costs(call=1.0, row=0.0125, draft=0.06),
    "cuda": Costs(call=1.0, row=0.001, draft=0.05),
}


class RoundWork(NamedTuple):
    """What a round takes: network calls, rows in them, and drafts that are drawn and verified."""

    calls: int
    rows: int
    drafts: int

    def time_per_token(self, acceptance: float, costs: Costs) -> float:
        """Return the expected time of the round over the tokens that it commits.

        A token follows the accepted drafts. Texts have easy places and hard ones: the acceptance
        rate varies around `acceptance` from round to round, so that the more drafts are accepted,
        the more likely the next one is.
        """
        tokens, all_accepted = 1.0, 1.0  # the token that follows, and P(the first n are accepted)
        for accepted in range(self.drafts):
            # P(next accepted | n accepted) under Beta(a, b) is (a + n) / (a + b + n)
            all_accepted *= (EVENNESS * acceptance + accepted) / (EVENNESS + accepted)
            tokens += all_accepted
        time = self.calls * costs.call + self.rows * costs.row + self.drafts * costs.draft
        return time / tokens


@cache
def best_lengths(work: tuple[tuple[int, RoundWork], ...], costs: Costs) -> Tensor:
    """Return the best number of drafts (GRID,) for each acceptance rate from 0 to 1.

    Args:
        work: of a round, for each number of drafts that it may have.
        costs: of calls, rows and drafts.
    """
    found = []
    for step in range(GRID):
        acceptance = step / (GRID - 1)
        times = {k: of_round.time_per_token(acceptance, costs) for k, of_round in work}
        found.append(min(times, key=times.__getitem__))
    return torch.tensor(found)
