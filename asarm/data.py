"""Text files and tokenised documents as blocks of equal length."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, line ends as they are.

    ValueError names the file and the fix where it cannot be read, is empty, or is not UTF-8.
    """
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise ValueError(
            f"cannot read {path} ({error.strerror}): name an existing text file"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; "
            f"convert it, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    if not text.strip():
        raise ValueError(f"{path} is empty ({len(content)} bytes): name a file that holds text")
    return text


def pack(documents: Iterable[Sequence[int]], length: int) -> Tensor:
    """Blocks (N, length) of int64: the documents one after another, cut every `length` tokens.

    The incomplete last block is dropped. ValueError where there is not one whole block.
    """
    stream = torch.tensor(list(chain.from_iterable(documents)), dtype=torch.int64)
    if len(stream) < length:
        raise ValueError(
            f"the text has {len(stream)} tokens, less than one block of {length}: "
            f"give a longer text or a smaller length"
        )
    return stream[: len(stream) // length * length].view(-1, length)
