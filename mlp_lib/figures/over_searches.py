"""Tables of evidence.over_searches to matplotlib Figures.

Losses and regrets come as logarithms and are drawn exponentiated: as nats an example and as quotients. n is the number
of trials of a search; a band is the interval over searches and run seeds.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from mlp_lib.evidence.summaries import short_name
from mlp_lib.figures.style import BLUE, LOSS, ORANGE, drawn, looks, new_axes, new_figure, panel_grid

TRIALS = "trials of a search"
COMPONENTS = {"run_seed": "run seed", "images": "test images"}


@drawn
def regret_by_budget(frame: pd.DataFrame, margin: float) -> Figure:
    """The mean quotient transferred / own against n with its band, and the margin.

    frame: n, regret, low, high.
    """
    figure, ax = new_axes(6.5, 3.8)
    _band(ax, frame["n"], np.exp(frame[["regret", "low", "high"]]), BLUE)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.axhline(1 + margin, color=ORANGE, linestyle="--", label=f"margin, {100 * margin:g} %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    title = "What another architecture's hyperparameters cost, over searches"
    ax.set(xlabel=TRIALS, ylabel="transferred / own (mean over the pairs)", title=title)
    ax.legend()
    if len(known := frame.dropna(subset="regret")):
        ends = (f"{np.exp(row.regret):.3f} at {row.n:g} trials" for row in (known.iloc[0], known.iloc[-1]))
        figure.set_label(f"{title}: " + ", ".join(ends))
    return figure


@drawn
def tuning_curves(frame: pd.DataFrame) -> Figure:
    """The loss of each architecture against n of its own search, with its band; below it how often each is best.

    frame: architecture, n, loss, low, high (logs), share_best.
    """
    figure = new_figure(6.4, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    curves = dict(list(frame.groupby("architecture", sort=False)))
    bottom = 0.0
    for name, look in looks(curves).items():
        curve = curves[name]
        _band(upper, curve["n"], np.exp(curve[["loss", "low", "high"]]), **look, label=short_name(name))
        top = bottom + 100 * curve["share_best"].to_numpy()
        lower.bar(curve["n"], top - bottom, bottom=bottom, width=0.8, color=look["color"])
        bottom = top
    title = "What tuning comes to: each architecture with its own search"
    upper.set(ylabel=f"test {LOSS}", title=title)
    lower.set(xlabel=TRIALS, ylabel="run seeds at which\neach is best (%)", ylim=(0, 100))
    lower.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside right upper", title="architecture", fontsize="small")
    if len(last := frame[frame["n"] == frame["n"].max()].dropna(subset="loss").sort_values("loss")):
        values = (f"{short_name(row.architecture)} {np.exp(row.loss):.4f}" for row in last.itertuples())
        figure.set_label(f"{title}; test loss at {last['n'].iloc[0]} trials: {', '.join(values)}")
    return figure


@drawn
def variance_components(series: pd.Series) -> Figure:
    """Bars of the variances of log test losses by component, with the standard deviation beside each.

    series: variances by name, NaN where unknown.
    """
    figure, ax = new_axes(6.5, 1.3 + 0.4 * len(series))
    names = [COMPONENTS.get(name, name) for name in series.index]
    bars = ax.barh(names, 1e4 * series.fillna(0), color=BLUE, height=0.65)
    ax.bar_label(bars, ["unknown" if np.isnan(v) else f"{100 * np.sqrt(v):.2g} %" for v in series], padding=4)
    ax.set_xlim(right=1.15 * max(1e4 * series.max(), 1e-6) if series.notna().any() else 1)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    title = "What makes tuned test losses differ"
    ax.set(xlabel="variance of log test loss (1e-4) and its root", title=title)
    values = (f"{name} {text.get_text()}" for name, text in zip(names, ax.texts, strict=True))
    figure.set_label(f"{title}: {', '.join(values)}")
    return figure


@drawn
def tuning_cost(frame: pd.DataFrame) -> Figure:
    """A target's loss against the operations of tuning on each source and training it once, a panel a target.

    frame: target, source, n, operations, loss, low, high (logs). The band is that of tuning on the target itself.
    """
    names = list(frame["target"].unique())
    title = "Where tuning small pays: what tuning on each source costs and comes to"
    figure, panels = panel_grid(names, 3.4, 2.6, title, "floating-point operations", f"test {LOSS}")
    for target, ax in panels.items():
        rows = frame[frame["target"] == target]
        for source, look in looks(names).items():
            curve, own = rows[rows["source"] == source], source == target
            look = look | {"linewidth": 2.4 if own else 1, "zorder": 3 if own else 2}
            ends = ["loss", "low", "high"] if own else ["loss"]
            label = short_name(source) if target == names[0] else None
            _band(ax, curve["operations"], np.exp(curve[ends]), **look, label=label)
        ax.set_title(f"target {short_name(target)}")
        if frame["loss"].notna().any():
            ax.set_xscale("log")
            decades = math.log10(frame["operations"].max() / frame["operations"].min())
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)) if decades > 1 else MaxNLocator(3))
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.xaxis.set_minor_formatter(NullFormatter())
    title, small = "tuned on (thick:\nthe target itself)", {"fontsize": "small", "title_fontsize": "small"}
    figure.legend(loc="outside right upper", title=title, **small)
    return figure


@drawn
def replication(frame: pd.DataFrame) -> Figure:
    """Each pair's quotient here against there, a panel a question; what differs by more than chance allows is open.

    frame: question, here, there, low, high (logs; the interval of the difference).
    """
    titles = {"hyperparameter_transfer": "transferred / own", "architecture_sensitivity": "first / second architecture"}
    figure = new_figure(7.5, 3.9)
    for ax, (question, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        rows = frame[(frame["question"] == question) & frame["low"].notna()]
        apart = (rows["low"] > 0) | (rows["high"] < 0)
        here, there = np.exp(rows["here"]), np.exp(rows["there"])
        ax.axline((1, 1), slope=1, color="black", linewidth=0.8)
        ax.scatter(there, here, s=22, color=np.where(apart, "none", BLUE), edgecolor=BLUE)
        ax.set(xlabel="another run", ylabel="this run", aspect="equal", title=title)
        if len(rows):
            ends = 0.99 * min(here.min(), there.min()), 1.01 * max(here.max(), there.max())
            ax.set(xlim=ends, ylim=ends)
    figure.set_label(f"{len(frame)} quotients here against another run's")
    return figure


def _band(ax: Axes, x: pd.Series, values: pd.DataFrame, color: str, marker: str = "", **look) -> None:
    """A line through the first column, marked at its end, and a band between the other two."""
    middle, *ends = values.columns
    ax.plot(x, values[middle], color=color, marker=marker, markersize=5, markevery=[-1], **look)
    if ends:
        ax.fill_between(x, *(values[end] for end in ends), color=color, alpha=0.12, linewidth=0)
