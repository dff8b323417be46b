"""Documents become tokens, and tokens blocks.

Shapes: N blocks, L length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

COUNTED = (
    "documents",
    "bytes",
    "tokens",
    "blocks",
    "skipped_empty",
    "skipped_binary",
    "skipped_not_utf8",
    "split",
)
BULK_BYTES = 1 << 20  # that much text is tokenized in one call


def pack(documents: Iterable[Sequence[int]], length: int) -> Tensor:
    """Pack documents, one after another, into blocks (N, length) of int64.

    The incomplete last block is dropped. ValueError where there is not one whole block.
    """
    stream = torch.tensor(list(chain.from_iterable(documents)), dtype=torch.int64)
    if len(stream) < length:
        raise ValueError(
            f"the text has {len(stream)} tokens, less than one block of {length}: "
            f"give a longer text or a smaller length"
        )
    return stream[: len(stream) // length * length].view(-1, length)


def no_counts() -> dict[str, int]:
    """Return the statistics of no document."""
    return dict.fromkeys(COUNTED, 0)


def usable(document: bytes | str, counts: dict[str, int]) -> bytes:
    """Return the document as UTF-8; nothing where it is empty, binary (holds NUL) or not UTF-8.

    Its counts say which of these it is.
    """
    try:
        # a JSON escape can be half a character, which no UTF-8 can say
        data = document.encode("utf-8") if isinstance(document, str) else document
        if b"\0" in data:
            counts["skipped_binary"] += 1
            return b""
        blank = not data.decode("utf-8").strip()
    except UnicodeError:
        counts["skipped_not_utf8"] += 1
        return b""
    if blank:
        counts["skipped_empty"] += 1
        return b""
    counts["documents"] += 1
    counts["bytes"] += len(data)
    return data


def parts_of(data: bytes, limit: int, counts: dict[str, int]) -> list[str]:
    """Split UTF-8 into parts of at most `limit` bytes (4 or more), at line ends if there are
    any."""
    parts, start = [], 0
    while len(data) - start > limit:
        end = data.rfind(b"\n", start, start + limit) + 1
        if end <= start:
            end = start + limit
            while data[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        parts.append(data[start:end].decode("utf-8"))
        start = end
    counts["split"] += start > 0
    return [*parts, data[start:].decode("utf-8")]


def bulks(texts: Iterable[str], size: int = BULK_BYTES) -> Iterator[list[str]]:
    """Group the texts into lists of about `size` characters."""
    bulk: list[str] = []
    held = 0
    for text in texts:
        bulk.append(text)
        held += len(text)
        if held >= size:
            yield bulk
            bulk, held = [], 0
    if bulk:
        yield bulk


def token_dtype(vocabulary: int) -> type[np.unsignedinteger]:
    """Return the smallest type that holds every id."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


class Packer:
    """Cuts a stream of documents into blocks; keeps what does not fill one."""

    def __init__(self, length: int, dtype: type[np.unsignedinteger]):
        self.length = length
        self.rest = np.empty(0, dtype)  # tokens that are in no block yet

    def add(self, documents: Iterable[Sequence[int] | np.ndarray]) -> int:
        """Take documents; return how many tokens they have."""
        new = [np.asarray(ids, self.rest.dtype) for ids in documents]
        before = len(self.rest)
        self.rest = np.concatenate([self.rest, *new])
        return len(self.rest) - before

    @property
    def whole(self) -> int:
        """How many whole blocks there are."""
        return len(self.rest) // self.length

    def take(self, max_blocks: int | None = None) -> np.ndarray:
        """Take the first whole blocks (N, L), at most so many, all if None."""
        count = self.whole if max_blocks is None else min(max_blocks, self.whole)
        taken, self.rest = np.split(self.rest, [count * self.length])
        return taken.reshape(count, self.length)
