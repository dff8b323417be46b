"""The documents of local files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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


def find_files(dataset: str) -> list[Path]:
    """The file itself, or the .txt, .jsonl and .parquet files in and below the folder, sorted.

    ValueError where there is none.
    """
    path = Path(dataset).expanduser()
    kinds = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(f"dataset is {dataset}; expected a file that ends in {kinds}")
        return [path]
    if not path.is_dir():
        raise ValueError(f"dataset {dataset} does not exist; name a file ({kinds}) or a folder")
    files = sorted(p for p in path.rglob("*") if p.suffix in READERS and p.is_file())
    if not files:
        raise ValueError(f"dataset {dataset} holds no file that ends in {kinds}; name another")
    return files


def read_documents(files: Iterable[Path], column: str) -> Iterator[bytes | str]:
    """The documents of the files, one file after another, not yet looked at.

    Raises:
        ValueError: a file cannot be read, a line of a .jsonl is no JSON, or a record has no text
            in that column; names file, row and the columns there are.
    """
    for path in files:
        try:
            yield from READERS[path.suffix](path, column)
        except OSError as error:
            raise ValueError(f"cannot read {path} ({error}); check the file") from None


def paragraphs(path: Path, column: str) -> Iterator[bytes]:
    """The documents of a .txt: what lies between blank lines."""
    lines: list[bytes] = []
    for line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield b"".join(lines).rstrip(b"\r\n")
            lines = []
    # a file of nothing but blank lines is one empty document, so that it is counted
    yield b"".join(lines).rstrip(b"\r\n")


def json_lines(path: Path, column: str) -> Iterator[bytes | str]:
    """The column's text of each line of a .jsonl; a line that is not UTF-8 comes as it is."""
    for row, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield line
            continue
        except ValueError as error:
            raise ValueError(f"{path} row {row} is no JSON ({error}); repair it") from None
        yield text_of(record, column, f"{path} row {row}")


def text_of(record: Any, column: str, where: str) -> str:
    """The record's text; none where the column holds null."""
    if not isinstance(record, dict) or column not in record:
        columns = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(
            f"{where} has no column {column!r}, only: {columns}; name one as dataset_column"
        )
    text = record[column]
    if not isinstance(text, str | None):
        raise ValueError(
            f"{where} has {type(text).__name__} in column {column!r}; expected a string: "
            "name another as dataset_column"
        )
    return text or ""


def parquet_rows(path: Path, column: str) -> Iterator[bytes]:
    """The column's text of each row of a .parquet, not decoded."""
    import datasets  # here: it takes seconds, and only this format needs it

    from asarm.data.hub import open_stream, text_column

    try:
        rows = open_stream("parquet", data_files=[str(path)])
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"cannot read {path} ({str(error).splitlines()[0]}); repair it") from None
    for row in text_column(rows, column, str(path)):
        yield row[column] or b""


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield line if number else line.removeprefix(BYTE_ORDER_MARK)


READERS = {".txt": paragraphs, ".jsonl": json_lines, ".parquet": parquet_rows}
