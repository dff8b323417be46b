"""What a model is asked about: token ids with an order, checked at the door.

Shapes: B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.law import Allowed
from asarm.order import Order
from asarm.rows import Backbone


def check_inputs(
    model: Backbone,
    input_ids: Tensor,
    order: Order,
    *,
    read: Tensor,
    allowed: Allowed | None = None,
) -> None:
    """Refuse ids (B, L) that `model` cannot read at the positions `read` (B, L).

    Raises:
        ValueError: shapes differ, an id is outside the vocabulary, or a prompt holds `<mask>`.
    """
    if input_ids.ndim != 2 or input_ids.shape != order.order.shape:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and order "
            f"{tuple(order.order.shape)}; expected the same (batch, length)"
        )
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise ValueError(f"input_ids has dtype {input_ids.dtype}; expected integers")
    if allowed is not None:
        shapes = *allowed.kinds.shape, allowed.tables.shape[1]
        if shapes != (*input_ids.shape, model.vocab_size):
            raise ValueError(
                f"allowed has kinds of shape {tuple(allowed.kinds.shape)} and tables of "
                f"{allowed.tables.shape[1]} tokens; expected {tuple(input_ids.shape)} and "
                f"{model.vocab_size}"
            )
        others = allowed.tables.clone()
        others[:, model.mask_token_id : model.mask_token_id + 1] = False
        if not others.any(1).all():
            raise ValueError("a kind of positions may hold nothing but <mask>; allow another token")
    outside = read & ((input_ids < 0) | (input_ids >= model.vocab_size))
    if outside.any():
        b, position = outside.nonzero()[0].tolist()
        raise ValueError(
            f"input_ids holds {int(input_ids[b, position])} at position {position} of sequence "
            f"{b}; expected ids from 0 to {model.vocab_size - 1}: is the tokenizer this model's?"
        )
    is_prompt = order.rank < order.num_prompt[:, None]
    masked = is_prompt & (input_ids == model.mask_token_id)
    if masked.any():
        b, position = masked.nonzero()[0].tolist()
        raise ValueError(
            f"the prompt of sequence {b} holds <mask> (id {model.mask_token_id}) at position "
            f"{position}; make that position a target"
        )
