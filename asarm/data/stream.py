"""Endless data: one training process's blocks, round and round from its readers.

Shapes: N blocks, L length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from asarm.data.blocks import Batch, HeldOut, batch_of
from asarm.data.columns import text_column
from asarm.data.config import DataConfig
from asarm.data.finite import tokenizer_key
from asarm.data.held_out import is_held_out
from asarm.data.packing import Packer, no_counts, token_dtype, usable
from asarm.data.reader import ReaderTask, records
from asarm.data.workers import InlineWorker, ProcessWorker, Worker
from asarm.text import encode_documents

HELD_OUT_READ = 20_000  # documents looked at for held-out ones, at most


class StreamBlocks:
    """Gives the blocks of one training process: one from each of its readers, over and over.

    Every document of an epoch comes to exactly one reader of one process. A reader whose documents
    end begins again, whatever the others do.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        process_index: int,
        num_processes: int,
    ):
        self.process_index = process_index
        readers = max(1, config.workers)
        self.identity = {
            "num_processes": num_processes,
            "workers": readers,
            "process_index": process_index,
            "data": _data_key(config, tokenizer, seed),
        }
        self.dataset_name = config.dataset
        self.served = 0
        self.held_out = collect_held_out(dataset, config, tokenizer)
        tasks = [
            ReaderTask(config, seed, process_index * readers + i, num_processes * readers)
            for i in range(readers)
        ]
        self.supplies = [Supply(dataset, tokenizer, task) for task in tasks]

    @property
    def statistics(self) -> dict[str, int]:
        """Return counts of what this process's readers have read, the windows at hand included."""
        total = no_counts() | {"held_out": 0}
        for supply in self.supplies:
            for name, count in (supply.place or {"counts": {}})["counts"].items():
                total[name] += count
        return total

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """Return this process's next len(indices) blocks; all of them, or none where that fails."""
        live = self._live()
        sources = [live[(self.served + i) % len(live)] for i in range(len(indices))]
        for supply in live:
            supply.hold(sources.count(supply))
        blocks = np.stack([supply.take() for supply in sources])
        names = [
            f"process {self.process_index} block {self.served + i}" for i in range(len(blocks))
        ]
        self.served += len(blocks)
        return batch_of(blocks, names)

    def state_dict(self) -> dict[str, Any]:
        """Return the exact place; it holds the blocks that were read and not yet given."""
        supplies = [supply.state_dict() for supply in self.supplies]
        return {**self.identity, "served": self.served, "supplies": supplies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError where data, processes or workers are others."""
        for name, here in self.identity.items():
            if state.get(name) != here:
                raise ValueError(
                    f"the stream was read with {name} {state.get(name)}, and now {name} is {here}; "
                    "a stream goes on only as it began: put it back or start a new run"
                )
        self.served = state["served"]
        for supply, there in zip(self.supplies, state["supplies"], strict=True):
            supply.load_state_dict(there)

    def close(self) -> None:
        """End the reading processes."""
        for supply in self.supplies:
            supply.close()

    def _live(self) -> list[Supply]:
        """Return the readers that have documents; the first call waits until all know that."""
        for supply in self.supplies:
            supply.start()
        for supply in self.supplies:
            if not supply.empty:
                supply.hold(1)
        live = [supply for supply in self.supplies if not supply.empty]
        if not live:
            counts = ", ".join(f"{name} {count}" for name, count in self.statistics.items())
            raise ValueError(
                f"the stream {self.dataset_name} has no usable document for process "
                f"{self.process_index} ({counts}); check the data, or use fewer processes and "
                "workers"
            )
        return live


class Supply:
    """One reader's blocks that are at hand, and the place after them."""

    def __init__(
        self, dataset: IterableDataset, tokenizer: PreTrainedTokenizerBase, task: ReaderTask
    ):
        self.arguments = (dataset, tokenizer, task)
        self.kind = ProcessWorker if task.config.workers else InlineWorker
        self.worker: Worker | None = None
        self.blocks = np.empty((0, task.config.length), np.int32)
        self.place: dict[str, Any] | None = None
        self.empty = False  # the reader has no document at all

    def start(self) -> None:
        """Let it read ahead, unless it does."""
        if self.worker is None and not self.empty:
            self.worker = self.kind(*self.arguments, self.place)

    def hold(self, count: int) -> None:
        """Wait until so many blocks are at hand, or the reader proves to be empty."""
        while not self.empty and len(self.blocks) < count:
            self.start()
            try:
                window = self.worker.receive()  # type: ignore[union-attr]
            except BaseException:
                self.close()  # another try starts a new one, from the same place
                raise
            if window is None:
                self.close()
                if self.place is not None:
                    raise ValueError("the stream held documents before, and now it holds none")
                self.empty = True
            else:
                self.blocks = np.concatenate([self.blocks, window.blocks])
                self.place = window.place

    def take(self) -> np.ndarray:
        """Take the next block (L,)."""
        block, self.blocks = self.blocks[0], self.blocks[1:]
        return block

    def state_dict(self) -> dict[str, Any]:
        place = self.place and self.place | {"rest": torch.from_numpy(self.place["rest"])}
        return {"blocks": torch.tensor(self.blocks), "place": place, "empty": self.empty}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        place = state["place"]
        self.place = place and place | {"rest": place["rest"].numpy()}
        self.blocks, self.empty = state["blocks"].numpy(), state["empty"]

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def collect_held_out(
    dataset: IterableDataset, config: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> HeldOut:
    """Collect blocks of the first documents of the stream that no reader trains on.

    They are the same in every process. ValueError where they do not fill one block.
    """
    stream = text_column(dataset, config.dataset_column, config.dataset)
    packer, counts = Packer(config.length, token_dtype(len(tokenizer))), no_counts()
    row = 0
    for row, (document, _) in enumerate(records(stream, stream.state_dict(), config), start=1):
        if is_held_out(document) and (data := usable(document, counts)):
            encoded = encode_documents(
                tokenizer, [data.decode()], whitespace_map=config.whitespace_map
            )
            counts["tokens"] += packer.add(encoded)
        if packer.whole >= config.eval_sequences or row >= HELD_OUT_READ:
            break
    blocks = packer.take(config.eval_sequences)
    if not len(blocks):
        raise ValueError(
            f"the {counts['documents']} documents held out of the first {row} of {config.dataset} "
            f"have {counts['tokens']} tokens, less than one block of {config.length}; fetch it "
            "and name the local file or folder"
        )
    names = [f"held-out block {i}" for i in range(len(blocks))]
    return HeldOut(batch_of(blocks, names), counts["bytes"] / counts["tokens"])


def _data_key(config: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> str:
    """Return what distinguishes streams whose blocks differ."""
    names = (
        "dataset",
        "dataset_config",
        "dataset_data_dir",
        "dataset_split",
        "dataset_column",
        "whitespace_map",
        "length",
        "max_document_bytes",
        "shuffle_blocks",
    )
    settings = {name: getattr(config, name) for name in names}
    if config.txt_documents != "paragraph":  # as all streams were read before it was a setting
        settings["txt_documents"] = config.txt_documents
    key = json.dumps([settings, seed, tokenizer_key(tokenizer)])
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
