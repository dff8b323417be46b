"""What training runs have logged, as a picture. No torch: a run that goes on is not disturbed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from asarm.display.drawing import FAINT, INK, RC, new_figure, png, tidy
from asarm.run import CONFIG, HEADER, Run
from asarm.training.files import EVALUATIONS, METRICS

# Okabe & Ito's colours, distinct with every kind of colour vision; then the dashes differ
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
HELD_OUT = "bits_per_byte_"  # and the mask rate
SMOOTHED_SHARE = 0.04  # of the logged steps, around each
BEGINNING = 0.03  # of a run, which may leave the picture at the top: it comes down from very high

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Curves:
    """What one run has logged so far."""

    name: str
    metrics: Records
    evaluations: Records


def read_curves(folders: Sequence[str | Path]) -> list[Curves]:
    """Return the records of runs, finished or not, named by their folders.

    Raises:
        ValueError: a folder that is not a training run's, or one that has logged nothing yet.
    """
    paths = [Path(folder) for folder in folders]
    counts = Counter(path.resolve().name for path in paths)
    found = []
    for path in paths:
        name = path.resolve().name
        found.append(_read(path, name if counts[name] == 1 else str(path)))
    return found


def _read(folder: Path, name: str) -> Curves:
    config = folder / CONFIG
    if not config.is_file() or not config.read_bytes().startswith(HEADER.encode()):
        what = "does not exist" if not folder.exists() else f"holds no {CONFIG} of a run"
        raise ValueError(f"{folder} {what}; expected the --output_dir of a training run")
    run = Run(folder)
    curves = Curves(name, run.read(METRICS), run.read(EVALUATIONS))
    if not curves.metrics and not curves.evaluations:
        raise ValueError(f"{folder} has logged no training step yet; try again in a while")
    return curves


def training_figure(runs: Sequence[Curves]) -> bytes:
    """Draw loss, mask window, learning rate and held-out bits per byte over steps, as PNG."""
    return png(draw(runs))


def draw(runs: Sequence[Curves]) -> Figure:
    """Draw `training_figure`, still to be looked into.

    A run has one colour in all panels; a legend says which where there are several.
    """
    rates = held_out_rates(runs)
    figure = new_figure(11, 6.8)
    left, right = (figure.add_gridspec(1, 2, width_ratios=(1.3, 1))[i] for i in (0, 1))
    panels = _column(figure, left, (2, 1, 1))
    held_out = _column(figure, right, [1] * max(1, len(rates)))
    for axes, fill in zip(panels, (_loss, _mask_window, _learning_rate), strict=True):
        fill(axes, runs)
    for axes, rate in zip(held_out, rates, strict=False):
        _held_out(axes, runs, rate)
    if not rates:
        _say(held_out[0], "no held-out evaluation yet")
    _share_steps(panels, runs, margin=0.02)
    _share_steps(held_out, runs, margin=0.12 if len(runs) == 1 else 0.02)
    figure.align_ylabels(panels)
    figure.align_ylabels(held_out)
    _name_runs(figure, runs)
    return figure


def held_out_rates(runs: Iterable[Curves]) -> list[str]:
    """Return the mask rates of the held-out densities, as the records write them."""
    keys = {key for run in runs for record in run.evaluations for key in record}
    return sorted((k.removeprefix(HELD_OUT) for k in keys if k.startswith(HELD_OUT)), key=float)


def smoothed(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Return the mean over up to `half` finite values on either side of each value."""
    is_number = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(is_number, values, 0))])
    counts = np.concatenate([[0], np.cumsum(is_number)])
    place = np.arange(len(values))
    reach = np.minimum(half, place)  # at the start as many on either side: the slope is steep
    low, high = place - reach, np.minimum(place + reach + 1, len(values))
    number = (counts[high] - counts[low]).astype(float)
    number[number == 0] = np.nan
    mean: NDArray[np.float64] = (sums[high] - sums[low]) / number
    return mean


def _loss(axes: Axes, runs: Sequence[Curves]) -> None:
    raw, steady = False, []
    for run, style in _styled(runs):
        steps, loss = _series(run.metrics, "loss")
        half = round(len(loss) * SMOOTHED_SHARE / 2)
        if half:
            axes.plot(steps, loss, color=style["color"], lw=0.7, alpha=0.3)
            raw = True
        axes.plot(steps, smoothed(loss, half), lw=1.7, **style)
        steady.append(loss[int(BEGINNING * len(loss)) :])
    _limit(axes, steady)
    note = "   (faint: single steps; line: smoothed)" if raw else ""
    _head(axes, "training loss", _unit_of_loss(runs), note)


def _unit_of_loss(runs: Sequence[Curves]) -> str:
    of_heads = [
        all(line.get("drafts_rejected", -1) == line.get("loss") for line in run.evaluations)
        for run in runs
        if run.evaluations
    ]
    return "rejection rate of drafts" if of_heads and all(of_heads) else "nats"


def _mask_window(axes: Axes, runs: Sequence[Curves]) -> None:
    for (run, style), width in zip(_styled(runs), _nested(runs), strict=True):
        steps, low = _series(run.metrics, "mask_rate_low")
        _, high = _series(run.metrics, "mask_rate_high")
        if len(runs) == 1:
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
        for edge in (low, high):
            axes.plot(steps, edge, lw=width, **style)
    axes.set_ylim(-0.03, 1.03)
    _head(axes, "mask-rate window", "fraction of targets")


def _learning_rate(axes: Axes, runs: Sequence[Curves]) -> None:
    for (run, style), width in zip(_styled(runs), _nested(runs), strict=True):
        axes.plot(*_series(run.metrics, "learning_rate"), lw=width, **style)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _head(axes, "learning rate", "")


def _held_out(axes: Axes, runs: Sequence[Curves], rate: str) -> None:
    steady = []
    for run, style in _styled(runs):
        steps, bits = _series(run.evaluations, HELD_OUT + rate)
        marker: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(bits) <= 30 else {}
        axes.plot(steps, bits, lw=1.5, **style, **marker)
        steady.append(bits[1:] if len(bits) > 2 else bits)
        if len(runs) == 1 and len(bits):
            _mark_last(axes, steps, bits, style["color"])
    _limit(axes, steady)
    _head(axes, f"held-out, mask rate {rate}", "bits per byte")


def _mark_last(
    axes: Axes, steps: NDArray[np.float64], bits: NDArray[np.float64], color: str
) -> None:
    axes.annotate(
        f"{bits[-1]:.3f}",
        (steps[-1], bits[-1]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        size=RC["small"],
        color=color,
    )


def _series(records: Records, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values; what was not finite is written as text."""
    pairs = [(record["step"], float(record[key])) for record in records if key in record]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _styled(runs: Sequence[Curves]) -> Iterable[tuple[Curves, dict[str, Any]]]:
    for i, run in enumerate(runs):
        dashes = DASHES[i // len(COLORS) % len(DASHES)]
        yield run, {"color": COLORS[i % len(COLORS)], "ls": dashes}


def _nested(runs: Sequence[Curves]) -> list[float]:
    """Return widths of lines that often coincide: each shows next to those drawn over it."""
    return [1.3 + min(above, 3) for above in reversed(range(len(runs)))]


def _column(figure: Figure, place: SubplotSpec, heights: Sequence[float]) -> list[Axes]:
    """Make panels one below the other."""
    grid = place.subgridspec(len(heights), 1, height_ratios=heights)
    return [figure.add_subplot(grid[row]) for row in range(len(heights))]


def _limit(axes: Axes, series: Sequence[NDArray[np.float64]]) -> None:
    """Make room for these values; what is higher leaves the picture at the top."""
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = float(values.min()), float(values.max())
        margin = 0.08 * (high - low) or 0.05 * abs(low) or 0.5
        axes.set_ylim(low - margin, high + margin)


def _head(axes: Axes, title: str, unit: str, note: str = "") -> None:
    axes.set_title(title, loc="left", size=RC["size"], color=INK)
    if note:
        axes.set_title(note, loc="right", size=RC["small"], color=FAINT)
    axes.set_ylabel(unit, size=RC["small"], color=INK)
    axes.grid(color="#e6e6e6", lw=0.6)
    tidy(axes)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT, size=RC["size"])
    axes.set_yticks([])
    tidy(axes)


def _share_steps(column: Sequence[Axes], runs: Sequence[Curves], *, margin: float) -> None:
    """Show the same steps in every panel, a margin on the right, and numbers below the last."""
    last = max(record["step"] for run in runs for record in [*run.metrics, *run.evaluations])
    for axes in column:
        axes.set_xlim(0, (1 + margin) * max(1, last))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(labelbottom=axes is column[-1])
    column[-1].set_xlabel("step", size=RC["small"], color=INK)


def _name_runs(figure: Figure, runs: Sequence[Curves]) -> None:
    """Write a heading for one run, a legend for several."""
    if len(runs) == 1:
        figure.suptitle(runs[0].name, x=0.01, ha="left", size=RC["title"], color=INK)
        return
    handles = [Line2D([], [], lw=2.5, label=run.name, **style) for run, style in _styled(runs)]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, labelcolor=INK)
