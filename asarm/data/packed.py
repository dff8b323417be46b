"""Finite data: packed once into a file of blocks, then read in a new order every epoch.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asarm.data.blocks import Batch, HeldOut, batch_of
from asarm.data.contents import changes
from asarm.data.held_out import HeldOutText
from asarm.schedule import keyed_generator

BLOCKS, HELD_OUT = "blocks.npy", "held_out.npy"
FACTS = "facts.json"  # statistics, how many tokens the last block has, what was packed


class Packed(NamedTuple):
    """What a packed folder holds.

    blocks: (N, L), which stay on disk.
    statistics: counts of what was packed.
    last_length: how many tokens the last block has.
    made_of: settings, and digests of files; empty for "python" packed by an earlier version.
    held_out: blocks of documents that are in none of the others; None where there are none.
    """

    blocks: np.ndarray
    statistics: dict[str, int]
    last_length: int
    made_of: dict[str, Any]
    held_out: HeldOut | None


class PackedBlocks:
    """Gives the blocks of a packed folder: a permutation an epoch, and a counter.

    Which block comes when depends on the seed and the size of the global batch only, so the
    number of processes may change from one start to the next.

    Args:
        folder: the folder of the packed data; its name is the fingerprint of all that made them.
        seed: the seed of the permutations.
        global_batch_size: blocks that all processes together take at a time.
        held_out: blocks from elsewhere; if None those of the folder, and if it has none (of few
            long documents none can be held out) blocks evenly spread over all.
        eval_sequences: how many are taken so, at most a twentieth.
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
        packed = read_blocks(folder)
        self.blocks, self.statistics, self.last_length = packed[:3]
        self.made_of = packed.made_of
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.consumed = 0
        count = len(self.blocks)
        held_out = held_out or packed.held_out
        spread = 0 if held_out else max(1, min(eval_sequences, count // 20))
        reserved = [(2 * i + 1) * count // (2 * spread) for i in range(spread)]
        self.size = count - spread
        if self.size < 1:
            raise ValueError(
                f"the data fill {count} block of {self.blocks.shape[1]} tokens, and one is held "
                "out: give more text or a smaller length"
            )
        self.rows = np.delete(np.arange(count), reserved) if reserved else range(count)
        self.held_out = held_out or HeldOut(
            self._batch(reserved, [f"held-out block {row}" for row in reserved]),
            self.statistics["bytes"] / self.statistics["tokens"],
        )

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """Return those blocks of the next global batch, and move on by one global batch."""
        places = [divmod(self.consumed + i, self.size) for i in indices]
        order = [int(epoch_order(self.seed, epoch, self.size)[place]) for epoch, place in places]
        rows = [int(self.rows[place]) for place in order]
        names = [f"epoch {epoch} block {row}" for (epoch, _), row in zip(places, rows, strict=True)]
        batch = self._batch(rows, names)
        self.consumed += self.global_batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return how many blocks were taken, and of which data."""
        return {
            "data": self.fingerprint,
            "size": self.size,
            "consumed": self.consumed,
            "made_of": self.made_of,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError where the data are others, which says what changed."""
        if (state.get("data"), state.get("size")) != (self.fingerprint, self.size):
            raise ValueError(
                f"the run was trained on packed data {state.get('data')} with {state.get('size')} "
                f"blocks, and these are {self.fingerprint} with {self.size}: "
                f"{self._what_changed(state.get('made_of'))}; put it back or start a new run"
            )
        self.consumed = state["consumed"]

    def _what_changed(self, before: dict[str, Any] | None) -> str:
        if before:
            return changes(before, self.made_of)
        if "files" in self.made_of:
            return "it was begun by a version that held out other blocks"
        return "the text, the tokenizer or a setting of the data changed"

    def close(self) -> None:
        """Do nothing, for nothing runs."""

    def _batch(self, rows: Sequence[int], names: list[str]) -> Batch:
        last, length = len(self.blocks) - 1, self.blocks.shape[1]
        lengths = [self.last_length if row == last else length for row in rows]
        return batch_of(self.blocks[list(rows)], names, lengths)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    """Draw the order of an epoch's blocks, (size,)."""
    return torch.randperm(size, generator=keyed_generator("epoch", seed, epoch, size))


def write_blocks(path: Path, groups: Iterable[np.ndarray], length: int) -> int:
    """Write groups of blocks (N, length) as one .npy file; return how many blocks that are."""
    count = 0
    with path.open("wb") as file:
        for group in groups:
            if not file.tell():
                _write_header(file, group.dtype, 0, length)
            count += len(group)
            file.write(np.ascontiguousarray(group).data)  # its `tofile` says less of a full disk
        if count:
            file.seek(0)  # numpy leaves room in the header for the number to grow
            _write_header(file, group.dtype, count, length)
        file.flush()
        os.fsync(file.fileno())
    return count


def write_facts(
    folder: Path,
    statistics: dict[str, int],
    last_length: int,
    held_out: HeldOutText | None,
    made_of: dict[str, Any],
    dataset: str,
) -> None:
    """Write what `read_blocks` gives besides the blocks; with it the folder is whole."""
    if held_out is not None:
        write_blocks(folder / HELD_OUT, [held_out.blocks], held_out.blocks.shape[1])
    facts = {
        "statistics": statistics,
        "last_length": last_length,
        "held_out_bytes_per_token": held_out and held_out.bytes_per_token,
        "dataset": dataset,
        "made_of": made_of,
    }
    with (folder / FACTS).open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_blocks(folder: Path) -> Packed:
    """Read what was packed into the folder; ValueError where it is damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        blocks = np.load(folder / BLOCKS, mmap_mode="r")
        bytes_per_token = facts.get("held_out_bytes_per_token")
        rows = np.load(folder / HELD_OUT) if bytes_per_token else None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the packed data in {folder} are damaged ({error}); remove it") from None
    held_out = None
    if rows is not None:
        names = [f"held-out block {i}" for i in range(len(rows))]
        held_out = HeldOut(batch_of(rows, names), bytes_per_token)
    made_of = facts.get("made_of", {})
    return Packed(blocks, facts["statistics"], facts["last_length"], made_of, held_out)


def _write_header(file: Any, dtype: np.dtype, count: int, length: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, length),
    }
    np.lib.format.write_array_header_1_0(file, header)
