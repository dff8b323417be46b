"""The tables and the figure of an ablation: network calls and quality against a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from rich.console import Console

from asarm.display.drawing import FAINT, INK, RC, new_figure, png, tidy
from asarm.display.tables import show_table
from asarm.evaluation.figures import QUALITY, plain_ticks, quality_measure, style
from asarm.evaluation.report import NOTE, PAGE_NOTE, variants_table
from asarm.evaluation.tables import Table, page

Summary = dict[str, Any]
Series = dict[tuple[str, str], list[tuple[Any, Summary]]]  # (other settings, variant) -> points
DASHES = ("-", "--", ":", "-.")


def markdown(summary: Summary, title: str) -> str:
    """Write the table and the figure as a Markdown page."""
    picture = "![calls and quality](ablation.png)"
    return page(title, [NOTE, PAGE_NOTE], table(summary, page=True).markdown, picture)


def show(summary: Summary, title: str, console: Console) -> None:
    """Show the table in the terminal."""
    show_table(console, title, NOTE, *table(summary, page=False))


def table(summary: Summary, *, page: bool) -> Table:
    """Make the table, a row for each cell and variant."""
    axes, pairs = [name for name in summary["grid"] if name != "method"], _pairs(summary)
    return variants_table(
        [row for _, row in pairs],
        is_page=page,
        before=axes,
        values=[[_shown(values[name]) for name in axes] for values, _ in pairs],
        shows_k="k" not in axes,
    )


def figure(summary: Summary, title: str) -> bytes:
    """Draw calls per blank and perplexity against one setting; the others are lines.

    The setting is the numeric one that has the largest number of values. Whole numbers are where
    they belong, anything else side by side.
    """
    along = axis_of(summary)
    series = _series(summary, along)
    measure = quality_measure([row for _, row in _pairs(summary)])
    picture = new_figure(11, 4.8)
    left, right = picture.subplots(1, 2)
    _lines(left, series, "nfe_per_target", summary["grid"][along])
    _lines(right, series, measure, summary["grid"][along])
    left.set_ylabel("network calls per blank  (fewer is better)")
    right.set_ylabel(f"{QUALITY[measure]}  (lower is better)")
    right.set_yscale("log")
    plain_ticks(right)
    for axes in (left, right):
        axes.set_xlabel(along.replace("_", " "))
        axes.grid(color="#e6e6e6", lw=0.6)
        tidy(axes)
    left.legend(frameon=False, fontsize=RC["small"], labelcolor=INK)
    picture.suptitle(title, x=0.01, ha="left", size=RC["size"], color=FAINT)
    return png(picture)


def axis_of(summary: Summary) -> str:
    """Return the setting on the x axis of the figure."""
    grid = summary["grid"]
    return max(_numeric(summary) or grid, key=lambda name: len(grid[name]))


def _lines(axes: Axes, series: Series, measure: str, values: Sequence[Any]) -> None:
    places = _places(values)
    groups = list(dict.fromkeys(group for group, _ in series))
    for index, ((group, name), points) in enumerate(series.items()):
        method = points[0][1]["method"]
        color: Any
        color, marker = style(method)
        if len(groups) > 1:  # then methods differ by marker and dashes
            color = colormaps["viridis"](0.9 * groups.index(group) / (len(groups) - 1))
        dashes = DASHES[index // len(groups) % len(DASHES)]
        known = [(places[value], row[measure]) for value, row in points if row[measure]]
        axes.errorbar(
            [place for place, _ in known],
            [estimate["mean"] for _, estimate in known],
            [estimate["error"] or 0.0 for _, estimate in known],
            color=color,
            marker=marker,
            ls=dashes,
            ms=6,
            capsize=2,
            label=", ".join(filter(None, [name, group])),
        )
    axes.set_xticks(list(places.values()), [_shown(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Return where each value is on the axis."""
    whole = all(isinstance(value, int) for value in values)
    return {value: value if whole else index for index, value in enumerate(values)}


def _series(summary: Summary, along: str) -> Series:
    """Return the points of each line: first by variant, then by the other settings."""
    found: Series = {}
    names = list(dict.fromkeys(row["name"] for _, row in _pairs(summary)))
    for name in names:
        for values, row in _pairs(summary):
            if row["name"] == name:
                about = {n: v for n, v in values.items() if n not in (along, "method")}
                others = [f"{n} {_shown(v)}" for n, v in about.items()]
                found.setdefault((", ".join(others), name), []).append((values[along], row))
    return found


def _pairs(summary: Summary) -> list[tuple[Mapping[str, Any], Summary]]:
    """Return the values of each cell with the row of each of its variants."""
    return [(cell["values"], row) for cell in summary["cells"] for row in cell["variants"]]


def _numeric(summary: Summary) -> list[str]:
    grid = summary["grid"]
    return [name for name, values in grid.items() if not isinstance(values[0], str)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
