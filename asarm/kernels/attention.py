"""Attention of rows to content slots by content and by distance: `plain.attend`, tuned.

The forward and backward passes are written out, a block of rows at a time: a block meets only the
slots and the distances that its rows can see, its scores fit a core's cache, and training keeps
one tensor of their size, the probabilities, where a minus sign marks what was dropped.

Shapes: B batch, N rows, S slots, P = 2L - 1 distances, H heads, D head width; n, s, p: of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asarm.kernels.dropout import Dropout
from asarm.kernels.plain import Sight

ROWS_AT_ONCE = {"cpu": 64, "cuda": 512}  # of a block, where rows are cut; elsewhere all
ENTRIES_KEPT = 2**22  # rows times slots: with more, blocks make their tensors as they are read


class Place(NamedTuple):
    """Where a block is."""

    rows: slice
    slots: slice
    distances: slice  # of the table


class Block(NamedTuple):
    """Rows side by side, and the slots and distances that they meet."""

    rows: slice
    slots: slice
    distances: slice  # of the table
    distance: Tensor  # (B, 1, n, s) index into those distances
    bias: Tensor  # (B, 1, n, s) of the scores: -inf where a slot is hidden, 0 where it is seen


@dataclass(frozen=True)
class LateBlocks:
    """Blocks that make their tensors, which grow with rows times slots, each time they are read."""

    sight: Sight
    places: tuple[Place, ...]
    sees_any: Tensor  # (B, N, 1) bool
    first: int = 0  # the rows before it are left out, and it is row 0

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Block]:
        for place in self.places:
            block = _block(self.sight, place, self.sees_any)
            yield _later(block, self.first) if self.first else block


class Geometry(NamedTuple):
    """Who sees whom, and how far apart they are: the same in every layer."""

    blocks: tuple[Block, ...] | LateBlocks
    sees_any: Tensor  # (B, N, 1) bool

    @classmethod
    def whole(cls, sight: Sight, rows_at_once: int | None = None) -> Geometry:
        """Make blocks that meet all slots and distances: one for few rows, as in decoding.

        Nothing here waits for the device. Slot 0 has rank 0: what has a limit sees something.
        """
        num_rows, num_slots = sight.size
        slots, distances = slice(0, num_slots), slice(0, sight.num_distances)
        sees_any = sight.limits[:, :, None] > 0
        places = [Place(rows, slots, distances) for rows in _parts(num_rows, rows_at_once)]
        return cls.of(LateBlocks(sight, tuple(places), sees_any))

    @classmethod
    def cut(cls, sight: Sight) -> Geometry:
        """Make blocks with no more slots and distances than their rows see."""
        num_rows, num_slots = sight.size
        places, sees_any = [], []
        for rows in _parts(num_rows, ROWS_AT_ONCE.get(sight.limits.device.type)):
            is_seen = ~sight.is_hidden(rows, slice(0, num_slots))
            sees_any.append(is_seen.any(2, keepdim=True))
            seen = is_seen.any(1).any(0).nonzero()
            # up to the last slot that any of the rows sees, and the distances that occur up to it
            slots = slice(0, int(seen[-1]) + 1 if len(seen) else 0)
            index = sight.distance(rows, slots)
            low, high = (int(end) for end in index.aminmax()) if index.numel() else (0, 0)
            places.append(Place(rows, slots, slice(low, high + 1)))
        return cls.of(LateBlocks(sight, tuple(places), torch.cat(sees_any, dim=1)))

    @classmethod
    def of(cls, blocks: LateBlocks) -> Geometry:
        """Keep the tensors of blocks, for all layers, where they are small."""
        num_rows, num_slots = blocks.sight.size
        is_small = len(blocks.sees_any) * num_rows * num_slots <= ENTRIES_KEPT
        return cls(tuple(blocks) if is_small else blocks, blocks.sees_any)

    def of_queries(self, num_content: int) -> Geometry:
        """Give the geometry of the rows that follow the content rows."""
        sees_any = self.sees_any[:, num_content:]
        if isinstance(self.blocks, LateBlocks):
            places = tuple(p for p in self.blocks.places if p.rows.stop > num_content)
            return Geometry(replace(self.blocks, places=places, first=num_content), sees_any)
        blocks = (b for b in self.blocks if b.rows.stop > num_content)
        return Geometry(tuple(_later(block, num_content) for block in blocks), sees_any)


def _parts(size: int, at_once: int | None) -> Iterator[slice]:
    """Yield slices of so many rows; one of all rows if None."""
    step = max(at_once or size, 1)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _block(sight: Sight, place: Place, sees_any: Tensor) -> Block:
    """Make the tensors of a block; `sees_any` is (B, N, 1), see `Geometry`."""
    rows, slots, distances = place
    index = sight.distance(rows, slots) - distances.start  # a block holds a part of the table
    return Block(*place, index[:, None], _bias(sight.is_hidden(rows, slots), sees_any[:, rows]))


def _bias(is_hidden: Tensor, sees_any: Tensor) -> Tensor:
    """Make a bias of scores, (B, 1, n, s); 0 in a row that sees nothing, which would get NaN."""
    bias = torch.zeros(is_hidden.shape, device=is_hidden.device, dtype=torch.float32)
    return bias.masked_fill_(is_hidden & sees_any, -torch.inf)[:, None]


def _later(block: Block, first: int) -> Block:
    """Cut a block to its rows from row `first` on, which is row 0 then."""
    # rows of the block that come before `first`: none of them where it begins later
    skip = max(first - block.rows.start, 0)
    return block._replace(
        rows=slice(block.rows.start + skip - first, block.rows.stop - first),
        distance=block.distance[:, :, skip:],
        bias=block.bias[:, :, skip:],
    )


def attend(
    query: Tensor,
    content_bias: Tensor,
    distance_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    where: Geometry,
    scale: float,
    dropout: Dropout,
) -> Tensor:
    """Attend with every row, (B, N, H, D): softmax over slots of scale x (q_c k + q_d r), times v.

    Dai et al. 2019 (arXiv 1901.02860), section 3.3, with rows that see the slots of their own.

    Args:
        query: (B, N, H, D).
        content_bias: (H, D), which makes it q_c, the query to the keys.
        distance_bias: (H, D), which makes it q_d, the query to the table of distances.
        keys: (B, H, S, D).
        values: (B, H, S, D).
        table: (H, D, P), every distance as a key.
        where: who sees whom. A row that sees nothing gets zeros.
        scale: of the scores.
        dropout: of the probabilities.
    """
    inputs = query, content_bias, distance_bias, keys, values, table
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Attend.apply(*inputs, where, scale, dropout)
    return _attend(*inputs, where, scale, dropout)


class _Attend(torch.autograd.Function):
    """`attend` with a backward pass that keeps the probabilities, signed by what was dropped."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, (where, scale, dropout) = arguments[:6], arguments[6:]
        probs: list[Tensor] = []
        with torch.autocast(inputs[0].device.type, enabled=False):
            seen = _attend(*(*arguments, probs))
        ctx.save_for_backward(*inputs, where.sees_any, *probs)
        ctx.blocks, ctx.scale = where.blocks, scale
        ctx.dropout_scale = dropout.scale if dropout.is_on else 1.0
        return seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, sees_any, probs = saved[:6], saved[6], saved[7:]
        query, content_bias, distance_bias, keys, values, table = inputs
        found = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs]
        to_query, to_content_bias, to_distance_bias, to_keys, to_values, to_table = found
        grad_seen = grads[0] * ctx.dropout_scale * sees_any[..., None]
        for (rows, slots, distances, index, _), signed in zip(ctx.blocks, probs, strict=True):
            grad = grad_seen[:, rows].transpose(1, 2)  # (B, H, n, D)
            kept = signed.clamp(min=0)
            to_values[:, :, slots] += kept.mT @ grad
            # the gradient of a softmax p: p g - p (sum of p g); the sign is of dropout alone
            weighed = (grad @ values[:, :, slots].mT).mul_(kept)
            total = weighed.sum(3, keepdim=True)
            to_scores = weighed.addcmul_(signed.abs(), total, value=-1)
            by_content = (query[:, rows] + content_bias).transpose(1, 2)
            to_keys[:, :, slots] += to_scores.mT @ by_content
            to_content = (to_scores @ keys[:, :, slots]).transpose(1, 2)  # (B, n, H, D)

            known = table[:, :, distances]
            spread = _spread(to_scores, index, known.shape[2])  # (H, Bn, p)
            to_table[:, :, distances] += _by_head(query[:, rows] + distance_bias).mT @ spread
            to_distance = (spread @ known.mT).unflatten(1, (len(keys), -1)).permute(1, 2, 0, 3)
            to_query[:, rows] = to_content + to_distance
            to_content_bias += to_content.sum((0, 1))
            to_distance_bias += to_distance.sum((0, 1))
        for gradient in (to_query, to_content_bias, to_distance_bias, to_keys, to_table):
            gradient *= ctx.scale
        return *found, None, None, None


def _attend(
    query: Tensor,
    content_bias: Tensor,
    distance_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    where: Geometry,
    scale: float,
    dropout: Dropout,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """`attend` without gradients; what the backward pass needs is appended to `keep`."""
    parts = []
    for rows, slots, distances, index, bias in where.blocks:
        part = _at(query, 1, rows)
        scores = _scores(
            part + content_bias,
            part + distance_bias,
            _at(keys, 2, slots),
            _at(table, 2, distances),
            index,
            scale,
        )
        probs = scores.add_(bias).softmax(3)  # masked_fill takes twenty times as long
        if dropout.is_on:
            # what is dropped gets a minus sign: 2 x kept - 1 is 1 or -1
            probs = probs * dropout.draw(probs).to(probs.dtype).mul_(2).sub_(1)
        if keep is not None:
            keep.append(probs)
        kept = probs.clamp(min=0) * dropout.scale if dropout.is_on else probs
        parts.append((kept @ _at(values, 2, slots)).transpose(1, 2))
    seen = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return seen * where.sees_any[..., None]  # the softmax of a row that sees nothing is uniform


def _scores(
    by_content: Tensor,
    by_distance: Tensor,
    keys: Tensor,
    table: Tensor,
    index: Tensor,
    scale: float,
) -> Tensor:
    """Compute the scores (B, H, n, s) of the rows of a block."""
    batch, num_rows, heads, _ = by_content.shape
    by_table = (_by_head(by_distance) @ table).view(heads, batch, num_rows, -1).transpose(0, 1)
    # of all distances (B, H, n, p), row n takes the one to slot s; it is the same in all heads
    scores = by_table.gather(3, index.expand(-1, heads, -1, -1))
    scores.flatten(0, 1).baddbmm_(
        by_content.transpose(1, 2).flatten(0, 1), keys.mT.flatten(0, 1), beta=scale, alpha=scale
    )
    return scores


def _spread(to_scores: Tensor, index: Tensor, num_distances: int) -> Tensor:
    """Put gradients (B, H, n, s) at the distances that they belong to, (H, Bn, p)."""
    batch, heads, num_rows, _ = to_scores.shape
    spread = to_scores.new_zeros(heads, batch, num_rows, num_distances)
    # the transpose of the gather in `_scores`; a row meets a distance once: no need to add
    spread.transpose(0, 1).scatter_(3, index.expand(-1, heads, -1, -1), to_scores)
    return spread.flatten(1, 2)


def _at(tensor: Tensor, dim: int, places: slice) -> Tensor:
    """Narrow a tensor to some places of a dimension; to all of them, it takes no time."""
    size = places.stop - places.start
    return tensor if size == tensor.shape[dim] else tensor.narrow(dim, places.start, size)


def _by_head(rows: Tensor) -> Tensor:
    """Return rows (B, n, H, D) as (H, Bn, D)."""
    return rows.permute(2, 0, 1, 3).flatten(1, 2)
