"""Files of evaluation data: where they are, and their lines; errors name file and line."""

from __future__ import annotations

import bz2
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = "eval_datasets"
INSTALLED = {"site-packages", "dist-packages"}  # folders that users put no data into
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONG, MANY = 60, 12  # characters of a column's name and columns that a message shows
UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def find(file: str, checkout: Path) -> Path | None:
    """Return a file in the folder of the checkout or of the current directory, if it is there."""
    paths = (folder / FOLDER / file for folder in (checkout, Path()))
    return next((path for path in paths if path.is_file()), None)


def place(checkout: Path) -> Path:
    """Return the folder that users put data into: of the checkout, or of the current directory."""
    home = checkout if INSTALLED.isdisjoint(checkout.parts) else Path.cwd()
    return home / FOLDER


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file (.gz, .bz2 or plain), without blank ones at its end.

    Raises:
        ValueError: the file cannot be read, is cut off, is not UTF-8, or holds nothing; the message
            names the file, and the line where there is one.
    """
    content = _unpacked(path).removeprefix(BYTE_ORDER_MARK)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} line {line} is not UTF-8: byte 0x{content[error.start]:02x}; convert the "
            "file, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty ({len(content)} bytes): get it again")
    return lines


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): name an existing file") from None
    unpack = UNPACK.get(path.suffix, bytes)
    try:
        return unpack(content)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        kind = path.suffix.removeprefix(".")
        raise ValueError(
            f"{path} is cut off or damaged ({error}), not a whole {kind} file: get it again"
        ) from None


def json_records(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the object of each line that is not blank, with the file and the line as words."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{where} is not JSON ({error}); repair it or get the file again"
            ) from None
        if not isinstance(record, dict):
            raise ValueError(f"{where} is {type(record).__name__}; expected a JSON object")
        yield where, record


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield those fields of each record of a file of JSON lines, with file and line as words.

    Raises:
        ValueError: as `read_lines`; or a line is not an object, or a field is not text.
    """
    for where, record in json_records(path, read_lines(path)):
        for name in fields:
            value = record.get(name)
            if not isinstance(value, str):
                what = f"is {value!r:.40}" if name in record else "is missing"
                expected = f"expected text in each of {', '.join(fields)}"
                raise ValueError(f"{where}: {name} {what}; {expected}")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = value[error.start].encode("unicode-escape").decode()
                raise ValueError(
                    f"{where}: {name} has {half} at character {error.start}, half of a surrogate "
                    "pair; expected text: write both halves, or none"
                ) from None
        yield where, {name: record[name] for name in fields}


def require_columns(where: str, given: Iterable[str], expected: Sequence[str]) -> None:
    """Refuse a file or record that lacks a column."""
    columns = list(given)
    missing = [name for name in expected if name not in columns]
    if missing:
        shown = ", ".join(column[:LONG] for column in columns[:MANY])
        more = f" and {len(columns) - MANY} more" if len(columns) > MANY else ""
        raise ValueError(f"{where} has no column {missing[0]}, only: {shown}{more}")


def text_at(where: str, record: dict[str, Any], column: str) -> str:
    """Return the text of a column, stripped, which must not be empty."""
    value = record.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} has {value!r} in {column}; expected a text that is not empty")
    return value.strip()
