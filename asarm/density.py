"""Exact joint log-densities, in one network call.

Shapes: B batch, L length, T largest number of targets of a sequence, C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.distribution import Allowed, Distribution
from asarm.inputs import checked_inputs, inference_mode_of
from asarm.order import Order
from asarm.rows import Backbone, chunks, joint_rows, target_ranks


def log_prob(
    model: Backbone,
    input_ids: Tensor,
    order: Order,
    *,
    temperature: float = 1.0,
    allowed: Allowed | None = None,
) -> Tensor:
    """Return the log-probability of each target given the prompt and the targets of lower rank.

    One network call gives them all (section 3 of arXiv 2504.20456); their sum over positions is
    the exact joint log-density of the targets given the prompt.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        input_ids: (B, L) token ids, targets included; ids at padding are ignored. Any integers:
            a tensor, an array or nested lists.
        order: which positions are targets, and in which order they are predicted.
        temperature: divides the logits; at 0 the most probable token has probability 1. There is no
            top_k or top_p here, under which most texts have density 0: `SampleResult.log_probs`
            are those under the filters that `sample` was given.
        allowed: which tokens each position may hold; any if None.

    Returns:
        (B, L) in nats, 0 at prompt and padding, -inf at what is not allowed; float32, or float64
        from a float64 model.

    Raises:
        ValueError: ids outside the vocabulary, `<mask>` in a prompt, or weights that give NaN.
    """
    ids, order = checked_inputs(model, input_ids, order, reads_targets=True, allowed=allowed)
    target = Distribution(model.mask_token_id, temperature)
    allowed = allowed and allowed.to(model.device)
    with inference_mode_of(model):
        return joint_log_probs(model, ids, order, target, allowed)


def joint_log_probs(
    model: Backbone,
    input_ids: Tensor,
    order: Order,
    target: Distribution,
    allowed: Allowed | None = None,
) -> Tensor:
    """Compute `log_prob` of checked input under any distribution, (B, L)."""
    content, query = joint_rows(input_ids, order)
    hidden = model(content, query)
    _, is_row = target_ranks(order)
    tokens = input_ids.gather(1, query.positions)[is_row]  # (rows,)
    rows = hidden[is_row]  # (rows, C)
    kinds = allowed.table_of(query.positions, input_ids)[is_row] if allowed else None  # (rows,)
    parts = []
    for chunk in chunks(len(rows), model.vocab_size):
        is_allowed = allowed.tables[kinds[chunk]] if allowed and kinds is not None else None
        log_probs = target.log_probs(model.logits(rows[chunk]), is_allowed)
        parts.append(log_probs.gather(1, tokens[chunk, None])[:, 0])
    found = torch.cat(parts)
    if found.isnan().any():
        raise ValueError("the model gives NaN instead of log-probabilities; check its weights")
    result = found.new_zeros(input_ids.shape)
    sequence = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(is_row)
    result[sequence[is_row], query.positions[is_row]] = found
    return result
