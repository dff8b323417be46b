"""One reader of an endless stream: documents in, shuffled windows of blocks out, resumable.

Shapes: N blocks, L length.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from asarm.data.columns import text_column
from asarm.data.config import DataConfig
from asarm.data.held_out import is_held_out
from asarm.data.hub import is_url, replaces_bytes
from asarm.data.packing import BULK_BYTES, Packer, no_counts, parts_of, token_dtype, usable
from asarm.data.retry import Patience
from asarm.data.text_files import text_of
from asarm.schedule import keyed_generator
from asarm.text import encode_documents

BULK_DOCUMENTS = 1024  # at most so many records are tokenized in one call

REPLACEMENT = "\ufffd".encode()


class Window(NamedTuple):
    """Blocks (N, L) in the order in which they are to be trained on, and the place after them.

    Arrays, since tensors would go through shared memory from one process to another.
    """

    blocks: np.ndarray  # int32
    place: dict[str, Any]


@dataclass(frozen=True)
class ReaderTask:
    """What one of all readers, of all processes together, is to do."""

    config: DataConfig
    seed: int
    reader: int
    num_readers: int


class WindowReader:
    """Reads its part of a stream for ever.

    A place is the stream's own state after the last document that was tokenized, the tokens that
    are in no block yet, and the counters. Nothing that was tokenized is so again on resume.

    Args:
        dataset: the whole stream; every reader takes its part.
        tokenizer: the tokenizer of the blocks.
        task: the part of the data, and how windows are made of it.
        place: the place to go on from; None for the beginning.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        task: ReaderTask,
        place: dict[str, Any] | None,
    ):
        self.task, self.config, self.tokenizer = task, task.config, tokenizer
        part = part_of_reader(dataset, task.reader, task.num_readers)
        self.dataset = text_column(part.dataset, self.config.dataset_column, self.config.dataset)
        self.replaces_bytes = replaces_bytes(self.config.dataset)
        self.step, self.offset = part.step, part.offset
        self.start = self.dataset.state_dict()
        self.packer = Packer(self.config.length, token_dtype(len(tokenizer)))
        self.stream: dict[str, Any] = self.start
        self.row = 0  # records of this epoch already passed, other readers' too
        self.epoch_tokens = 0  # of this epoch
        self.window = 0
        self.counts = no_counts() | {"held_out": 0}
        if place is not None:
            self._go_to(place)

    def windows(self) -> Iterator[Window]:
        """Yield windows without end; none where the reader's part holds no usable document."""
        size = self.config.shuffle_blocks
        while True:
            while self.packer.whole >= size:  # before reading on: that is how a window may end
                yield self._emit(size)
            for encoded in self._encoded():
                self.epoch_tokens += self._pack(encoded)
                while self.packer.whole >= size:
                    yield self._emit(size)
            if not self.epoch_tokens:
                return
            self.stream, self.row, self.epoch_tokens = self.start, 0, 0
            if self.packer.whole:
                yield self._emit(size)

    def _pack(self, encoded: list[list[int]]) -> int:
        tokens = self.packer.add(encoded)
        self.counts["tokens"] += tokens
        return tokens

    def _emit(self, size: int) -> Window:
        blocks = self.packer.take(size).astype(np.int32)
        self.counts["blocks"] += len(blocks)
        generator = keyed_generator("window", self.task.seed, self.task.reader, self.window)
        order = torch.randperm(len(blocks), generator=generator)
        self.window += 1
        return Window(blocks[order.numpy()], self._place())

    def _place(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "row": self.row,
            "epoch_tokens": self.epoch_tokens,
            "window": self.window,
            "rest": self.packer.rest.astype(np.int32),
            "counts": dict(self.counts),
        }

    def _go_to(self, place: dict[str, Any]) -> None:
        self.stream, self.row = place["stream"], place["row"]
        self.epoch_tokens, self.window = place["epoch_tokens"], place["window"]
        self.packer.rest = place["rest"].astype(self.packer.rest.dtype)
        self.counts = dict(place["counts"])

    def _encoded(self) -> Iterator[list[list[int]]]:
        """Yield the ids of many documents at a time, once `stream` and `row` are after them."""
        parts: list[str] = []
        held = taken = 0
        stream, row = self.stream, self.row
        for document, stream in records(self.dataset, self.stream, self.config):
            mine = row % self.step == self.offset
            row += 1
            if mine:
                new = self._parts(document)
                parts += new
                held += sum(map(len, new))
                taken += 1
            if held >= BULK_BYTES or taken >= BULK_DOCUMENTS:
                self.stream, self.row = stream, row
                yield self._encode(parts)
                parts, held, taken = [], 0, 0
        self.stream, self.row = stream, row
        yield self._encode(parts)

    def _encode(self, parts: list[str]) -> list[list[int]]:
        return encode_documents(self.tokenizer, parts, whitespace_map=self.config.whitespace_map)

    def _parts(self, document: bytes) -> list[str]:
        if is_held_out(document):
            self.counts["held_out"] += 1
            return []
        if self.replaces_bytes and REPLACEMENT in document:
            self.counts["skipped_not_utf8"] += 1
            return []
        data = usable(document, self.counts)
        return parts_of(data, self.config.max_document_bytes, self.counts) if data else []


class ReaderPart(NamedTuple):
    """Some files of a stream, and which of their records to read: each `step`-th from `offset`."""

    dataset: IterableDataset
    step: int
    offset: int


def part_of_reader(dataset: IterableDataset, reader: int, num_readers: int) -> ReaderPart:
    """Return the reader's part: every record is in exactly one reader's.

    Files go round the readers. Where they are too few, so do the row groups of parquet; where
    these are too few, several readers take turns in the records of the same file.
    """
    if dataset.num_shards < num_readers:
        dataset = dataset.reshard()
    shards = dataset.num_shards
    if shards >= num_readers:
        return ReaderPart(dataset.shard(num_readers, reader, contiguous=False), 1, 0)
    shard = reader % shards
    sharing = len(range(shard, num_readers, shards))
    return ReaderPart(dataset.shard(shards, shard), sharing, reader // shards)


def records(
    dataset: IterableDataset, state: dict[str, Any], config: DataConfig
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the stream's texts from a state on, each with the state after it.

    Trouble with the network is waited for; DataUnavailable after several tries without a record.
    """
    patience = Patience(config.dataset)
    while True:
        dataset.load_state_dict(state)
        try:
            for record in dataset:
                state = dataset.state_dict()
                patience.succeeded()
                yield _text(record, config), state
            return
        except Exception as error:
            patience.wait(error)


def _text(record: dict[str, Any], config: DataConfig) -> bytes:
    text = record.get(config.dataset_column)
    if not isinstance(text, bytes):  # the columns were not known when the stream was opened
        text = text_of(record, config.dataset_column, config.dataset)
        text = text.encode("utf-8", "surrogatepass")
    # of a .txt at an address, `datasets` takes its byte order mark for text
    return text.removeprefix(BOM_UTF8) if is_url(config.dataset) else text
