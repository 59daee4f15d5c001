"""Tables of a grid, and curves of evidence.widths, to matplotlib Figures; losses are in nats an example."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mlp_lib.core.values import LOG_HYPERPARAMETERS
from mlp_lib.evidence.intervals import count_text
from mlp_lib.evidence.summaries import short_name
from mlp_lib.evidence.widths import Curve
from mlp_lib.figures.style import LOSS, drawn, log_if_wide, new_figure, panel_grid

_TALLEST = 5  # times the highest optimum: what is shown of losses


@drawn
def loss_by_width(
    curves: Mapping[tuple[str, int, str], Mapping[str, Curve]], optima: pd.DataFrame, drifts: pd.DataFrame
) -> Figure:
    """Test loss against a hyperparameter, a curve a width: the mean over seeds, and a band from the least to the most.

    A panel a parametrization (column), hyperparameter and number of hidden layers (row), with its verdict. A dot is an
    optimum, the bar through it its interval. curves: of find_curves; optima, drifts: of over_widths.
    """
    columns = list(dict.fromkeys(name for name, _, _ in curves))
    lines = sorted({(parameter, layers) for _, layers, parameter in curves})
    widths = sorted(optima["width"].unique())
    colours = dict(zip(widths, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(widths))), strict=True))
    figure = new_figure(3.6 * len(columns) + 1, 3.2 * len(lines) + 0.4)
    panels = figure.subplots(len(lines), len(columns), sharex="row", sharey=True, squeeze=False)
    verdicts = drifts.set_index(["parametrization", "layers", "hyperparameter"])["verdict"]
    found = optima.set_index(["parametrization", "architecture", "hyperparameter"])
    for (name, layers, parameter), series in curves.items():
        ax = panels[lines.index((parameter, layers)), columns.index(name)]
        for architecture, curve in series.items():
            look, losses = {"color": colours[curve.width]}, np.exp(curve.losses)
            ax.plot(curve.values, losses.mean(axis=1), linewidth=1.4, **look)
            ax.fill_between(curve.values, losses.min(axis=1), losses.max(axis=1), alpha=0.15, linewidth=0, **look)
            row = found.loc[(name, architecture, parameter)]
            ax.plot([row["low"], row["high"]], [row["loss"]] * 2, linewidth=3, alpha=0.6, **look)
            ax.plot(row["optimum"], row["loss"], "o", markeredgecolor="white", **look)
        ax.set_title(f"{name}\n{count_text(layers, 'hidden layer')}: {verdicts[name, layers, parameter]}")
        ax.set(xlabel=parameter, xscale="log" if curve.logarithmic else "linear")
    highest = optima["loss"].max()
    panels[0, 0].set_ylim(0.9 * optima["loss"].min(), _TALLEST * highest)
    log_if_wide(panels[0, 0], "y", pd.Series([0.9 * optima["loss"].min(), _TALLEST * highest]))
    handles = [Line2D([], [], linewidth=1.4, color=colour, label=width) for width, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right upper", title="width")
    figure.supylabel(f"test {LOSS}")
    return figure


@drawn
def grid_maps(trials: pd.DataFrame, free: Sequence[str]) -> Figure:
    """Test loss over two hyperparameters, a panel an architecture; a star is the chosen trial.

    trials: architecture, the hyperparameters, test_loss, chosen; free: the two, one axis each. White: diverged.
    """
    x, y = free
    names = list(trials["architecture"].unique())
    figure, panels = panel_grid(names, 3.4, 3.0, "Test loss over the grid", x, y)
    finite = trials["test_loss"][np.isfinite(trials["test_loss"])]
    norm = LogNorm(finite.min(), finite.max())
    for name, ax in panels.items():
        own = trials[trials["architecture"] == name]
        table = own.pivot(index=y, columns=x, values="test_loss")
        mesh = ax.pcolormesh(table.columns, table.index, table, norm=norm, cmap="viridis_r", shading="nearest")
        ax.plot(x, y, "*", color="white", markeredgecolor="black", markersize=12, data=own[own["chosen"]])
        logs = [axis for axis, of in (("x", x), ("y", y)) if of in LOG_HYPERPARAMETERS and (trials[of] > 0).all()]
        ax.set(**{f"{axis}scale": "log" for axis in logs})
        ax.set_title(short_name(name), fontsize="large")
        ax.spines[:].set_visible(True)
        ax.grid(False)
    figure.colorbar(mesh, ax=list(panels.values()), label=f"test {LOSS}", shrink=0.8)
    return figure
