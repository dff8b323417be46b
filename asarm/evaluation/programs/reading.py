"""JSON lines of a data file, plain or gzipped; errors name the row in one line."""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number, from 1, and some fields of each row of a file; blank rows are skipped.

    Raises:
        ValueError: the file cannot be read or breaks off, or a row is not UTF-8, not a JSON object,
            or lacks a field; the message names file and row.
    """
    row = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for row, line in enumerate(file, start=1):
                line = line if row > 1 else line.removeprefix(BOM_UTF8)
                if line.strip():
                    yield row, _fields(_record(line, f"{path}, row {row}"), fields, path, row)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = str(error).rstrip(".").lower()
        raise ValueError(f"{path} is damaged after row {row} ({reason}): get it anew") from None
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): name an existing file") from None


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at offset {error.start}"
        raise ValueError(f"{where} is not UTF-8: {byte}; get the file anew") from None
    except ValueError:
        raise ValueError(f"{where} is not JSON; expected an object a line") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise ValueError(f"{where} is a JSON {kind}; expected an object")
    return record


def _fields(record: dict[str, Any], fields: Sequence[str], path: Path, row: int) -> dict[str, str]:
    found = {name: record.get(name) for name in fields}
    for name, value in found.items():
        if not isinstance(value, str):
            what = f"is {value!r:.40}" if name in record else "is missing"
            raise ValueError(
                f"{path}, row {row}: {name} {what}; expected text in each of {', '.join(fields)}"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start].encode("unicode-escape").decode()
            raise ValueError(
                f"{path}, row {row}: {name} has {half} at character {error.start}, half of a "
                "surrogate pair; expected text: write both halves, or none"
            ) from None
    return {name: str(value) for name, value in found.items()}
