"""What the training loop sees of its data.

Shapes: B blocks, L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Blocks of token ids that are trained on together.

    input_ids: (B, L) int64, the tokenizer's padding after a block's own tokens.
    lengths: (B,) int64, how many tokens are not padding.
    names: which block each is, for messages: "epoch 0 block 17", "process 1 block 400".
    """

    input_ids: Tensor
    lengths: Tensor
    names: list[str]


class HeldOut(NamedTuple):
    """Blocks that are never trained on, and what turns bits per token into bits per byte."""

    blocks: Batch
    bytes_per_token: float


class BlockSource(Protocol):
    """Supplies one of the training processes with blocks, without end."""

    held_out: HeldOut

    @property
    def statistics(self) -> dict[str, int]:
        """Return counts of documents, bytes, tokens, blocks and what was skipped, if known."""

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """Return those blocks of the next global batch, and move on by one global batch.

        A stream gives its own next len(indices) blocks, whichever the indices.

        Raises:
            DataUnavailable: the stream cannot be read, and no block was given; `state_dict` still
                says the exact place.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the exact place, as primitives and tensors only."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place; ValueError where it is one of other data or other processes."""

    def close(self) -> None:
        """End the reading processes."""


def batch_of(blocks: np.ndarray, names: list[str], lengths: Sequence[int] | None = None) -> Batch:
    """Make a batch of blocks (B, L) of any integers; without lengths all tokens count."""
    input_ids = torch.from_numpy(blocks.astype(np.int64))
    if lengths is None:
        lengths = [blocks.shape[1]] * len(blocks)
    return Batch(input_ids, torch.tensor(lengths, dtype=torch.int64), names)
