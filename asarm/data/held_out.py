"""Which documents are held out: whole ones, by a hash of what they hold."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

HELD_OUT_SHARE = 100  # one document in so many is never trained on
HASHES = 1 << 64
TWENTIETH, TENTH = 20, 10  # parts of finite data: at most evaluated on, at most held out for it
BYTES_PER_TOKEN = 16  # more than text has; so much is looked at to fill the held-out blocks

Encode = Callable[[bytes], list[np.ndarray]]  # a document to the ids of its parts


class HeldOutText(NamedTuple):
    """Documents of finite data that are never trained on.

    limit: documents whose hash is below are held out.
    blocks: (N, L), of those with the lowest hashes.
    bytes_per_token: of the documents that the blocks are made of.
    """

    limit: int
    blocks: np.ndarray
    bytes_per_token: float


def document_hash(document: bytes | str) -> int:
    """Hash a document to a number from 0 to `HASHES`, the same for the same text."""
    if isinstance(document, str):
        document = document.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest())


def is_held_out(document: bytes) -> bool:
    """Return whether the document's hash is in the hundredth that is never trained on."""
    return document_hash(document) < HASHES // HELD_OUT_SHARE


class Lowest:
    """The documents with the lowest hashes, just enough of them to have so many bytes."""

    def __init__(self, documents: Iterable[bytes], num_bytes: int):
        self.total = 0  # bytes of all documents
        self.documents: dict[int, bytes] = {}
        self.copies: Counter[int] = Counter()
        size, heap = 0, list[int]()
        for document in documents:
            self.total += len(document)
            key = document_hash(document)
            if key not in self.documents and (size < num_bytes or key < -heap[0]):
                heappush(heap, -key)
                self.documents[key] = document
                size += len(document)
            if key in self.documents:
                self.copies[key] += 1
            while heap and size - len(self.documents[-heap[0]]) >= num_bytes:
                highest = -heappop(heap)
                size -= len(self.documents.pop(highest))
                del self.copies[highest]


def hold_out(
    documents: Iterable[bytes], encode: Encode, *, length: int, num_blocks: int
) -> HeldOutText | None:
    """Choose the documents to hold out of finite data, as blocks (at most `num_blocks`).

    These are the hundredth that streams hold out too, and the next by their hash where it takes
    them to fill the blocks, of which there are at most one in twenty. None where documents are too
    few, or too long, to be parted so.
    """
    lowest = Lowest(documents, num_blocks * length * BYTES_PER_TOKEN)
    tokens: list[np.ndarray] = []
    limit = num_bytes = num_tokens = with_copies = 0
    wanted = num_blocks
    for key, document in sorted(lowest.documents.items()):
        new = encode(document)
        num_new = sum(map(len, new))
        with_copies += len(document) * lowest.copies[key]
        block = length * (num_bytes + len(document)) / (num_tokens + num_new)  # bytes in a block
        max_bytes = min(max(lowest.total / TENTH, 2 * block), lowest.total - 2 * block)
        if with_copies > max_bytes:  # this document is too much of the data to miss
            limit = key
            break
        tokens += new
        num_bytes, num_tokens = num_bytes + len(document), num_tokens + num_new
        limit = max(key + 1, HASHES // HELD_OUT_SHARE)
        wanted = min(num_blocks, max(1, int(lowest.total / TWENTIETH / block)))
        if num_tokens >= wanted * length:
            break
    count = min(wanted, num_tokens // length)
    if not count:
        return None
    blocks = np.concatenate(tokens)[: count * length].reshape(count, length)
    return HeldOutText(limit, blocks, num_bytes / num_tokens)
