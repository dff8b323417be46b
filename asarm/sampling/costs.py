"""What a round takes, and how many drafts make a token cheapest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from asarm.checks import is_real

MOST = 16  # drafts of a round that "auto" may choose
GRID = 64  # acceptances that it tells apart
EVENNESS = 10.0  # of acceptance from round to round: a + b of its Beta(a, b) law


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


@cache
def best_lengths(method: str, costs: Costs) -> Tensor:
    """The best number of drafts (GRID,) by the share of drafts that is accepted, 0 to 1."""
    lengths = range(3 if method == "assd" else 1, MOST + 1)  # with fewer, assd is sequential
    found = []
    for step in range(GRID):
        acceptance = step / (GRID - 1)
        times = {k: time_per_token(method, k, acceptance, costs) for k in lengths}
        found.append(min(lengths, key=times.__getitem__))
    return torch.tensor(found)


def time_per_token(method: str, k: int, acceptance: float, costs: Costs) -> float:
    """Expected time of a round with up to k drafts over the tokens that it commits.

    A token follows the drafts that stand; of assd's the first is exact, and no other follows. Texts
    have easy places and hard ones: the share of drafts that stand varies around `acceptance` from
    round to round, so that the more drafts stand, the more likely the next one does.
    """
    if method == "assd":
        calls, rows, drafts = (2, 3 * k, k - 1) if k > 1 else (1, 2, 0)
    else:
        to_verify = 2 * (k + 1)  # content and query rows
        calls, rows, drafts = 1, to_verify + 2 * k * (method == "onepass"), k
    tokens, all_stand = 1.0, 1.0
    for stood in range(drafts):
        all_stand *= (EVENNESS * acceptance + stood) / (EVENNESS + stood)
        tokens += all_stand
    return (calls * costs.call + rows * costs.row + drafts * costs.draft) / tokens
