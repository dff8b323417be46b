"""Attention of rows to content slots by content and by distance, and cheap dropout.

The forward and backward passes are written out, so that training keeps two tensors of the size of
the scores (the probabilities and what was dropped) and no index is ever accumulated into.

Shapes: B batch, N rows, S slots, P = 2L - 1 distances, H heads, D head width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LEVELS = 2**16  # dropout compares 16 random bits with its share


class Geometry(NamedTuple):
    """Who sees whom, and how far apart they are: the same in every layer."""

    distance: Tensor  # (B, 1, N, S) index into the table of distances
    is_hidden: Tensor  # (B, 1, N, S) bool
    sees_any: Tensor  # (B, N, 1) bool

    def of_queries(self, num_content: int) -> Geometry:
        return Geometry(
            self.distance[:, :, num_content:],
            self.is_hidden[:, :, num_content:],
            self.sees_any[:, num_content:],
        )


class Dropout(nn.Module):
    """Zero a share of the entries and scale the others up, in training.

    `nn.Dropout` with a third of its time on a CPU: one random number serves four entries. The
    share is rounded to a multiple of 2**-16.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = round_share(share)

    def extra_repr(self) -> str:
        return f"share={self.share:.4g}"

    def forward(self, entries: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return entries
        is_dropped = self.draw(entries)
        return (entries * self.scale).masked_fill(is_dropped, 0)

    @property
    def scale(self) -> float:
        """Of the entries that are kept."""
        return 1 / (1 - self.share)

    def draw(self, like: Tensor) -> Tensor:
        """Which entries are dropped, bool of the shape of `like`."""
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None)  # all 64 bits
        bits = words.view(torch.int16)[: like.numel()]
        return (bits < self.share * LEVELS - LEVELS // 2).view(like.shape)


def round_share(share: float) -> float:
    """The share that is dropped when `share` is asked for."""
    return round(share * LEVELS) / LEVELS


def attend(
    by_content: Tensor,
    by_distance: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    where: Geometry,
    scale: float,
    dropout: Dropout,
) -> Tensor:
    """What every row sees, (B, N, H, D): softmax over slots of scale x (q_c k + q_d r), times v.

    Dai et al. 2019 (arXiv 1901.02860), section 3.3, with rows that see the slots of their own.

    Args:
        by_content: (B, N, H, D) queries to the keys.
        by_distance: (B, N, H, D) queries to the table of distances.
        keys: (B, H, S, D).
        values: (B, H, S, D).
        table: (H, D, P), every distance as a key.
        where: who sees whom. A row that sees nothing gets zeros.
        scale: of the scores.
        dropout: of the probabilities.
    """
    inputs = by_content, by_distance, keys, values, table
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Attend.apply(*inputs, where, scale, dropout)
    probs = _probs(by_content, by_distance, keys, table, where, scale)
    return _gather_values(dropout(probs), values, where)


class _Attend(torch.autograd.Function):
    """`attend` with a backward pass that keeps the probabilities and what was dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        by_content: Tensor,
        by_distance: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        where: Geometry,
        scale: float,
        dropout: Dropout,
    ) -> Tensor:
        with torch.autocast(keys.device.type, enabled=False):
            probs = _probs(by_content, by_distance, keys, table, where, scale)
            kept, is_dropped = probs, None
            if dropout.training and dropout.share > 0:
                is_dropped = dropout.draw(probs)
                kept = (probs * dropout.scale).masked_fill_(is_dropped, 0)
            seen = _gather_values(kept, values, where)
        ctx.save_for_backward(
            by_content, by_distance, keys, values, table, probs, is_dropped, *where
        )
        ctx.scale, ctx.dropout_scale = scale, dropout.scale
        return seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_content, by_distance, keys, values, table, probs, is_dropped, *rest = ctx.saved_tensors
        where = Geometry(*rest)
        grad = (grads[0] * where.sees_any[..., None]).transpose(1, 2)  # (B, H, N, D)
        grad_scores = grad @ values.transpose(2, 3)
        kept = probs
        if is_dropped is not None:
            kept = (probs * ctx.dropout_scale).masked_fill_(is_dropped, 0)
            grad_scores.mul_(ctx.dropout_scale).masked_fill_(is_dropped, 0)
        grad_values = kept.transpose(2, 3) @ grad
        del kept
        grad_scores = torch._softmax_backward_data(grad_scores, probs, 3, probs.dtype)
        grad_content = (grad_scores @ keys).transpose(1, 2) * ctx.scale
        grad_keys = grad_scores.transpose(2, 3) @ by_content.transpose(1, 2) * ctx.scale

        batch, heads, num_rows, _ = grad_scores.shape
        spread = grad_scores.new_zeros(heads, batch, num_rows, table.shape[2])
        index = where.distance.expand(-1, heads, -1, -1)
        spread.transpose(0, 1).scatter_(3, index, grad_scores)  # a row meets a distance once
        spread = spread.flatten(1, 2)  # (H, BN, P)
        rows = _by_head(by_distance)  # (H, BN, D)
        grad_distance = (spread @ table.transpose(1, 2)).view(heads, batch, num_rows, -1)
        grad_table = rows.transpose(1, 2) @ spread
        return (
            grad_content,
            grad_distance.permute(1, 2, 0, 3) * ctx.scale,
            grad_keys,
            grad_values,
            grad_table * ctx.scale,
            None,
            None,
            None,
        )


def _probs(
    by_content: Tensor,
    by_distance: Tensor,
    keys: Tensor,
    table: Tensor,
    where: Geometry,
    scale: float,
) -> Tensor:
    """How much every row looks at every slot, (B, H, N, S)."""
    batch, num_rows, heads, _ = by_content.shape
    scores = (_by_head(by_distance) @ table).view(heads, batch, num_rows, -1).transpose(0, 1)
    scores = scores.gather(3, where.distance.expand(-1, heads, -1, -1))
    flat = scores.flatten(0, 1)
    flat.baddbmm_(
        by_content.transpose(1, 2).flatten(0, 1),
        keys.transpose(2, 3).flatten(0, 1),
        beta=scale,
        alpha=scale,
    )
    return scores.masked_fill_(where.is_hidden, torch.finfo(scores.dtype).min).softmax(3)


def _gather_values(probs: Tensor, values: Tensor, where: Geometry) -> Tensor:
    """Values (B, N, H, D) by probabilities; the softmax of a row that sees nothing is uniform."""
    return (probs @ values).transpose(1, 2) * where.sees_any[..., None]


def _by_head(rows: Tensor) -> Tensor:
    """Rows (B, N, H, D) as (H, BN, D)."""
    return rows.permute(2, 0, 1, 3).flatten(1, 2)
