"""The picture of a call's time and the cache's size against the length of the text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from asarm.benchmark.measured import NUM_LAYERS, LengthCost
from asarm.display.drawing import FAINT, INK, RC, new_figure, png, tidy

TRAINED = 512  # tokens of the texts that networks are trained on
COLORS = ("#56B4E9", "#0072B2", "#D55E00")  # Okabe & Ito's; markers differ as well
MARKERS = ("o", "s", "^")
MEBIBYTE = 2**20


def length_figure(costs: Sequence[LengthCost]) -> bytes:
    """Draw time per call, a line a known fraction, and bytes of the cache, both logarithmic."""
    figure = new_figure(9.6, 4.4)
    time, memory = figure.subplots(1, 2)
    lengths = sorted({cost.length for cost in costs})
    fractions = dict.fromkeys(cost.known_fraction for cost in costs)
    for fraction, color, marker in zip(fractions, COLORS, MARKERS, strict=False):
        own = [cost.milliseconds for cost in costs if cost.known_fraction == fraction]
        time.plot(lengths, own, color=color, marker=marker, label=f"{fraction:.0%} known")
    sizes = [next(c.cache_bytes for c in costs if c.length == n) / MEBIBYTE for n in lengths]
    memory.plot(lengths, sizes, color=COLORS[1], marker=MARKERS[1], label="cache")
    heading = f"ms per call, sequential, {NUM_LAYERS} layers"
    _finish(time, lengths, heading, costs[-1].milliseconds)
    _finish(memory, lengths, f"MiB, {NUM_LAYERS} layers", sizes[-1])
    title = f"Cost of a call by length; positions beyond {TRAINED} are only geometry"
    figure.suptitle(title, x=0.01, ha="left", size=RC["title"], color=INK)
    return png(figure)


def _finish(axes: Axes, lengths: Sequence[int], heading: str, last: float) -> None:
    """Draw axes, and the line that grows as L does and ends at `last`."""
    slope = [last * length / lengths[-1] for length in lengths]
    axes.plot(lengths, slope, color=FAINT, ls=(0, (4, 3)), lw=1.2, label="slope 1: rows x L")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("length of the text, L", color=INK)
    axes.set_title(heading, loc="left", size=RC["size"], color=INK)
    if lengths[0] < TRAINED < lengths[-1]:
        axes.axvline(TRAINED, color=FAINT, lw=0.8)
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.legend(frameon=False, fontsize=RC["small"], labelcolor=INK)
    tidy(axes)
