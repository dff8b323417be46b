"""Densities on held-out text, in bits per byte.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from asarm.corpus import KINDS, Document, Kind, held_out_documents, training_documents
from asarm.data import pack
from asarm.density import log_prob
from asarm.inputs import check_tokenizer
from asarm.loading import load
from asarm.metrics.compression import order2_bits_per_byte, xz_bits_per_byte
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
    """Measure the exact joint density of targets in packed blocks, in bits per byte."""
    check_tokenizer(model, tokenizer)
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


def held_out_figures(folder: Path) -> dict[str, dict[Kind, float]]:
    """Measure bits per byte of a model under each protocol, and of the byte-level baselines."""
    model, tokenizer = load(folder)
    texts = {kind: "".join(d.text for d in held_out_documents(kind)) for kind in KINDS}
    training = "".join(document.text for document in training_documents())
    figures = {
        name: {
            kind: bits_per_byte(model, tokenizer, held_out_documents(kind), protocol)
            for kind in KINDS
        }
        for name, protocol in PROTOCOLS.items()
    }
    figures["`xz -9`"] = {kind: xz_bits_per_byte(text) for kind, text in texts.items()}
    figures["order-2 byte model"] = {
        kind: order2_bits_per_byte(training, text) for kind, text in texts.items()
    }
    return figures


def markdown_table(figures: dict[str, dict[Kind, float]]) -> str:
    """Make a table of the figures: a row each, and a column for each kind of text."""
    lines = [f"| | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {' | '.join(f'{row[kind]:.2f}' for kind in KINDS)} |")
    return "\n".join(lines)
