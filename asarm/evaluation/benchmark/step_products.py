"""The matrix products of one training step alone, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.density import chunks
from asarm.model import AnySubsetTransformer, Layer
from asarm.products import linear


class StepProducts:
    """The matrix products that a step of `joint_loss` needs and nothing else: its time from below.

    Every content row in every layer but the last, where query rows are enough; every product
    again for the gradient of either factor, where that factor has one. Weights are the model's
    own; activations and their gradients are allocated beforehand, once for each shape.

    Args:
        model: whose step it is.
        batch: sequences, without padding.
        length: tokens of each.
        num_targets: targets of each: its query rows.
        dtype: that the step multiplies in.
    """

    def __init__(
        self,
        model: AnySubsetTransformer,
        *,
        batch: int,
        length: int,
        num_targets: int,
        dtype: torch.dtype = torch.float32,
    ):
        self._like = model.lm_loss.weight.detach().to(dtype)
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._products: list[tuple[Tensor, Tensor, Tensor]] = []
        layers = model.transformer.layers()
        for index, layer in enumerate(layers):
            num_rows = num_targets + (0 if index == len(layers) - 1 else length)
            self._add_layer(layer, batch, length, num_rows)
        for chunk in chunks(batch * num_targets, model.vocab_size):
            num_rows = min(chunk.stop, batch * num_targets) - chunk.start
            self._add((num_rows,), model.lm_loss.weight.T)

    @torch.no_grad()
    def __call__(self) -> None:
        for left, right, out in self._products:
            if right.ndim == 2:
                linear(left, right, transposed=True)  # as the network multiplies
            else:
                torch.matmul(left, right, out=out)

    def _add_layer(self, layer: Layer, batch: int, length: int, num_rows: int) -> None:
        attention, ff = layer.rel_attn, layer.ff
        heads, width = attention.r_w_bias.shape
        content, rows, distances = (batch * length,), (batch * num_rows,), 2 * length - 1
        self._add(content, attention.k.flatten(1))
        self._add(content, attention.v.flatten(1))
        self._add(rows, attention.q.flatten(1))
        self._add((distances,), attention.r.flatten(1), left_has_gradient=False)
        keys = self._buffer("keys", batch * heads, length, width)
        table = self._buffer("table", distances, heads, width).permute(1, 2, 0)
        self._add((batch * heads, num_rows), keys.mT)
        self._add((heads, batch * num_rows), table)
        self._add((batch * heads, num_rows), self._buffer("values", *keys.shape))
        self._add(rows, attention.o.flatten(1).T)
        self._add(rows, ff.layer_1.weight.T)
        self._add(rows, ff.layer_2.weight.T)

    @torch.no_grad()
    def _add(self, rows: tuple[int, ...], right: Tensor, *, left_has_gradient: bool = True) -> None:
        """Rows (..., N, I) times `right` (..., I, O), and the products of its backward pass."""
        right = right.detach().to(self._like.dtype)
        inner, outer = right.shape[-2:]
        left = self._buffer("left", *rows, inner)
        out = self._buffer("out", *rows, outer)
        self._products.append((left, right, out))
        if left_has_gradient:
            self._products.append((out, right.mT, self._buffer("grad_left", *left.shape)))
        self._products.append((left.mT, out, self._buffer("grad_right", *right.shape)))

    def _buffer(self, role: str, *shape: int) -> Tensor:
        """Memory for what the weights are multiplied with, or for a result."""
        key = role, shape
        if key not in self._buffers:
            self._buffers[key] = self._like.new_full(shape, 0.01)
        return self._buffers[key]
