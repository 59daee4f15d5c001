"""What the figures share: colours, sizes, axes and names."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mlp_lib.evidence.intervals import count_text

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.6"  # Okabe & Ito's colour-blind-safe pair
# after Tol's "muted", the light ones darker, so that each line reads on white; past nine the marker tells them apart
COLOURS = ("#332288", "#CC6677", "#117733", "#B8860B", "#0077BB", "#882255", "#009988", "#6F6F1F", "#AA4499")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LOSS = "loss (nats per example)"
MAX_PRINTED = 12  # architectures up to which a heatmap prints its values
MAX_INCHES = 40
COLUMNS = 3  # panels side by side
WIDTH = 8.5  # inches of the widest figure: a page shows it in its own size, so that letters keep theirs


_LOOK = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.labelsize": "medium",
    "figure.titlesize": "medium",
    "grid.color": "0.9",
    "legend.frameon": False,
}
# as a decorator: a figure is made, shown and saved by this look on matplotlib's defaults, whatever a matplotlibrc says
drawn = style.context(["default", _LOOK])


class _Figure(Figure):
    """A figure that a notebook shows just as it is stored; its label, else its title, is the text beside it."""

    _png = b""

    def png(self) -> bytes:
        """The figure as a PNG, drawn anew if anything of it has changed."""
        if self.stale or not self._png:
            buffer = io.BytesIO()
            self.canvas.print_figure(buffer, format="png", dpi=self.dpi)  # savefig would take a matplotlibrc's defaults
            self._png, self.stale = buffer.getvalue(), False
        return self._png

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        titles = [self.get_label(), self.get_suptitle(), *(ax.get_title() for ax in self.axes)]
        text = " ".join(next(filter(None, titles), "Figure").split())
        return {"image/png": base64.b64encode(self.png()).decode()}, {"image/png": {"alt": text}}


class _Canvas(FigureCanvasAgg):
    print_figure = drawn(FigureCanvasAgg.print_figure)


def new_figure(width: float, height: float) -> Figure:
    figure = _Figure((min(width, MAX_INCHES), min(height, MAX_INCHES)), dpi=120, layout="constrained")
    _Canvas(figure)
    return figure


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure = new_figure(width, height)
    return figure, figure.subplots()


def panel_grid(
    names: Sequence[str], width: float, height: float, title: str, x: str = "", y: str = ""
) -> tuple[Figure, dict[str, Axes]]:
    """A figure of one panel a name with shared axes; x and y label the outer ones. Sizes of a panel in inches."""
    columns = min(COLUMNS, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = new_figure(min(max(width * columns, 6) + 0.4, WIDTH), height * rows + 1)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i >= len(names):
            ax.set_axis_off()
        elif i + columns >= len(names):  # the lowest of its column, though maybe not in the last row
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(x)
    figure.supylabel(y)
    figure.suptitle(title)
    return figure, dict(zip(names, axes.flat, strict=False))


def looks(architectures: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each architecture, by its place among all: the same in every figure of a run."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
        for i, name in enumerate(dict.fromkeys(architectures))
    }


def log_if_wide(ax: Axes, name: str, values: pd.Series) -> None:
    """A log axis, labelled in plain numbers, if the positive values span a factor of 5: below, too few labels fit."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axis = getattr(ax, f"{name}axis")
        ax.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 1000 * values.min() else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def with_untrained(title: str, number: int, what: str) -> str:
    return f"{title}\n(not shown: {count_text(number, what)} diverged or not trained)" if number else title


def usual_top(losses: pd.Series) -> float:
    """Where an axis of losses may end: Tukey's fence of their logs, so that a few outliers don't flatten the rest."""
    logs = np.log(losses[np.isfinite(losses) & (losses > 0)])
    low, high = logs.quantile([0.25, 0.75])
    return float(np.exp(min(logs.max(), high + 1.5 * (high - low))))


def spread(number: int, width: float) -> np.ndarray:
    """Offsets that keep `number` points of one row apart; fixed, so that a figure repeats exactly."""
    return np.linspace(-width, width, number) if number > 1 else np.zeros(number)


def plain_rows(ax: Axes, names: Iterable[str], **look: Any) -> None:
    """Named rows, the first at the top: long names need no turning."""
    names = list(names)
    ax.set_yticks(range(len(names)), names, **look)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)
    ax.grid(False, axis="y")
