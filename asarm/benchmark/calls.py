"""Network calls: the first few of a decoding, their shapes, and their matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from asarm.backbones.cache import KeyValueCache
from asarm.backbones.xlnet import AnySubsetTransformer, Layer
from asarm.benchmark.measured import PAPER_K
from asarm.kernels.products import linear
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import ASSD, Sampler
from asarm.sampling.api import prepare
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.rounds import Decoding

PAPERS_SAMPLER = ASSD(k=PAPER_K, drafter="self", verifier="rejection")


def first_rounds(
    model: Backbone, input_ids: Tensor, order: Order, sampler: Sampler, *, num_rounds: int
) -> int:
    """Make the network calls of the first rounds; return their number."""
    order = order.to(input_ids.device)
    net, state = prepare(model, input_ids, order, sampler, numbered(input_ids))
    return int(Decoding(sampler, net, state, max_rounds=num_rounds).run().nfe.max())


def numbered(input_ids: Tensor) -> HashedRandomness:
    """Make the randomness of a batch whose sequences have the seeds 0, 1, ..."""
    return HashedRandomness(torch.arange(len(input_ids), device=input_ids.device))


@dataclass
class CallShape:
    """The rows that one call of batch 1 has."""

    content: int
    query: int
    slots: int  # content that the rows see
    logits: int = 0  # rows whose logits were computed


@contextmanager
def recorded_calls(model: AnySubsetTransformer) -> Iterator[list[CallShape]]:
    """Record the shape of every call that is made inside."""
    calls: list[CallShape] = []

    def note_call(module, arguments) -> None:
        content, query, *_ = arguments
        slots = int(torch.cat([content.limits, query.limits], dim=1).max())
        calls.append(CallShape(content.tokens.shape[1], query.positions.shape[1], slots))

    def noted_logits(hidden: Tensor) -> Tensor:
        calls[-1].logits += hidden.shape[:-1].numel()
        return type(model).logits(model, hidden)

    hook = model.register_forward_pre_hook(note_call)
    model.logits = noted_logits  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        hook.remove()
        del model.logits


class MatrixProducts:
    """Does the matrix products of one call and nothing else: they bound its time from below.

    Weights, cache and distance tables are the model's own, and as far away in memory; what is
    multiplied with them, and where results go, is allocated beforehand.
    """

    def __init__(self, model: AnySubsetTransformer, cache: KeyValueCache, shape: CallShape):
        self._like = model.lm_loss.weight
        self._products: list[Callable[[], Tensor]] = []
        rows = shape.content + shape.query
        layers = cast(list[Layer], list(model.transformer.layer))
        for index, layer in enumerate(layers):
            attention, ff = layer.rel_attn, layer.ff
            self._add_weight(shape.content, attention.k, transposed=True)
            self._add_weight(shape.content, attention.v, transposed=True)
            if index == len(layers) - 1:
                rows = shape.query
            self._add_weight(rows, attention.q, transposed=True)
            keys, values = cache.read(index, shape.slots)  # (1, H, S, D)
            self._add(rows, keys[0].transpose(1, 2))
            self._add(rows, cache.tables[index])
            self._add(rows, values[0])
            self._add_weight(rows, attention.o)
            self._add_weight(rows, ff.layer_1.weight)
            self._add_weight(rows, ff.layer_2.weight)
        self._add_weight(shape.logits, model.lm_loss.weight)

    @torch.no_grad()
    def _add(self, rows: int, right: Tensor) -> None:
        """Add a product of `rows` rows with `right` (..., I, O)."""
        left = self._like.new_ones(*right.shape[:-2], rows, right.shape[-2])
        self._products.append(partial(torch.matmul, left, right, out=left @ right))

    def _add_weight(self, rows: int, weight: Tensor, *, transposed: bool = False) -> None:
        """Add a product with a weight, as the network multiplies: by its packed copy, if any."""
        num_inputs = weight.shape[0] if transposed else weight.shape[1:].numel()
        left = self._like.new_ones(rows, num_inputs)
        self._products.append(partial(linear, left, weight, transposed=transposed))

    @torch.no_grad()
    def __call__(self) -> None:
        for multiply in self._products:
            multiply()
