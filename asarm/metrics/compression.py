"""What a model's bits per byte are held against: xz, and a byte model of order 2."""

import lzma

import numpy as np
from numpy.typing import NDArray


def xz_bits_per_byte(text: str) -> float:
    """Measure the bits per byte of `xz -9` on the text alone."""
    data = text.encode()
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def order2_bits_per_byte(training_text: str, text: str, *, strength: float = 16.0) -> float:
    """Measure bits per byte of `text` under the training text's counts of bytes after two others.

    Each order is mixed with the one below, down to the uniform distribution (Dirichlet smoothing,
    MacKay & Peto 1995): p(c | a b) = (count(abc) + strength * p(c | b)) / (count(ab) + strength).
    The first two bytes are not counted.
    """
    probs = np.full(len(text.encode()) - 2, 1 / 256)  # of the byte that each context ends in
    for order in range(3):
        counts = np.bincount(_contexts(training_text, order), minlength=256 ** (order + 1))
        contexts = _contexts(text, order)[2 - order :]
        totals = counts.reshape(-1, 256).sum(1)[contexts // 256]
        probs = (counts[contexts] + strength * probs) / (totals + strength)
    return float(-np.log2(probs).mean())


def _contexts(text: str, order: int) -> NDArray[np.int64]:
    """Return each byte from the `order`-th on, with the `order` bytes before it, as one number."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
    number = np.zeros(len(data) - order, dtype=np.int64)
    for offset in range(order + 1):
        number = number * 256 + data[offset : len(data) - order + offset]
    return number
