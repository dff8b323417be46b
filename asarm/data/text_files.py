"""The documents of local files, whatever these are encoded and compressed with."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from asarm.data.columns import check_column, text_column
from asarm.data.config import TXT_DOCUMENTS
from asarm.data.retry import first_line

ENCODINGS = {  # by the byte order mark that a file begins with; the longer marks come first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DELIMITERS = ",;\t|"
ARROW_FILE = b"ARROW1"  # what the format with a footer begins with; the other is a mere stream
ROWS = 1000  # of a table that are in memory at a time
# the types of text, as pyarrow and `datasets` call them
DAMAGES = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what a file that is cut off raises

Reader = Callable[[Path, str], Iterator[bytes | str]]


def read_text(path: str | Path) -> str:
    """Read the text of a UTF-8 file, line ends as they are, without a byte order mark.

    UTF-16 is read too where the file begins with its byte order mark. ValueError names the file and
    the fix where it cannot be read, is empty, or is not text.
    """
    try:
        content = b"".join(read_lines(Path(path)))
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; "
            f"convert it, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    except DAMAGES as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path} ({reason}): name an existing text file") from None
    if "\0" in text:
        raise ValueError(
            f"{path} holds NUL bytes, so it is not UTF-8 text; convert it, for example with "
            "iconv -f UTF-16LE -t UTF-8"
        )
    if not text.strip():
        raise ValueError(f"{path} is empty ({len(content)} bytes): name a file that holds text")
    return text


def read_documents(
    files: Iterable[Path], column: str, *, txt_documents: str = "paragraph"
) -> Iterator[bytes | str]:
    """Yield the documents of the files, one file after another, not yet looked at.

    Args:
        files: files of the kinds in `READERS`, and folders that `datasets` has saved.
        column: where records have their text.
        txt_documents: what a document of a .txt is: a "paragraph" (up to a blank line), a "line" or
            the whole "file".

    Raises:
        ValueError: a file cannot be read, a row is not JSON or not CSV, or a record has no text in
            that column; names file, row and the columns there are.
    """
    for path in files:
        try:
            yield from _reader(path, txt_documents)(path, column)
        except DAMAGES as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"cannot read {path} ({reason}); check the file") from None


def kind_of(path: PurePath) -> str:
    """Return the suffix that says how to read a file: in lower case, without a compression's."""
    name = PurePath(path.name.lower())
    return PurePath(name.stem).suffix if name.suffix in OPENERS else name.suffix


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text file as UTF-8 with their ends, unpacked, without a byte order mark.

    Bytes that are not UTF-8 come as they are.
    """
    with _open(path) as file:
        start = file.peek(4)[:4]
        encoding = next((e for mark, e in ENCODINGS.items() if start.startswith(mark)), None)
        if encoding is not None:
            yield from _recoded(file, encoding, path)
            return
        for number, line in enumerate(file):
            yield line if number else line.removeprefix(codecs.BOM_UTF8)


def _open(path: Path) -> io.BufferedReader:
    opener = OPENERS.get(path.suffix.lower(), open)
    return io.BufferedReader(opener(path, "rb"))


def _open_zst(path: Path, mode: str) -> Any:
    import pyarrow  # here: `datasets` brings it along, and only this format needs it

    return pyarrow.input_stream(str(path), compression="zstd")


def _recoded(file: io.BufferedReader, encoding: str, path: Path) -> Iterator[bytes]:
    try:
        # only \n ends a line, as in UTF-8; half a surrogate pair is for `usable` to see
        with io.TextIOWrapper(file, encoding, "surrogatepass", newline="\n") as text:
            for line in text:
                yield line.encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise OSError(
            f"it begins as {encoding.upper()} and does not go on so: {error.reason}"
        ) from None


def paragraphs(path: Path, column: str) -> Iterator[bytes]:
    """Yield what lies between blank lines."""
    lines: list[bytes] = []
    for line in read_lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield b"".join(lines).rstrip(b"\r\n")
            lines = []
    # a file of nothing but blank lines is one empty document, so that it is counted
    yield b"".join(lines).rstrip(b"\r\n")


def text_lines(path: Path, column: str) -> Iterator[bytes]:
    """Yield each line, as in WikiText's .raw files."""
    for line in read_lines(path):
        yield line.rstrip(b"\r\n")


def whole_text(path: Path, column: str) -> Iterator[bytes]:
    """Yield the file as one document."""
    yield b"".join(read_lines(path))


def json_lines(path: Path, column: str) -> Iterator[bytes | str]:
    """Yield the column's text of each line of a .jsonl; a line that is not UTF-8 comes as it is."""
    for row, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield line
            continue
        except ValueError as error:
            raise ValueError(f"{path} row {row} is not JSON ({error}); repair it") from None
        yield text_of(record, column, f"{path} row {row}")


def json_file(path: Path, column: str) -> Iterator[bytes | str]:
    """Yield the column's text of each record of a .json: a list of objects, one, or one a line."""
    if is_json_lines(path):
        yield from json_lines(path, column)
        return
    for number, record in enumerate(json_records(path), start=1):
        yield text_of(record, column, f"{path} record {number}")


def is_json_lines(path: Path) -> bool:
    """Return whether the first line that is not blank is an object by itself."""
    first = next((line for line in read_lines(path) if line.strip()), b"")
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def json_records(path: Path) -> list[Any]:
    """Return the elements of the list that the file holds; what it holds, if that is not a list."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON file ({error}); repair it") from None
    return content if isinstance(content, list) else [content]


def csv_rows(path: Path, column: str) -> Iterator[str]:
    """Yield the column's text of each row of a .csv or .tsv, whose first row names the columns."""
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the 128 KiB it begins with
    # what is not UTF-8 becomes half a character each, for `usable` to see
    lines = (line.decode("utf-8", "surrogateescape") for line in read_lines(path))
    first = next(lines, "")
    delimiter = "\t" if kind_of(path) == ".tsv" else _delimiter(first, column)
    rows = csv.DictReader(chain([first], lines), delimiter=delimiter, strict=True)
    try:
        for record in rows:
            where = f"{path} row {rows.line_num}"
            if extra := cast(dict[Any, Any], record).pop(None, None):
                raise ValueError(
                    f"{where} has {len(extra)} fields more than the first row; put texts that hold "
                    f"{delimiter!r} in quotation marks"
                )
            yield text_of(record, column, where)
    except csv.Error as error:
        row = rows.reader.line_num
        raise ValueError(f"{path} row {row} is not CSV ({error}); repair it") from None


def _delimiter(header: str, column: str) -> str:
    """Return what separates the column's name from others."""
    fitting = (d for d in DELIMITERS if column in next(csv.reader([header], delimiter=d), []))
    return next(fitting, DELIMITERS[0])


def text_of(record: Any, column: str, where: str) -> str:
    """Return the record's text; none where the column holds null."""
    if not isinstance(record, dict):
        raise ValueError(
            f"{where} is of type {type(record).__name__}; expected an object with a column "
            f"{column!r}"
        )
    text = record.get(column)
    check_column(column, record, type(text).__name__ if text is not None else "string", where)
    return text or ""


def table_rows(path: Path, column: str) -> Iterator[bytes]:
    """Yield the column's text of each row of a .parquet or an .arrow, not decoded."""
    import pyarrow  # here, for only these formats need it

    try:
        for texts in _column_parts(path, column):
            yield from (text or b"" for text in texts.to_pylist())
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot read {path} ({first_line(error)}); repair it") from None


def _column_parts(path: Path, column: str) -> Iterator[Any]:
    """Yield the column in arrays of bytes, so that a row that is not UTF-8 harms no other."""
    import pyarrow
    from pyarrow import parquet, types

    with pyarrow.memory_map(str(path)) as file:
        if kind_of(path) == ".parquet":
            table = parquet.ParquetFile(file)
            schema, batches = table.schema_arrow, table.iter_batches(ROWS, columns=[column])
        else:
            schema, batches = _arrow_batches(file)
        kind = schema.field(column).type if column in schema.names else None
        check_column(column, schema.names, kind, str(path))
        for batch in batches:
            texts = batch.column(column)
            if types.is_dictionary(texts.type):
                texts = texts.dictionary_decode()
            yield texts.cast(pyarrow.large_binary())


def _arrow_batches(file: Any) -> tuple[Any, Iterable[Any]]:
    from pyarrow import ipc

    has_footer = file.read(len(ARROW_FILE)) == ARROW_FILE
    file.seek(0)
    if has_footer:
        table = ipc.open_file(file)
        return table.schema, map(table.get_batch, range(table.num_record_batches))
    stream = ipc.open_stream(file)
    return stream.schema, stream


def saved_rows(folder: Path, column: str) -> Iterator[bytes]:
    """Yield the column's text of each row that `datasets` saved in the folder, not decoded."""
    import datasets  # here: it takes seconds, and only this needs it

    rows = datasets.load_from_disk(str(folder)).to_iterable_dataset()
    for row in text_column(rows, column, str(folder)):
        yield row[column] or b""


def _reader(path: Path, txt_documents: str) -> Reader:
    if path.is_dir():
        return saved_rows
    kind = kind_of(path)
    return TXT_READERS[txt_documents] if kind == ".txt" else READERS[kind]


OPENERS: dict[str, Callable[[Path, str], BinaryIO | Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}
TXT_READERS: dict[str, Reader] = dict(
    zip(TXT_DOCUMENTS, (paragraphs, text_lines, whole_text), strict=True)
)
READERS: dict[str, Reader] = {
    ".txt": paragraphs,
    ".md": whole_text,
    ".raw": text_lines,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_file,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": table_rows,
    ".arrow": table_rows,
}
