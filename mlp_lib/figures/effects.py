"""Pure functions from the tables of effects to their figures.

A pair is a target and another source; its quotient is transferred / own, the exponential of a mean log difference.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mlp_lib.evidence.summaries import by_pair, short_name
from mlp_lib.figures.style import BLUE, MAX_PRINTED, ORANGE, drawn, new_axes, plain_rows

MANY_PAIRS = 45  # beyond which the rows are set closer
VERDICTS = {
    "equivalent": (BLUE, "o"),
    "different_beyond_margin": (ORANGE, "D"),
    "different": ("#E69F00", "v"),
    "undetermined": ("0.45", "s"),
}


@drawn
def heatmap(
    matrix: pd.DataFrame, title: str, centre: float, label: str, hatched: str = "hatched: diverged or not trained"
) -> Figure:
    """A matrix of targets (rows) and sources (columns) in diverging colours: white at `centre`, hatched where NaN.

    `label` names the value, with its unit, at the colour bar. A few outliers do not bleach the rest: a limit is then
    set below them, and the colour bar's pointed ends say so. Values are printed up to 12 architectures.
    """
    rows, columns = matrix.shape
    sides = [2.6 + 0.62 * min(n, MAX_PRINTED) + 0.35 * max(n - MAX_PRINTED, 0) for n in (columns, rows)]
    figure, ax = new_axes(sides[0] + 1.4, sides[1])
    values = matrix.to_numpy(dtype=float)
    if np.isnan(values).any():
        title += f" ({hatched})"
    limit, clipped = _limit(values, centre)
    image = ax.imshow(values, cmap="RdBu_r", norm=CenteredNorm(centre, limit))
    ax.patch.set(facecolor="0.92", edgecolor="0.6", hatch="////")
    ax.set_xticks(
        range(columns), [short_name(name) for name in matrix.columns], rotation=45, ha="right", rotation_mode="anchor"
    )
    ax.set_yticks(range(rows), [short_name(name) for name in matrix.index])
    ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if max(rows, columns) <= MAX_PRINTED:
        decimals = int(np.clip(1 - np.floor(np.log10(limit)), 2, 5))
        for (row, column), value in np.ndenumerate(values):
            text = f"{round(value, decimals) + 0.0:.{decimals}f}" if abs(value) < 100 else f"{value:.3g}"  # no -0.00
            look = {"color": _ink(*image.to_rgba([value])[0]), "ha": "center", "va": "center", "fontsize": 8}
            ax.text(column, row, text if np.isfinite(value) else "", **look)
    title = textwrap.fill(title, int(9 * figure.get_figwidth()))  # 9 letters an inch fit
    ax.set(xlabel="source (tuned on)", ylabel="target (trained)", title=title)
    bar = figure.colorbar(image, label=label, extend="both" if clipped else "neither", shrink=0.8)
    if centre > 0:  # quotients, which are never negative
        bar.ax.set_ylim(bottom=max(0.0, centre - limit))
    for panel in (ax, bar.ax):  # lines between cells over frames, and ticks over colours
        panel.set_axisbelow("line")
    return figure


def _limit(values: np.ndarray, centre: float) -> tuple[float, bool]:
    """The distance from the centre that takes the full colour, and whether some of the values lie beyond."""
    distances = np.abs(values[np.isfinite(values)] - centre)
    if not distances.any():
        return 1.0, False
    usual = np.quantile(distances, 0.9)
    clipped = bool(0 < usual < distances.max() / 4)
    return float(usual if clipped else distances.max()), clipped


@drawn
def pair_matrix(pairs: pd.DataFrame, margin: float, title: str) -> Figure:
    """Heatmap of what each source's hyperparameters cost on each target, framed where shown to be beyond the margin.

    pairs: target, source, quotient (transferred / own; NaN: hatched, most trainings fail), beyond_margin.
    """
    matrix, beyond = by_pair(pairs, "quotient"), pairs[pairs["beyond_margin"]]
    for name in {*matrix.index} & {*matrix.columns}:  # with its own
        matrix.loc[name, name] = 1.0
    figure = heatmap(matrix, title, 1.0, "transferred / own", "hatched: most do not train")
    for target, source in zip(beyond["target"], beyond["source"], strict=True):
        row, column = matrix.index.get_loc(target), matrix.columns.get_loc(source)
        corner = (column - 0.45, row - 0.45)
        figure.axes[0].add_patch(Rectangle(corner, 0.9, 0.9, fill=False, edgecolor="black", linewidth=2))
    label = f"{len(beyond)} of {len(pairs)} pairs beyond the {100 * margin:g} % margin"
    handle = Patch(fill=False, edgecolor="black", linewidth=2, label=label)
    figure.legend(handles=[handle], loc="outside lower center")
    if len(known := pairs.dropna(subset="quotient")):
        worst = known.loc[known["quotient"].idxmax()]
        names = f"{short_name(worst['target'])} with {short_name(worst['source'])}'s"
        figure.set_label(f"{title}: {label}; the highest quotient is {worst['quotient']:.3f}, {names}")
    return figure


def _ink(red: float, green: float, blue: float, _alpha: float = 1.0) -> str:
    """Black or white, whichever reads better on the colour."""
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"  # perceived brightness


@drawn
def architecture_intervals(pairs: pd.DataFrame, margin: float, title: str) -> Figure:
    """Forest plot: the difference of every two architectures, coloured by verdict, with the interval of that test.

    pairs: upper, lower, relative (upper / lower), low and high, all of quotients less 1, verdict; the largest is drawn
    on top.
    """
    rows = 100 * pairs[["relative", "low", "high"]].astype(float)
    rows = rows.assign(
        verdict=pairs["verdict"], label=pairs["upper"].map(short_name) + " - " + pairs["lower"].map(short_name)
    )
    rows = rows.sort_values("relative", ascending=False, kind="stable").reset_index(drop=True)
    many = len(rows) > MANY_PAIRS
    figure, ax = new_axes(7.5, 2.2 + (0.2 if many else 0.3) * len(rows))
    ax.axvspan(100 / (1 + margin) - 100, 100 * margin, color="0.93", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    handles = []
    for verdict, (colour, marker) in VERDICTS.items():
        group = rows[rows["verdict"] == verdict]
        ax.hlines(group.index, group["low"], group["high"], color=colour, linewidth=1 if many else 2)
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "markersize": 5 if many else 7}
        ax.plot(group["relative"], group.index, linestyle="", **look)
        handles.append(Line2D([], [], label=f"{verdict.replace('_', ' ')} ({len(group)})", **look))
    plain_rows(ax, rows["label"], fontsize=7 if many else 9)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("difference of test loss (quotient less 1, %)")
    number = len({*pairs["upper"], *pairs["lower"]})
    ax.set_title(f"{title} of {number} architectures")
    if len(rows):
        largest = f"the largest is {rows['relative'].iloc[0]:.1f} %, {rows['label'].iloc[0]}"
        figure.set_label(f"{ax.get_title()}: {', '.join(h.get_label() for h in handles)}; {largest}")
    handles += [
        Line2D([], [], color="black", linewidth=2, label="interval of the test that decides"),
        Patch(color="0.93", label=f"margin ±{100 * margin:g} %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")
    return figure
