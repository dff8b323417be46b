"""Result tables with errors, and the pages that they are on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from asarm.display.tables import markdown_table, plus_minus

Columns = Mapping[str, tuple[str, int]]  # by measure: heading and decimals


class Table(NamedTuple):
    """The cells of a table."""

    head: list[str]
    rows: list[list[str]]

    @property
    def markdown(self) -> list[str]:
        """The lines of the table in Markdown."""
        return markdown_table(*self)


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        before: its cells before the measures.
        values: means and errors by measure.
        after: its cells after them.
    """

    before: Sequence[str]
    values: Mapping[str, Mapping[str, Any] | None]
    after: Sequence[str] = ()


def result_table(
    before: Sequence[str], columns: Columns, rows: Iterable[Row], after: Sequence[str] = ()
) -> Table:
    """Make a table of means with their standard errors.

    Args:
        before: the headings of the cells before the measures.
        columns: the measures, in order.
        rows: the rows of the table.
        after: the headings of the cells after the measures.
    """
    head = [*before, *(heading for heading, _ in columns.values()), *after]
    return Table(head, [[*r.before, *cells(columns, r.values), *r.after] for r in rows])


def cells(columns: Columns, values: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Return the cells of some measures."""
    return [plus_minus(values.get(name), decimals) for name, (_, decimals) in columns.items()]


def known(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    """Return the columns that some row has a value for."""
    found = list(rows)
    return {m: about for m, about in columns.items() if any(row.get(m) for row in found)}


def page(title: str, *blocks: str | Sequence[str]) -> str:
    """Join a heading and blocks of lines of Markdown, a blank line between them."""
    texts = [block if isinstance(block, str) else "\n".join(block) for block in blocks]
    return "\n\n".join([f"# {title}", *texts]) + "\n"
