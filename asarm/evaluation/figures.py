"""The figures of the study of samplers, as PNG: quality against network calls, and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from asarm.display.drawing import FAINT, INK, RC, new_figure, png, tidy
from asarm.evaluation.report import MEASURES, REFERENCE, Summary
from asarm.evaluation.trials import key, names
from asarm.evaluation.variants import Variant
from asarm.run import Record

# Okabe and Ito's colours, which differ under every kind of colour vision; markers differ as well.
# Other samplers have `INK` and "o".
STYLES = {
    "sequential": ("#000000", "s"),
    "assd": ("#0072B2", "o"),
    "ngram": ("#CC79A7", "D"),
    "onepass": ("#009E73", "^"),
    "parallel": ("#D55E00", "v"),
}
HEAD_STYLES = {"assd": ("#56B4E9", "P"), "onepass": ("#E69F00", "*")}
HISTOGRAMS = {  # heading and whether the axis is logarithmic
    "nfe_per_target": ("network calls per blank", False),
    "seconds": ("seconds per text", True),
    "self_perplexity": ("self-perplexity", True),
    "entropy": ("token entropy, bits", False),
}
QUALITY = {
    "self_perplexity": "self-perplexity",
    "judge_perplexity": "perplexity under the judge",
}
NUM_BINS = 28


def quality_figure(summary: Summary, title: str) -> bytes:
    """Draw perplexity (the judge's, where there is one) against network calls per blank.

    A sampler with a number of steps is a curve over them, other samplers are points (those whose
    drafts a learned head makes have other markers), and the mean ± standard error of sequential is
    a band. Other models than the first are hollow.
    """
    rows = summary["variants"]
    measure = quality_measure(rows)
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = new_axes(8.4, 5.2 + 1.2 * (len(models) - 1))
    for row in rows:
        if row["method"] == REFERENCE:
            mean, error = row[measure]["mean"], row[measure]["error"] or 0.0
            color, _ = style(REFERENCE)
            axes.axhspan(mean - error, mean + error, color=color, alpha=0.12, lw=0)
            axes.axhline(mean, color=color, lw=0.8, ls=(0, (4, 3)))
    for model in models:
        own = [row for row in rows if row["model"] == model]
        hollow = model != models[0]
        curves: dict[Any, list[Summary]] = {}
        for row in own:
            if row["steps"] is not None:
                curves.setdefault((row["method"], row["draft"]), []).append(row)
        for curve in curves.values():
            _steps_curve(axes, curve, measure, hollow=hollow)
        for row in own:
            if row["steps"] is None:
                _point(axes, row, measure, hollow=hollow)
    _calls_axis(axes, rows)
    axes.set_yscale("log")
    plain_ticks(axes)
    axes.set_ylabel(f"{QUALITY[measure]}  (lower is better)")
    axes.set_title("Quality against network calls", loc="left", size=RC["title"], pad=24)
    line = axes.text(0, 1.025, title, transform=axes.transAxes, size=RC["small"], color=FAINT)
    line.set_in_layout(False)  # however long it is
    _legend(axes, below=len(models) > 1)
    return png(figure)


def style(method: str, draft: str | None = None) -> tuple[str, str]:
    """Return the colour and the marker of a sampler."""
    styles = {**STYLES, **HEAD_STYLES} if draft == "head" else STYLES
    return styles.get(method, (INK, "o"))


def _nature(row: Summary) -> str:
    return "lossless" if row["lossless"] else "lossy"


def quality_measure(rows: Sequence[Summary]) -> str:
    """Return which perplexity is drawn: the judge's where there is one."""
    judged = any(row["judge_perplexity"] for row in rows)
    return "judge_perplexity" if judged else "self_perplexity"


def _steps_curve(
    axes: Axes, rows: Sequence[Summary], measure: str, *, hollow: bool = False
) -> None:
    color, marker = style(rows[0]["method"], rows[0]["draft"])
    rows = sorted(rows, key=lambda row: row["steps"])
    x = [row["nfe_per_target"]["mean"] for row in rows]
    y = [row[measure]["mean"] for row in rows]
    error = [row[measure]["error"] or 0.0 for row in rows]
    name = rows[0]["name"].replace(f" {rows[0]['steps']}", "", 1)
    label = f"{name}, {_nature(rows[0])} (number of steps)"
    face = "white" if hollow else color
    axes.errorbar(
        x, y, error, color=color, marker=marker, mfc=face, ms=7, lw=1.6, capsize=2, label=label
    )
    for row, left, bottom in zip(rows, x, y, strict=True):
        axes.annotate(
            str(row["steps"]),
            (left, bottom),
            xytext=(7, 6),
            textcoords="offset points",
            size=RC["small"],
            color=color,
        )


def _point(axes: Axes, row: Summary, measure: str, *, hollow: bool = False) -> None:
    color, marker = style(row["method"], row["draft"])
    drafted = "" if row["k"] is None else f", k = {row['k']}"
    drafted += ", drafts by the head" if row["draft"] == "head" else ""
    x, y = row["nfe_per_target"], row[measure]
    axes.errorbar(
        x["mean"],
        y["mean"],
        y["error"] or 0.0,
        x["error"] or 0.0,
        color=color,
        marker=marker,
        ms=13 if marker == "*" else 9,  # a star looks smaller than other markers of its size
        mfc="white" if hollow else color,
        mec=color if hollow else "white",
        capsize=3,
        ls="none",
        zorder=3,
        label=f"{row['name']}{drafted}, {_nature(row)}: {x['mean']:.2f} calls per blank",
    )


def _calls_axis(axes: Axes, rows: Sequence[Summary]) -> None:
    calls = [row["nfe_per_target"]["mean"] for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(calls) / 1.25, max(calls) * 1.25)
    powers = [2.0**-power for power in range(12)]
    axes.xaxis.set_major_locator(FixedLocator(powers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: "1" if x == 1 else f"1/{round(1 / x)}")
    )
    axes.set_xlabel("network calls per blank  (fewer is better)")


def _legend(axes: Axes, *, below: bool) -> None:
    """Draw a legend of the markers alone, for error bars would clutter it."""
    bars, labels = axes.get_legend_handles_labels()
    handles = [bar.lines[0] for bar in bars if isinstance(bar, ErrorbarContainer)]
    place: dict[str, Any] = {"loc": "best", "fontsize": 10}
    if below:
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "ncols": 2, "fontsize": 8}
    axes.legend(handles, labels, frameon=False, labelcolor=INK, **place)


def histogram_figure(records: Sequence[Record], title: str) -> bytes:
    """Draw histograms of calls, seconds, self-perplexity and entropy, a row for every method."""
    groups: dict[Variant, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record)[1], []).append(record)
    figure = new_figure(11, 1.6 + 0.42 * len(groups) * 2)
    panels = figure.subplots(2, 2, sharey=True)
    for axes, (measure, (heading, is_log)) in zip(panels.flat, HISTOGRAMS.items(), strict=True):
        _ridges(axes, groups, measure, is_log)
        axes.set_title(heading, loc="left", size=RC["size"], color=INK)
    figure.suptitle(title, x=0.01, ha="left", size=RC["title"], color=INK)
    return png(figure)


def _ridges(axes: Axes, groups: dict[Variant, list[Record]], measure: str, is_log: bool) -> None:
    """Draw histograms above one another, in the same bins, with a tick at each mean."""
    values = {variant: _numbers(records, measure) for variant, records in groups.items()}
    edges = _bins(np.concatenate(list(values.values())), is_log)
    for row, (variant, numbers) in enumerate(values.items()):
        color, _ = style(variant.method, variant.draft)
        base = float(len(values) - 1 - row)
        counts = np.histogram(numbers, edges)[0]
        height = base + 0.85 * counts / max(1, counts.max())
        axes.stairs(height, edges, baseline=base, fill=True, color=color, alpha=0.45)
        axes.stairs(height, edges, baseline=base, color=color, lw=1)
        axes.plot([numbers.mean()] * 2, [base - 0.08, base + 0.12], color=INK, lw=1.4)
    if is_log:
        axes.set_xscale("log")
        plain_ticks(axes, axis="x")
    called = names(values)
    axes.set_yticks(range(len(values)), [called[variant] for variant in reversed(values)])
    axes.tick_params(axis="y", length=0)
    tidy(axes)
    axes.grid(axis="x", color="#e6e6e6", lw=0.6)


def _numbers(records: Sequence[Record], measure: str) -> NDArray[np.float64]:
    return np.array([MEASURES[measure](record) for record in records], dtype=np.float64)


def _bins(values: NDArray[np.float64], is_log: bool) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if is_log and low > 0:
        return np.geomspace(low / 1.05, high * 1.05, NUM_BINS + 1)
    margin = 0.03 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, NUM_BINS + 1)


def plain_ticks(axes: Axes, axis: str = "y") -> None:
    """Label a logarithmic axis with plain numbers: 0.02, 5, 200."""
    target = axes.yaxis if axis == "y" else axes.xaxis
    low, high = target.get_view_interval()
    ratio = high / max(low, 1e-12)
    steps = [1, 2, 5] if ratio > 5 else [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]
    steps = [1] if ratio > 1e4 else steps
    places = [s * 10.0**power for power in range(-6, 9) for s in steps]
    target.set_major_locator(FixedLocator(places))
    if sum(low <= place <= high for place in places) < 3:
        target.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    target.set_minor_locator(NullLocator())
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure with axes and a light grid."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.grid(color="#e6e6e6", lw=0.6)
    tidy(axes)
    return figure, axes
