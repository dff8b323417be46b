"""Joint densities of blocks at fixed mask rates, on fixed splits: what models are chosen by.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from asarm.data import Batch
from asarm.density import log_prob
from asarm.drafting.head import DraftHead
from asarm.drafting.objective import draft_distributions, draw_starts
from asarm.loading import Model
from asarm.rows import Backbone
from asarm.schedule import ascending_orders

RATES = (0.15, 0.5, 0.95)


def block_bits(
    model: Backbone,
    blocks: Batch,
    indices: Sequence[int],
    *,
    rates: Sequence[float] = RATES,
    batch_size: int = 16,
) -> Tensor:
    """Measure the bits of the targets of some blocks, and count targets, (2, N, rates) in float64.

    The split of a block depends on its index and the rate only. Blocks that are not requested
    stay 0, so that the parts of several processes add up.
    """
    found = torch.zeros(2, len(blocks.lengths), len(rates), dtype=torch.float64)
    for column, rate in enumerate(rates):
        for start in range(0, len(indices), batch_size):
            part = torch.tensor(indices[start : start + batch_size])
            lengths = blocks.lengths[part]
            order = ascending_orders(lengths, rate, seed=0, step=column, indices=part.tolist())
            ids = blocks.input_ids[part, : int(lengths.max())].to(model.device)
            bits = -log_prob(model, ids, order).double().sum(1).cpu() / math.log(2)
            found[0, part, column] = bits
            found[1, part, column] = order.num_targets.double()
    return found


@torch.no_grad()
def draft_rejections(
    model: Model,
    head: DraftHead,
    blocks: Batch,
    indices: Sequence[int],
    *,
    rates: Sequence[float] = RATES,
    num_starts: int = 8,
    batch_size: int = 16,
) -> Tensor:
    """Count drafts of a head that would be rejected, in expectation, and all: (2,) float64.

    Splits and starts depend on the block's index and the rate only.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for column, rate in enumerate(rates):
        for start in range(0, len(indices), batch_size):
            part = list(indices[start : start + batch_size])
            lengths = blocks.lengths[part]
            order = ascending_orders(lengths, rate, seed=0, step=column, indices=part)
            starts = draw_starts(order, num_starts, seed=0, step=column, indices=part)
            ids = blocks.input_ids[part, : int(lengths.max())].to(model.device)
            order, starts = order.to(model.device), starts.to(model.device)
            found = draft_distributions(model, head, ids, order, starts)
            rejected, number = found.rejected().double().sum(), found.is_row.sum()
            sums += torch.tensor([float(rejected), float(number)])
    return sums


def bits_per_token(found: Tensor) -> list[float]:
    """Return the bits per token of all targets together at each rate, from `block_bits`."""
    bits, num_targets = found.sum(1)
    rates: list[float] = (bits / num_targets).tolist()
    return rates
