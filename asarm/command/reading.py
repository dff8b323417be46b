"""What the commands read: texts, and how long a blank is to be."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LENGTH = re.compile(r"(\d+)(?:-(\d+))?")


def read_texts(texts: Sequence[str], file: str | None, blank: str) -> list[str]:
    """Read the texts of the command line, of a file, or of standard input.

    A file or standard input is one text; a last line end is not part of it.

    Raises:
        ValueError: none of them, two of them, or bytes that are not UTF-8.
    """
    if texts and file is not None:
        raise ValueError(f"both a text and --file {file} are given; give one of them")
    if texts:
        return [without_surrogates(text) for text in texts]
    if file is not None:
        return [_decode(Path(file).read_bytes(), file)]
    if sys.stdin.isatty():
        raise ValueError(
            f'no text is given; write one with {blank} where a blank is, as in "The ship left '
            f'{blank} at dawn.", or give --file'
        )
    return [_decode(sys.stdin.buffer.read(), "standard input")]


def _decode(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 (byte {error.start}); convert it to UTF-8 first"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def without_surrogates(text: str) -> str:
    """Return the text; ValueError where the shell gave bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text is not UTF-8 (character {error.start}); convert it to UTF-8 first"
        ) from None
    return text


def parse_length(given: str) -> Any:
    """Parse the length of a text's blanks, as in "8", "2-8", "auto", "3,auto", for `asarm.infill`.

    Raises:
        ValueError: it is nothing of the kind.
    """
    found = [_parse_one(part.strip(), given) for part in given.split(",")]
    return found[0] if len(found) == 1 else found


def _parse_one(part: str, given: str) -> Any:
    match = LENGTH.fullmatch(part)
    if match is None and part != "auto":
        raise ValueError(
            f"length is {given!r}; expected auto, a number of tokens, a range such as 2-8, or one "
            "of these for each blank, such as 3,auto"
        )
    if match is None:
        return part
    low, high = match.groups()
    return int(low) if high is None else (int(low), int(high))
