"""The training objectives: the exact joint, and the conditionally independent ("parallel") one.

Shapes: B batch, L length, T largest number of targets of a sequence, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asarm.distribution import Distribution
from asarm.kernels.cross_entropy import HeadCrossEntropy
from asarm.order import Order
from asarm.rows import (
    ContentRows,
    QueryRows,
    TrainableBackbone,
    VisibleLimits,
    chunks,
    joint_rows,
    parallel_rows,
    target_ranks,
)

LOSS_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "mask_rate": lambda rate: rate,
    "snr": lambda rate: rate / (1 - rate),
}
# The limit of the visible token at a rank: rank + 1 is the token itself and all before it,
# num_prompt is the whole prompt.
PROMPT_ATTENTION: dict[str, VisibleLimits] = {
    "full": lambda rank, num_prompt, num_visible: num_visible.expand_as(rank),
    "prompt": lambda rank, num_prompt, num_visible: torch.maximum(num_prompt, rank + 1),
    "causal": lambda rank, num_prompt, num_visible: rank + 1,
}


def joint_loss(
    model: TrainableBackbone, input_ids: Tensor, order: Order, *, loss_scale: str = "none"
) -> Tensor:
    """Mean over sequences of the scaled mean over their targets of -log p(x_r | x_<r), in nats.

    Equation 4 of arXiv 2504.20456. Only targets are query rows, and only they have logits.

    Args:
        model: in training mode or not; gradients reach all that it uses.
        input_ids: (B, L).
        order: which positions are targets, and in which order they are predicted.
        loss_scale: of each sequence, a function of its mask rate m: 1 for "none", m for
            "mask_rate" (every target then weighs the same), m / (1 - m) for "snr": the inverse of
            masked diffusion's signal-to-noise ratio (arXiv 2406.04329), where there is a prompt.

    Raises:
        ValueError: the loss scale is "snr", and a sequence has no prompt.
    """
    if loss_scale == "snr" and (order.num_prompt == 0).any():
        raise ValueError(
            "loss_scale is 'snr' and a sequence has no prompt, so its weight is infinite; expected "
            "a prompt in each: give one, or take loss_scale 'mask_rate'"
        )
    content, query = joint_rows(input_ids, order)
    return _loss_of_rows(model, input_ids, content, query, order, loss_scale)


def parallel_loss(
    model: TrainableBackbone,
    input_ids: Tensor,
    order: Order,
    num_visible: Tensor,
    *,
    prompt_attention: str = "full",
) -> Tensor:
    """Mean over sequences of the mean over targets of -log p(x_r | all visible tokens), in nats.

    The objective of masked diffusion: targets, ranks from `num_visible` on, see one another not.

    Args:
        model: as for `joint_loss`.
        input_ids: (B, L).
        order: ranks, and the prompt, which the visible tokens look at as `prompt_attention` says.
        num_visible: (B,) how many ranks are visible, at least the prompt.
        prompt_attention: "full": visible tokens see one another; "prompt": the prompt, and what
            precedes them; "causal": what precedes them.
    """
    content, query, targets = parallel_rows(
        input_ids, order, num_visible, PROMPT_ATTENTION[prompt_attention]
    )
    return _loss_of_rows(model, input_ids, content, query, targets, "none")


def _loss_of_rows(
    model: TrainableBackbone,
    input_ids: Tensor,
    content: ContentRows,
    query: QueryRows,
    order: Order,
    loss_scale: str,
) -> Tensor:
    """Compute the mean over sequences of their scaled losses, of the rows that are no padding."""
    hidden = model(content, query)  # (B, T, C)
    exact = torch.promote_types(hidden.dtype, torch.float32)
    scale = LOSS_SCALES[loss_scale](order.num_targets.to(exact) / order.length)
    _, is_row = target_ranks(order)
    tokens = input_ids.gather(1, query.positions)[is_row]  # (rows,)
    # a mean over a sequence's targets, then a mean over the sequences
    weights = (scale / (order.num_targets * len(order)))[:, None].expand_as(is_row)[is_row]
    weight, bias = model.output_weights()
    return HeadCrossEntropy.apply(
        hidden[is_row],
        weight,
        bias,
        tokens,
        weights,
        Distribution(model.mask_token_id).filter,
        chunks(len(tokens), len(weight)),
    )
