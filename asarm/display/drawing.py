"""What all pictures share: sizes, ink, and PNG as their form. No torch."""

from __future__ import annotations

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT = "#333333", "#999999"
RC = {"size": 11, "title": 14, "small": 9}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Put ink where the data are, and little elsewhere."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=RC["small"])


def png(figure: Figure) -> bytes:
    """Return the picture as a file's content."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
