"""The tables, examples and the figure of a result, in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from asarm.display.drawing import FAINT, INK, RC, new_figure, png, tidy
from asarm.display.spans import BLANKED, FILLED, GIVEN, printable
from asarm.display.tables import markdown_image, markdown_table, plus_minus, show_table
from asarm.evaluation.prose.results import COSTS, Example, ProseResult, ResultTable, Score, ScoreRow
from asarm.evaluation.tables import page

HEADINGS = {  # and decimals in the terminal
    "rouge1": ("ROUGE-1", 1),
    "rouge2": ("ROUGE-2", 1),
    "rougeL": ("ROUGE-L", 1),
    "rouge": ("average", 1),
    "exact_match": ("exact match", 1),
    "accuracy": ("accuracy", 1),
    "tokens": ("tokens", 1),
    "nfe": ("NFE", 1),
    "rows": ("rows", 0),
    "seconds": ("s/item", 2),
    "log_prob_per_token": ("log p/token", 2),
}
COLORS = {"rouge1": "#0072B2", "rouge2": "#D55E00", "rougeL": "#009E73"}  # Okabe & Ito's
LAST = "..."  # before a long text of which the end is shown
SHOWN = 600


def markdown(result: ProseResult) -> str:
    """Write the result as a Markdown page."""
    tables = [
        part
        for table in result.tables
        for part in (
            f"## {table.title}",
            markdown_table(*cells(table, more=1, costs_with_errors=True)),
        )
    ]
    examples = [
        part
        for example in result.examples
        for part in (f"## An item: {example.title}", _quoted(example))
    ]
    image = markdown_image(result.title, figure_name(result))
    return page(result.title, result.note, *tables, image, *examples)


def _quoted(example: Example) -> list[str]:
    text = f"> {example.before}**____**{example.after}"
    return [
        text,
        "",
        *markdown_table(["", "filled in"], [("reference", example.reference), *example.answers]),
    ]


def show(result: ProseResult, console: Console) -> None:
    """Print the tables, and an item of each, in the terminal."""
    for number, table in enumerate(result.tables, start=1):
        head, rows = cells(table)
        note = result.note if number == len(result.tables) else ""
        show_table(console, f"{result.title}\n{table.title}", note, head, rows)
    for example in result.examples:
        show_example(example, console)


def cells(
    table: ResultTable, *, more: int = 0, costs_with_errors: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table.

    Args:
        table: the numbers.
        more: further decimals than those of the terminal.
        costs_with_errors: whether costs show their standard errors too.
    """
    costs = [name for name in COSTS if any(name in row.scores for row in table.rows)]
    last = table.measures[-1]
    over_trials = any(_trial_error(row, last) is not None for row in table.rows)
    head = ["", *(HEADINGS[name][0] for name in table.measures)]
    head += ["± trials"] if over_trials else []
    head += [HEADINGS[name][0] for name in costs]
    rows = []
    for row in table.rows:
        line = [row.name, *(number(row.scores.get(n), n, more) for n in table.measures)]
        if over_trials:
            error = _trial_error(row, last)
            line.append("-" if error is None else f"{error:.{HEADINGS[last][1] + 1}f}")
        for name in costs:
            # items of a batch take the same time, whatever they are
            bare = name == "seconds" or not costs_with_errors
            line.append(number(row.scores.get(name), name, more, bare=bare))
        rows.append(line)
    return head, rows


def number(score: Score | None, measure: str, more: int = 0, *, bare: bool = False) -> str:
    """Write a mean, with its standard error over items unless it is to be bare."""
    if score is None:
        return plus_minus(None, 0)
    found = {"mean": score.mean, "error": None if bare else score.error}
    return plus_minus(found, HEADINGS[measure][1] + more)


def _trial_error(row: ScoreRow, measure: str) -> float | None:
    return row.scores[measure].trial_error if measure in row.scores else None


def show_example(example: Example, console: Console) -> None:
    """Print an item: its text with the blank, and what was filled in."""
    text = Text()
    before = printable(example.before)
    text.append(before if len(before) <= SHOWN else LAST + before[-SHOWN:], GIVEN)
    text.append("____", BLANKED)
    text.append(printable(example.after), GIVEN)
    console.print(Panel(text, title=f"an item: {example.title}"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_row("reference", Text(example.reference, GIVEN))
    for name, answer in example.answers:
        table.add_row(name, Text(" ".join(printable(answer).split()), FILLED))
    console.print(table)


def figure_name(result: ProseResult) -> str:
    """Return the file name of the figure."""
    return "rouge.png" if "rouge" in result.tables[0].measures else "accuracy.png"


def figure(result: ProseResult) -> bytes:
    """Draw bars with standard errors over items, a panel for each table, as PNG."""
    longest = max(len(table.rows) for table in result.tables)
    picture = new_figure(3.4 + 4.2 * len(result.tables), 1.5 + 0.5 * longest)
    panels = picture.subplots(1, len(result.tables), sharey=True, squeeze=False)[0]
    for axes, table in zip(panels, result.tables, strict=True):
        _bars(axes, table)
    if "rouge" in result.tables[0].measures:
        handles, labels = panels[0].get_legend_handles_labels()
        style = {"frameon": False, "fontsize": RC["small"], "labelcolor": INK}
        picture.legend(handles, labels, loc="outside lower right", ncols=len(labels), **style)
    picture.suptitle(result.title, x=0.01, ha="left", size=RC["title"], color=INK)
    return png(picture)


def _bars(axes: Axes, table: ResultTable) -> None:
    """Draw a bar for each measure; their average, if it is one of them, is a tick."""
    bars = [name for name in table.measures if name != "rouge"]
    places = np.arange(len(table.rows))[::-1]
    height = 0.8 / len(bars)
    for index, name in enumerate(bars):
        shift = (len(bars) - 1) / 2 - index
        means, errors = _numbers(table.rows, name)
        color, label = COLORS.get(name, INK), HEADINGS[name][0]
        style: dict[str, Any] = {"ecolor": FAINT, "capsize": 2, "color": color, "label": label}
        axes.barh(places + shift * height, means, 0.9 * height, xerr=errors, **style)
    if "rouge" in table.measures:
        means, _ = _numbers(table.rows, "rouge")
        axes.errorbar(means, places, 0.4, color=INK, lw=2, ls="none", label="average")
    axes.set_yticks(places, [row.name for row in table.rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("ROUGE F x 100" if len(bars) > 1 else f"{HEADINGS[bars[0]][0]}, %")
    axes.set_title(table.title, loc="left", size=RC["size"], color=INK)
    tidy(axes)
    axes.grid(axis="x", color="#e6e6e6", lw=0.6)


def _numbers(rows: Sequence[ScoreRow], measure: str) -> tuple[list[float], list[float]]:
    """Return means and errors; an unknown error is 0."""
    scores = [row.scores[measure] for row in rows]
    return [score.mean for score in scores], [score.error or 0.0 for score in scores]
