"""Exact joint log-densities, in one network call.

Shapes: B batch, L length, T largest number of targets of a sequence, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from asarm.distribution import Allowed, Distribution
from asarm.inputs import answering, checked_inputs
from asarm.order import Order
from asarm.rows import Backbone, ContentRows, QueryRows

LOGITS_AT_ONCE = 2**23  # entries of the logits held at a time: 32 MiB in float32


def joint_rows(input_ids: Tensor, order: Order) -> tuple[ContentRows, QueryRows]:
    """Make a content row of every token, in rank order, and a query row (B, T) of every target."""
    batch, size = input_ids.shape
    ranks = torch.arange(size, device=input_ids.device).expand(batch, size)
    tokens = input_ids.gather(1, order.order).masked_fill(ranks >= order.length[:, None], 0)
    content = ContentRows(tokens, order.order, order.limits.gather(1, order.order), ranks)
    ranks, is_row = target_ranks(order)
    positions = order.order.gather(1, ranks)
    return content, QueryRows(positions, torch.where(is_row, ranks, 0))


def target_ranks(order: Order) -> tuple[Tensor, Tensor]:
    """Return the ranks (B, T) of the targets, and which of them (B, T) are not padding."""
    steps = torch.arange(int(order.num_targets.max()), device=order.order.device)
    is_row = steps < order.num_targets[:, None]
    return torch.where(is_row, order.num_prompt[:, None] + steps, 0), is_row


def chunks(num_rows: int, vocab_size: int) -> Iterator[slice]:
    """Slices of rows whose logits may be held at once."""
    step = max(1, LOGITS_AT_ONCE // vocab_size)
    return (slice(start, start + step) for start in range(0, num_rows, step))


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
        temperature: divides the logits; at 0 the most probable token has probability 1.
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
    with answering(model):
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
