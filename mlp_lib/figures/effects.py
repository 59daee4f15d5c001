"""Pure functions from the tables of effects to their figures, one of them an HTML table.

`effects`: a row a pair of target and another source: target, source, relative_regret (transferred / own), low and high
(interval of the quotient), p, p_adjusted, excludes_zero (after Benjamini-Hochberg), beyond_margin, within_margin.
"""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import CenteredNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mlp_lib.figures.style import BLUE, MAX_PRINTED, ORANGE, drawn, new_figure, plain_axes, short_name

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
    figure = new_figure(sides[0] + 1.4, sides[1])
    ax = figure.subplots()
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
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if max(rows, columns) <= MAX_PRINTED:
        decimals = int(np.clip(1 - np.floor(np.log10(limit)), 2, 5))
        for (row, column), value in np.ndenumerate(values):
            text = f"{round(value, decimals) + 0.0:.{decimals}f}" if abs(value) < 100 else f"{value:.3g}"  # no -0.00
            look = {"color": _ink(*image.to_rgba([value])[0]), "ha": "center", "va": "center", "fontsize": 8}
            ax.text(column, row, text if np.isfinite(value) else "", **look)
    ax.set(xlabel="source (tuned on)", ylabel="target (trained)")
    ax.set_title(textwrap.fill(title, int(9 * figure.get_figwidth())), fontsize="medium")  # 9 letters an inch fit
    bar = figure.colorbar(image, label=label, extend="both" if clipped else "neither", shrink=0.8)
    if centre > 0:  # quotients, which are never negative
        bar.ax.set_ylim(bottom=max(0.0, centre - limit))
    return figure


def _limit(values: np.ndarray, centre: float) -> tuple[float, bool]:
    """The distance from the centre that takes the full colour, and whether some of the values lie beyond."""
    distances = np.abs(values[np.isfinite(values)] - centre)
    if not distances.any():
        return 1.0, False
    usual = np.quantile(distances, 0.9)
    if 0 < usual < distances.max() / 4:
        return float(usual), True
    return float(distances.max()), False


def _matrix(effects: pd.DataFrame) -> pd.DataFrame:
    """Relative regret by target (row) and source (column), in order of first appearance as targets; 1 for its own."""
    targets, sources = effects["target"].unique(), effects["source"].unique()
    columns = [name for name in dict.fromkeys([*targets, *sources]) if name in sources]
    matrix = effects.pivot(index="target", columns="source", values="relative_regret")
    matrix = matrix.reindex(index=targets, columns=columns)
    for name in set(targets) & set(sources):
        matrix.loc[name, name] = 1.0
    return matrix


@drawn
def effect_matrix(effects: pd.DataFrame, margin: float) -> Figure:
    """Heatmap of relative regret: * where excludes_zero, a thick border where wholly beyond the margin."""
    matrix = _matrix(effects)
    figure = heatmap(matrix, "Test loss relative to the target's own hyperparameters", 1.0, "transferred / own")
    ax = figure.axes[0]
    printed = list(ax.texts)
    for effect in effects[effects["excludes_zero"]].itertuples():
        row, column = matrix.index.get_loc(effect.target), matrix.columns.get_loc(effect.source)
        if printed:
            text = printed[row * matrix.shape[1] + column]
            text.set(text=text.get_text() + "*", fontweight="bold")
        else:
            ink = _ink(*ax.images[0].to_rgba([effect.relative_regret])[0])
            ax.text(column, row, "*", color=ink, ha="center", va="center_baseline", fontweight="bold")
    star = f"{effects['excludes_zero'].sum()} of {len(effects)} cells differ from 1 (Benjamini-Hochberg)"
    frame = f"{effects['beyond_margin'].sum()} wholly beyond ±{100 * margin:g} %"
    star = Line2D([], [], linestyle="", marker="$*$", color="black", label=star)
    _frame(figure, matrix, effects[effects["beyond_margin"]], frame, star)
    return figure


@drawn
def pair_matrix(pairs: pd.DataFrame, margin: float, confidence: float = 0.95) -> Figure:
    """Heatmap of the quotients over searches: framed where costly, hatched where broken.

    pairs: target, source, regret (log), p_beyond (NaN: broken), of `over_searches`.
    """
    table = pairs.assign(relative_regret=np.exp(pairs["regret"]).where(pairs["p_beyond"].notna()))
    costly = table["p_beyond"].isna() | (table["p_beyond"] <= 1 - confidence)
    matrix = _matrix(table)
    title = "Test loss relative to the target's own hyperparameters, over searches"
    figure = heatmap(matrix, title, 1.0, "transferred / own", "hatched: most do not train")
    _frame(figure, matrix, table[costly], f"{costly.sum()} of {len(pairs)} cost more than {100 * margin:g} %")
    return figure


def _frame(figure: Figure, matrix: pd.DataFrame, cells: pd.DataFrame, label: str, *marks: Line2D) -> None:
    """Frame the cells of a heatmap, a row a target and source, and say so below it, after the other `marks`."""
    for target, source in zip(cells["target"], cells["source"], strict=True):
        row, column = matrix.index.get_loc(target), matrix.columns.get_loc(source)
        corner = (column - 0.45, row - 0.45)
        figure.axes[0].add_patch(Rectangle(corner, 0.9, 0.9, fill=False, edgecolor="black", linewidth=2))
    handles = [*marks, Patch(fill=False, edgecolor="black", linewidth=2, label=label)]
    columns = 1 if figure.get_figwidth() < 6 else len(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _ink(red: float, green: float, blue: float, _alpha: float = 1.0) -> str:
    """Black or white, whichever reads better on the colour."""
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"  # perceived brightness


@drawn
def architecture_intervals(pairs: pd.DataFrame, margin: float) -> Figure:
    """Forest plot: the difference of every two architectures with its intervals, coloured by verdict, largest first.

    pairs: upper, lower, relative (upper - lower), low and high (its simultaneous interval: thin), equivalence_low and
    equivalence_high (the interval that two one-sided tests hold against the margin: thick), all of quotients
    less 1, verdict.
    """
    rows = 100 * pairs[["relative", "low", "high", "equivalence_low", "equivalence_high"]].astype(float)
    rows = rows.assign(
        verdict=pairs["verdict"], label=pairs["upper"].map(short_name) + " - " + pairs["lower"].map(short_name)
    )
    rows = rows.sort_values("relative", ascending=False, kind="stable").reset_index(drop=True)
    many = len(rows) > MANY_PAIRS
    figure = new_figure(7.5, 2.2 + (0.2 if many else 0.3) * len(rows))
    ax = figure.subplots()
    ax.axvspan(100 / (1 + margin) - 100, 100 * margin, color="0.93", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    handles = []
    for verdict, (colour, marker) in VERDICTS.items():
        group = rows[rows["verdict"] == verdict]
        ax.hlines(group.index, group["low"], group["high"], color=colour, linewidth=1)
        ax.hlines(group.index, group["equivalence_low"], group["equivalence_high"], color=colour, linewidth=3)
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "markersize": 5 if many else 7}
        ax.plot(group["relative"], group.index, linestyle="", **look)
        handles.append(Line2D([], [], label=f"{verdict.replace('_', ' ')} ({len(group)})", **look))
    ax.set_yticks(range(len(rows)), rows["label"], fontsize=7 if many else 9)
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    plain_axes(ax)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("difference of test loss (quotient less 1, %)")
    number = len({*pairs["upper"], *pairs["lower"]})
    ax.set_title(f"Pairwise differences of {number} architectures, paired by seed", fontsize="medium")
    handles += [
        Line2D([], [], color="black", linewidth=1, label="simultaneous interval"),
        Line2D([], [], color="black", linewidth=3, label="interval of the equivalence test"),
        Patch(color="0.93", label=f"margin ±{100 * margin:g} %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def effect_table_html(effects: pd.DataFrame) -> str:
    """The matrix of relative regret as an HTML table whose cells tell their numbers when pointed at.

    Colours, stars and frames as in effect_matrix. All style is inline: JupyterLab drops the style sheet that pandas'
    Styler writes from a notebook that it does not trust, and a kept report is such a one.
    """
    matrix = _matrix(effects)
    norm = CenteredNorm(1.0, _limit(matrix.to_numpy(dtype=float), 1.0)[0])
    cells = matrix.map(lambda value: "1" if value == 1 else "&ndash;")
    for effect in effects[np.isfinite(effects["relative_regret"])].itertuples():
        cells.loc[effect.target, effect.source] = _cell(effect, colormaps["RdBu_r"](norm(effect.relative_regret)))
    cells = cells.rename(index=_escaped, columns=_escaped).rename_axis(index=None, columns="target \\ source")
    with pd.option_context("display.max_colwidth", None):
        return cells.to_html(escape=False, border=0, justify="center")


def _escaped(architecture: str) -> str:
    return escape(short_name(architecture))


def _cell(effect: Any, colour: Sequence[float]) -> str:
    """What a cell of the HTML table holds; `effect` is a row of effects."""
    style = f"display:block;padding:2px 5px;background:{to_hex(colour)};color:{_ink(*colour)}"
    style += ";outline:2px solid black;outline-offset:-2px" if effect.beyond_margin else ""
    title = (
        f"target {short_name(effect.target)}, source {short_name(effect.source)}: relative regret"
        f" {effect.relative_regret:.4f}, interval {effect.low:.4f} to {effect.high:.4f}, "
    )
    known = np.isfinite(effect.p_adjusted)
    title += f"p = {effect.p:.2g}, adjusted {effect.p_adjusted:.2g}" if known else "not tested"
    star = "*" if effect.excludes_zero else ""
    return f'<span title="{escape(title)}" style="{style}">{effect.relative_regret:.3f}{star}</span>'
