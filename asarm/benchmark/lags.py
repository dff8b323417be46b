"""The picture of acceptance rates of drafts, by lag."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from asarm.benchmark.measured import LagAcceptance
from asarm.display.drawing import INK, RC, new_figure, png, tidy
from asarm.evaluation.figures import style

LABELS = {"self": "the network's own rows", "head": "the draft head"}


def lag_figure(found: Sequence[LagAcceptance]) -> bytes:
    """Draw the acceptance rate of onepass's drafts by their lag, a panel for each target fraction.

    Solid lines are of all that were verified; dashed ones of those before which all are accepted.
    """
    fractions = list(dict.fromkeys(point.target_fraction for point in found))
    figure = new_figure(4.4 * len(fractions) + 0.6, 4.2)
    panels = figure.subplots(1, len(fractions), sharey=True, squeeze=False)[0]
    for axes, fraction in zip(panels, fractions, strict=True):
        own = [point for point in found if point.target_fraction == fraction]
        for draft in dict.fromkeys(point.draft for point in own):
            _lines(axes, [point for point in own if point.draft == draft], draft)
        axes.set_title(f"{fraction:.0%} blank", loc="left", size=RC["size"], color=INK)
        axes.set_xlabel("lag of the draft", color=INK)
        axes.set_xticks(sorted({point.lag for point in own}))
        axes.set_ylim(0, 1)
        axes.grid(color="#e6e6e6", lw=0.6)
        tidy(axes)
    panels[0].set_ylabel("acceptance rate of drafts", color=INK)
    panels[-1].legend(frameon=False, fontsize=RC["small"], labelcolor=INK)
    figure.suptitle("Accepted drafts, by lag", x=0.01, ha="left", size=RC["title"], color=INK)
    return png(figure)


def _lines(axes: Axes, points: Sequence[LagAcceptance], draft: str) -> None:
    color, marker = style("onepass", draft)
    lags, size = [point.lag for point in points], 11 if marker == "*" else 7
    label = f"{LABELS[draft]}: of all"
    axes.plot(lags, [p.rate for p in points], color=color, marker=marker, ms=size, label=label)
    after = [float("nan") if p.rate_after is None else p.rate_after for p in points]
    label = f"{LABELS[draft]}: where those before are accepted"
    axes.plot(lags, after, color=color, ls=(0, (4, 3)), lw=1.2, label=label)
