"""Finite data: packed once into a file of blocks, then read in a new order every epoch.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asarm.data.blocks import Batch, HeldOut, batch_of
from asarm.schedule import keyed_generator

BLOCKS = "blocks.npy"
FACTS = "facts.json"  # statistics, and how many tokens the last block has


class PackedBlocks:
    """The blocks of a folder that `write_blocks` made: a permutation an epoch, and a counter.

    Which block comes when depends on the seed and the size of the global batch only, so the
    number of processes may change from one start to the next.

    Args:
        folder: of the packed data; its name is the fingerprint of all that made them.
        seed: of the permutations.
        global_batch_size: blocks that all processes together take at a time.
        held_out: blocks from elsewhere; None reserves the last ones.
        eval_sequences: how many are reserved, at most a twentieth.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        global_batch_size: int,
        held_out: HeldOut | None,
        eval_sequences: int,
    ):
        self.fingerprint = folder.name
        self.blocks, self.statistics, self.last_length = read_blocks(folder)
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.consumed = 0
        count = len(self.blocks)
        reserved = 0 if held_out else max(1, min(eval_sequences, count // 20))
        self.size = count - reserved
        if self.size < 1:
            raise ValueError(
                f"the data fill {count} block of {self.blocks.shape[1]} tokens, and one is held "
                "out: give more text or a smaller length"
            )
        self.held_out = held_out or HeldOut(
            self._rows(range(self.size, count), [f"held-out block {i}" for i in range(reserved)]),
            self.statistics["bytes"] / self.statistics["tokens"],
        )

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """Those blocks of the next global batch; moves on by one global batch."""
        places = [divmod(self.consumed + i, self.size) for i in indices]
        rows = [int(epoch_order(self.seed, epoch, self.size)[place]) for epoch, place in places]
        names = [f"epoch {epoch} block {row}" for (epoch, _), row in zip(places, rows, strict=True)]
        batch = self._rows(rows, names)
        self.consumed += self.global_batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """How many blocks were taken, and of which data."""
        return {"data": self.fingerprint, "size": self.size, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError where the data are others."""
        here = {"data": self.fingerprint, "size": self.size}
        there = {name: state.get(name) for name in here}
        if here != there:
            raise ValueError(
                f"the run was trained on packed data {there['data']} with {there['size']} blocks, "
                f"and these are {here['data']} with {here['size']}: the text, the tokenizer or a "
                "setting of the data changed; start a new run or put it back"
            )
        self.consumed = state["consumed"]

    def close(self) -> None:
        """Nothing runs."""

    def _rows(self, rows: Sequence[int], names: list[str]) -> Batch:
        last, length = len(self.blocks) - 1, self.blocks.shape[1]
        lengths = [self.last_length if row == last else length for row in rows]
        return batch_of(self.blocks[list(rows)], names, lengths)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    """The order of an epoch's blocks, (size,)."""
    return torch.randperm(size, generator=keyed_generator("epoch", seed, epoch, size))


def write_blocks(folder: Path, groups: Iterable[np.ndarray], length: int) -> int:
    """Write groups of blocks (N, length) as one .npy file; how many blocks that are."""
    count = 0
    with (folder / BLOCKS).open("wb") as file:
        for group in groups:
            if not file.tell():
                _write_header(file, group.dtype, 0, length)
            count += len(group)
            group.tofile(file)
        if count:
            file.seek(0)  # numpy leaves room in the header for the number to grow
            _write_header(file, group.dtype, count, length)
        file.flush()
        os.fsync(file.fileno())
    return count


def write_facts(folder: Path, statistics: dict[str, int], last_length: int) -> None:
    """Write what `read_blocks` gives beside the blocks."""
    text = json.dumps({"statistics": statistics, "last_length": last_length}, indent=2)
    with (folder / FACTS).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_blocks(folder: Path) -> tuple[np.ndarray, dict[str, int], int]:
    """Blocks (N, L) that stay on disk, statistics, and how many tokens the last block has."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        blocks = np.load(folder / BLOCKS, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the packed data in {folder} are damaged ({error}); remove it") from None
    return blocks, facts["statistics"], facts["last_length"]


def _write_header(file: Any, dtype: np.dtype, count: int, length: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, length),
    }
    np.lib.format.write_array_header_1_0(file, header)
