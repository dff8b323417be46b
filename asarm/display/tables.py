"""Tables of reports, in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rich import box
from rich.console import Console
from rich.table import Table

NO_BRACKETS = str.maketrans("[]", "()", "\\")
LOG_WIDTH = 130  # characters, where no terminal says how wide it is


def plus_minus(estimated: Mapping[str, Any] | None, decimals: int) -> str:
    """Write a mean and its standard error, as `statistics.Estimate` has them."""
    if estimated is None:
        return "-"
    mean, error = estimated["mean"], estimated["error"]
    return f"{mean:.{decimals}f}" + ("" if error is None else f" ± {error:.{decimals}f}")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Make the lines of a table; cells may hold any text."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(_cell, cells)) + " |" for cells in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def markdown_image(about: str, path: str) -> str:
    """Write an image whose caption and path may hold any characters."""
    return f"![{about.translate(NO_BRACKETS)}]({quote(path)})"


def terminal_table(title: str, caption: str) -> Table:
    """Make an empty table for the terminal."""
    return Table(
        title=f"\n{title}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )


def show_table(
    console: Console, title: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print a table; the first column is aligned to the left, the others to the right."""
    table = terminal_table(title, caption)
    table.padding = (0, 1, 0, 0)
    for column, heading in enumerate(head):
        table.add_column(heading, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


class _Console(Console):
    """A console that raises an error where its output is closed, so that the command ends."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def new_console() -> Console:
    """Return a console for the terminal, or for a log, which has a fixed width."""
    console = _Console()
    return console if console.is_terminal else _Console(width=LOG_WIDTH)
