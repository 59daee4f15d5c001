"""Pure functions from the tables of what better practice gives to their figures."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mlp_lib.figures import BLUE, COLOURS, MARKERS, _figure, _log_if_wide, _plain

NAMES = {"standard": "standard parametrization", "mup": "maximal update parametrization (mup)"}


def coordinate_sizes(table: pd.DataFrame) -> Figure:
    """How far activations moved since the first step against the width: a panel a parametrization, a line a step.

    table: coordinate_check's. Later steps are drawn stronger.
    """
    figure = _figure(8.5, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    layers, steps = sorted(table["layer"].unique()), table["step"].max()
    for ax, (name, title) in zip(panels, NAMES.items(), strict=True):
        rows = table[table["parametrization"] == name]
        for (layer, step), line in rows.groupby(["layer", "step"]):
            look = {"color": COLOURS[layer - 1], "marker": MARKERS[layer - 1], "markersize": 4}
            ax.plot(line["width"], line["change"], alpha=0.25 + 0.75 * step / steps, **look)
        _plain(ax)
        _log_if_wide(ax, "x", rows["width"])
        _log_if_wide(ax, "y", table["change"])
        ax.set(xlabel="width of both hidden layers", title=title)
    panels[0].set_ylabel("mean absolute change of activations")
    names = [f"hidden layer {layer}" for layer in layers[:-1]] + ["logits"]
    looks = [{"color": COLOURS[i], "marker": MARKERS[i], "label": label} for i, label in enumerate(names)]
    handles = [Line2D([], [], **look) for look in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"Change since initialization after 1 to {steps} steps (stronger: later)", fontsize="medium")
    return figure


def quotient_intervals(table: pd.DataFrame, label: str, title: str) -> Figure:
    """Quotients with their intervals, a row each, the first at the top; 1 is a line.

    table: the column `label`, quotient, low, high (NaN: no interval).
    """
    figure = _figure(7, 1.4 + 0.35 * len(table))
    ax = figure.subplots()
    ax.axvline(1, color="black", linewidth=0.8)
    places = range(len(table))
    ax.hlines(places, table["low"], table["high"], color=BLUE, linewidth=2)
    ax.plot(table["quotient"], places, "o", color=BLUE, markeredgecolor="white")
    ax.set_yticks(places, table[label])
    ax.set_ylim(len(table) - 0.5, -0.5)
    _plain(ax)
    ax.grid(False, axis="y")
    _log_if_wide(ax, "x", table["quotient"])
    ax.set_xlabel("quotient of test losses (interval: Student's t over the run seeds)")
    ax.set_title(title, fontsize="medium")
    return figure
