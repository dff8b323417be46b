"""Densities on held-out text, in bits per byte.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from asarm.corpus import Document
from asarm.data import pack
from asarm.density import log_prob
from asarm.order import Order
from asarm.rows import Backbone
from asarm.text import encode_document

Protocol = Callable[[int, int], Order]  # (length, seed) -> the order of one block

PROTOCOLS: dict[str, Protocol] = {
    "left to right": lambda length, seed: Order.left_to_right(length, 1),
    "random order, 50% targets": lambda length, seed: Order.random_permutation(
        length, length - round(0.50 * length), seed=seed
    ),
    "random order, 95% targets": lambda length, seed: Order.random_permutation(
        length, length - round(0.95 * length), seed=seed
    ),
    "ascending, 50% targets": lambda length, seed: Order.random_split(length, 0.50, seed=seed),
    "ascending, 95% targets": lambda length, seed: Order.random_split(length, 0.05, seed=seed),
}


def bits_per_byte(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    protocol: Protocol,
    *,
    length: int = 256,
    batch_size: int = 16,
) -> float:
    """Exact joint density of the targets in packed blocks: bits per token x tokens per byte."""
    encoded = [encode_document(tokenizer, document.text) for document in documents]
    num_bytes = sum(len(document.text.encode()) for document in documents)
    blocks = pack(encoded, length)
    bits = num_targets = 0.0
    for start in range(0, len(blocks), batch_size):
        part = blocks[start : start + batch_size]
        orders = [protocol(length, start + index) for index in range(len(part))]
        order = Order(
            torch.cat([o.order for o in orders]), torch.cat([o.num_prompt for o in orders])
        )
        bits -= log_prob(model, part, order).sum().item() / math.log(2)
        num_targets += order.num_targets.sum().item()
    return bits / num_targets * sum(map(len, encoded)) / num_bytes
