"""The column of a table that holds its texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import IterableDataset

STRINGS = re.compile(r"str|(large_)?string(_view)?|dictionary<values=(large_)?string(_view)?, .*>")


def text_column(dataset: IterableDataset, column: str, where: str) -> IterableDataset:
    """Keep the text column alone, as bytes, so that a row that is not UTF-8 harms no other.

    ValueError names the columns there are where that one is missing or no text.
    """
    from datasets import Value  # here: it takes seconds, and local files need no more than a check

    features = dataset.features
    if features is None:  # known only record by record
        return dataset
    kind = getattr(features.get(column), "dtype", type(features.get(column)).__name__)
    check_column(column, features, kind, where)
    binary = Value("large_binary" if kind == "large_string" else "binary")
    return dataset.select_columns([column]).cast_column(column, binary)


def check_column(column: str, columns: Iterable[str], kind: object, where: str) -> None:
    """Refuse a table whose column is missing or holds no text; the error names its columns."""
    if column not in columns:
        raise ValueError(
            f"{where} has no column {column!r}, only: {', '.join(columns)}; "
            "name one as dataset_column"
        )
    if not STRINGS.fullmatch(str(kind)):
        raise ValueError(
            f"{where} has {kind} in column {column!r}; expected a string: name another as "
            "dataset_column"
        )
