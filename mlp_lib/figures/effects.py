"""Pure functions from the tables of effects to their figures, one of them an HTML table.

`effects`: a row a pair of target and another source: target, source, relative_regret (transferred / own), low and high
(interval of the quotient), p, p_adjusted, excludes_zero (after Benjamini-Hochberg), beyond_margin, within_margin.
"""

import textwrap
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import CenteredNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mlp_lib.figures.style import BLUE, MAX_PRINTED, ORANGE, new_figure, plain_axes, short_name


def heatmap(matrix: pd.DataFrame, title: str, centre: float, label: str) -> Figure:
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
        title += " (hatched: diverged or not trained)"
    limit, clipped = _limit(np.abs(values[np.isfinite(values)] - centre))
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
            dark = np.dot(image.to_rgba([value])[0, :3], (0.299, 0.587, 0.114)) < 0.5  # perceived brightness
            colour = "white" if dark else "black"
            ax.text(column, row, text if np.isfinite(value) else "", ha="center", va="center", color=colour, fontsize=8)
    ax.set(xlabel="source (tuned on)", ylabel="target (trained)")
    ax.set_title(textwrap.fill(title, int(9 * figure.get_figwidth())), fontsize="medium")  # 9 letters an inch fit
    bar = figure.colorbar(image, label=label, extend="both" if clipped else "neither", shrink=0.8)
    if centre > 0:  # quotients, which are never negative
        bar.ax.set_ylim(bottom=max(0.0, centre - limit))
    return figure


def _limit(distances: np.ndarray) -> tuple[float, bool]:
    """The distance from the centre that takes the full colour [any distances >= 0], and whether some lie beyond."""
    if not distances.any():
        return 1.0, False
    usual = np.quantile(distances, 0.9)
    if 0 < usual < distances.max() / 4:
        return float(usual), True
    return float(distances.max()), False


NO_PAIR = "No two architectures: nothing was transferred."
MANY_PAIRS = 45  # beyond which the rows are set closer
VERDICTS = {"equivalent": (BLUE, "o"), "different": (ORANGE, "D"), "undetermined": ("0.45", "s")}


def _matrix(effects: pd.DataFrame) -> pd.DataFrame:
    """Relative regret by target (row) and source (column), in order of first appearance as targets; 1 for its own."""
    targets, sources = effects["target"].unique(), effects["source"].unique()
    columns = [name for name in dict.fromkeys([*targets, *sources]) if name in sources]
    matrix = effects.pivot(index="target", columns="source", values="relative_regret")
    matrix = matrix.reindex(index=targets, columns=columns)
    for name in set(targets) & set(sources):
        matrix.loc[name, name] = 1.0
    return matrix


def effect_matrix(effects: pd.DataFrame, margin: float) -> Figure:
    """Heatmap of relative regret: * where excludes_zero, a thick border where wholly beyond the margin."""
    if effects.empty:
        figure = new_figure(5, 1)
        figure.text(0.5, 0.5, NO_PAIR, ha="center", va="center")
        return figure
    matrix = _matrix(effects)
    figure = heatmap(matrix, "Test loss relative to the target's own hyperparameters", 1.0, "transferred / own")
    ax = figure.axes[0]
    colours, printed = _colours(matrix), list(ax.texts)
    starred = beyond = 0
    for effect in effects.itertuples():
        row, column = matrix.index.get_loc(effect.target), matrix.columns.get_loc(effect.source)
        if effect.excludes_zero:
            starred += 1
            if printed:
                text = printed[row * matrix.shape[1] + column]
                text.set(text=text.get_text() + "*", fontweight="bold")
            else:
                ink = _ink(*colours(effect.relative_regret))
                ax.text(column, row, "*", color=ink, ha="center", va="center_baseline", fontweight="bold")
        if effect.beyond_margin:
            beyond += 1
            ax.add_patch(Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, edgecolor="black", linewidth=2))
    star = f"{starred} of {len(effects)} cells differ from 1 (Benjamini-Hochberg)"
    handles = [
        Line2D([], [], linestyle="", marker="$*$", color="black", label=star),
        Patch(fill=False, edgecolor="black", linewidth=2, label=f"{beyond} wholly beyond ±{100 * margin:g} %"),
    ]
    narrow = figure.get_figwidth() < 6
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 2, frameon=False)
    return figure


def _colours(matrix: pd.DataFrame) -> Callable:
    """The function from a value to the colour [4] that `heatmap` gives it."""
    values = matrix.to_numpy(dtype=float)
    limit, _ = _limit(np.abs(values[np.isfinite(values)] - 1))
    norm, colormap = CenteredNorm(1.0, limit), colormaps["RdBu_r"]
    return lambda value: colormap(norm(value))


def _ink(red: float, green: float, blue: float, _alpha: float = 1.0) -> str:
    """Black or white, whichever reads better on the colour."""
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"  # perceived brightness


def architecture_intervals(pairs: pd.DataFrame, margin: float) -> Figure:
    """Forest plot: the difference of every two architectures with its intervals, coloured by verdict, largest first.

    pairs: upper, lower, relative (upper - lower), low and high (its simultaneous interval: thin), equivalence_low and
    equivalence_high (the interval that two one-sided tests hold against the margin: thick), all as parts of the grand
    mean, verdict.
    """
    rows = 100 * pairs[["relative", "low", "high", "equivalence_low", "equivalence_high"]].astype(float)
    rows = rows.assign(
        verdict=pairs["verdict"], label=pairs["upper"].map(short_name) + " - " + pairs["lower"].map(short_name)
    )
    rows = rows.sort_values("relative", ascending=False, kind="stable").reset_index(drop=True)
    many = len(rows) > MANY_PAIRS
    figure = new_figure(7.5, 2.2 + (0.2 if many else 0.3) * len(rows))
    ax = figure.subplots()
    ax.axvspan(-100 * margin, 100 * margin, color="0.93", zorder=0)
    ax.axvline(0, color="black", linewidth=0.8)
    handles = []
    for verdict, (colour, marker) in VERDICTS.items():
        group = rows[rows["verdict"] == verdict]
        ax.hlines(group.index, group["low"], group["high"], color=colour, linewidth=1)
        ax.hlines(group.index, group["equivalence_low"], group["equivalence_high"], color=colour, linewidth=3)
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "markersize": 5 if many else 7}
        ax.plot(group["relative"], group.index, linestyle="", **look)
        handles.append(Line2D([], [], label=f"{verdict} ({len(group)})", **look))
    ax.set_yticks(range(len(rows)), rows["label"], fontsize=7 if many else 9)
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    plain_axes(ax)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("difference of mean test loss (% of the grand mean)")
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

    Colours, stars and frames as in effect_matrix; all style is inline, so it needs no style sheet.
    """
    if effects.empty:
        return f"<p>{NO_PAIR}</p>"
    matrix = _matrix(effects)
    colours = _colours(matrix)
    cells = {(effect.target, effect.source): effect for effect in effects.itertuples()}
    head = "".join(
        f'<th scope="col" style="padding:2px 5px">{escape(short_name(source))}</th>' for source in matrix.columns
    )
    lines = [
        '<div style="overflow-x:auto"><table class="effects" style="border-collapse:collapse;font-size:0.85em">',
        "<caption>Test loss with the source's hyperparameters / with the target's own. * differs from 1"
        " (Benjamini-Hochberg); framed: wholly beyond the margin. Point at a cell for its numbers.</caption>",
        f'<thead><tr><th scope="col">target \\ source</th>{head}</tr></thead><tbody>',
    ]
    for target in matrix.index:
        row = "".join(_cell(cells.get((target, source)), target == source, colours) for source in matrix.columns)
        lines.append(
            '<tr><th scope="row" style="padding:2px 5px;white-space:nowrap">'
            f"{escape(short_name(target))}</th>{row}</tr>"
        )
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(effect: Any, own: bool, colours: Callable) -> str:
    """One <td>; `effect` is a row of effects or None."""
    if own:
        return '<td title="own hyperparameters" style="text-align:center;color:GrayText">1</td>'
    if effect is None or not np.isfinite(effect.relative_regret):
        return '<td title="no finite result" style="text-align:center;color:GrayText">&ndash;</td>'
    value = effect.relative_regret
    colour = colours(value)
    style = f"background:{to_hex(colour)};color:{_ink(*colour)};padding:2px 5px;text-align:right"
    if effect.beyond_margin:
        style += ";outline:2px solid black;outline-offset:-2px"
    title = (
        f"target {short_name(effect.target)}, source {short_name(effect.source)}: relative regret {value:.4f},"
        f" interval {effect.low:.4f} to {effect.high:.4f}, "
    )
    known = np.isfinite(effect.p_adjusted)
    title += f"p = {effect.p:.2g}, adjusted {effect.p_adjusted:.2g}" if known else "not tested"
    star = "*" if effect.excludes_zero else ""
    return f'<td title="{escape(title, quote=True)}" style="{style}">{value:.3f}{star}</td>'
