"""The matrix products of one training step alone, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer, Layer
from asarm.kernels.attention import Block, Geometry
from asarm.kernels.products import linear
from asarm.rows import ContentRows, QueryRows, chunks


class StepProducts:
    """Does the matrix products that a step of `joint_loss` needs, and nothing else.

    They bound its time from below: those of every content row in every layer but the last, where
    query rows are enough, and block by block the slots that they see; every product again for the
    gradient of either factor, where that factor has one. Weights are the model's own; activations
    and their gradients are allocated beforehand, once for each shape.

    Args:
        model: whose step it is.
        content: the step's content rows (B, R).
        query: the step's query rows (B, Q), none of them padding.
        dtype: that the step multiplies in.
    """

    def __init__(
        self,
        model: AnySubsetTransformer,
        content: ContentRows,
        query: QueryRows,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        self._like = model.lm_loss.weight.detach().to(dtype)
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._products: list[tuple[Tensor, Tensor, Tensor]] = []
        batch, num_content = content.tokens.shape
        where, _, tables = model.transformer.geometry(content, query, cache=None)
        *layers, last = model.transformer.layers()
        for layer in layers:
            self._add_layer(layer, batch, num_content, where, tables[0])
        self._add_layer(last, batch, num_content, where.of_queries(num_content), tables[0])
        num_targets = query.positions.numel()
        for chunk in chunks(num_targets, model.vocab_size):
            num_rows = min(chunk.stop, num_targets) - chunk.start
            self._add((num_rows,), model.lm_loss.weight.T)

    @torch.no_grad()
    def __call__(self) -> None:
        for left, right, out in self._products:
            if right.ndim == 2:
                linear(left, right, transposed=True)  # as the network multiplies
            else:
                torch.matmul(left, right, out=out)

    def _add_layer(
        self, layer: Layer, batch: int, num_content: int, where: Geometry, table: Tensor
    ) -> None:
        attention, ff = layer.rel_attn, layer.ff
        content, rows = (batch * num_content,), (where.sees_any.numel(),)
        self._add(content, attention.k.flatten(1))
        self._add(content, attention.v.flatten(1))
        self._add(rows, attention.q.flatten(1))
        self._add(table.shape[2:], attention.r.flatten(1), left_has_gradient=False)
        for block in where.blocks:
            self._add_block(block, batch, table)
        self._add(rows, attention.o.flatten(1).T)
        self._add(rows, ff.layer_1.weight.T)
        self._add(rows, ff.layer_2.weight.T)

    def _add_block(self, block: Block, batch: int, table: Tensor) -> None:
        _, _, num_rows, num_slots = block.distance.shape
        heads, width, _ = table.shape
        keys = self._buffer("keys", batch * heads, num_slots, width)
        values = self._buffer("values", *keys.shape)
        self._add((batch * heads, num_rows), keys.mT)
        self._add((batch * heads, num_rows), values)
        self._add((heads, batch * num_rows), table[:, :, block.distances])

    @torch.no_grad()
    def _add(self, rows: Sequence[int], right: Tensor, *, left_has_gradient: bool = True) -> None:
        """Add rows (..., N, I) times `right` (..., I, O), and the products of its backward pass."""
        right = right.detach().to(self._like.dtype)
        inner, outer = right.shape[-2:]
        left = self._buffer("left", *rows, inner)
        out = self._buffer("out", *rows, outer)
        self._products.append((left, right, out))
        if left_has_gradient:
            self._products.append((out, right.mT, self._buffer("grad_left", *left.shape)))
        self._products.append((left.mT, out, self._buffer("grad_right", *right.shape)))

    def _buffer(self, role: str, *shape: int) -> Tensor:
        """Return memory for what the weights are multiplied with, or for a result."""
        key = role, shape
        if key not in self._buffers:
            self._buffers[key] = self._like.new_full(shape, 0.01)
        return self._buffers[key]
