"""Pure functions from the tables of trials and of evidence.search to matplotlib Figures.

A panel an architecture where lines would cover each other, so that 16 read as well as 2. Losses are in nats an example.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mlp_lib.core.values import HYPERPARAMETERS, LOG_HYPERPARAMETERS
from mlp_lib.evidence.search import POOLED, fixed, lr_envelope, lr_sensitivity
from mlp_lib.evidence.summaries import short_name
from mlp_lib.figures.style import (
    BLUE,
    GREY,
    LOSS,
    ORANGE,
    WIDTH,
    drawn,
    log_if_wide,
    looks,
    new_figure,
    panel_grid,
    plain_rows,
    usual_top,
    with_untrained,
)

ARROW = r"$\uparrow$"


@drawn
def search_overview(results: pd.DataFrame) -> Figure:
    """Validation loss of every trial against each of the seven hyperparameters, a colour an architecture.

    results: architecture and the columns of search_results.csv; a row a trial.
    """
    architectures = results["architecture"].unique()
    columns = -(-len(architectures) // 12)  # of the legend, which takes the eighth panel
    figure = new_figure(WIDTH, 8)
    *panels, legend, rest = figure.subplots(3, 3, sharey=True).flat
    rest.remove()
    finite = results[np.isfinite(results["val_loss"])]
    top, handles = usual_top(finite["val_loss"]), []
    for architecture, look in looks(architectures).items():
        trials = finite[finite["architecture"] == architecture]
        shown, beyond = trials[trials["val_loss"] <= top], trials[trials["val_loss"] > top]
        for ax, name in zip(panels, HYPERPARAMETERS, strict=True):
            ax.scatter(shown[name], shown["val_loss"], s=22, alpha=0.75, linewidths=0, **look)
            ax.plot(beyond[name], [top] * len(beyond), linestyle="", marker=ARROW, color=look["color"], markersize=8)
        handles.append(Line2D([], [], linestyle="", label=short_name(architecture), **look))
    for i, (ax, name) in enumerate(zip(panels, HYPERPARAMETERS, strict=True)):
        ax.set(xlabel=name, ylabel=f"validation {LOSS}" if i % 3 == 0 else "")
        if name in fixed(results):
            value = results[name].iloc[0]
            ax.set(xlabel=f"{name} (fixed)", xticks=[value], xticklabels=[f"{value:g}"])
        elif name in LOG_HYPERPARAMETERS and finite[name].min() > 0:
            ax.set_xscale("log")
        else:
            ax.locator_params(axis="x", nbins=5)
    log_if_wide(panels[0], "y", finite["val_loss"].clip(upper=top))
    legend.axis("off")
    legend.legend(handles=handles, title="architecture", loc="center", ncols=columns, fontsize="small")
    title = f"Validation loss of {len(finite)} trials against each hyperparameter"
    if number := (finite["val_loss"] > top).sum():
        title += f"\n(arrows: {number} above {top:.2g})"
    figure.suptitle(with_untrained(title, len(results) - len(finite), "trial"), fontsize="large")
    return figure


@drawn
def expected_best_curves(expected: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Expected best validation loss after n trials, a panel an architecture with its band; the others in grey.

    expected: architecture, n, expected, low, high (evidence.search.expected_best).
    """
    names = list(expected["architecture"].unique())
    title = "What n random trials find: expected best validation loss"
    figure, panels = panel_grid(names, 3.2, 2.5, title, "number of trials n", f"validation {LOSS}")
    curves = {name: expected[expected["architecture"] == name] for name in names}
    for (name, ax), look in zip(panels.items(), looks(names).values(), strict=True):
        colour = look["color"]
        for curve in curves.values():
            ax.plot(curve["n"], curve["expected"], color="0.8", linewidth=0.8, zorder=1)
        own = curves[name]
        ax.fill_between(own["n"], own["low"], own["high"], color=colour, alpha=0.2, linewidth=0)
        ax.plot(own["n"], own["expected"], color=colour, linewidth=2)
        last = own.iloc[-1]
        ax.plot(last["n"], last["expected"], "o", color=colour, markersize=4)
        found = "none trained" if np.isnan(last["expected"]) else f"{last['expected']:.4f} after {last['n']:g}"
        ax.set_title(f"{short_name(name)}: {found}")
        log_if_wide(ax, "y", pd.concat([expected[column] for column in ("expected", "low", "high")]))
        ax.locator_params(axis="x", integer=True)
    handles = [
        Line2D([], [], color="black", linewidth=2, label="expected best"),
        Patch(color="black", alpha=0.2, label=f"{100 * confidence:g} % band of the best"),
        Line2D([], [], color="0.8", label="other architectures"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@drawn
def importance_bars(importance: pd.DataFrame) -> Figure:
    """Permutation importance of each hyperparameter with its standard error, a panel a forest.

    importance: the columns of evidence.search.importance. The hyperparameters come in order of mean importance.
    """
    names = list(importance["architecture"].unique())
    title = "Which hyperparameters matter among the better half of the trials"
    figure, panels = panel_grid(names, 3.4, 2.4, title, "share of the variance of log loss\n(with standard error)")
    mean = importance.groupby("hyperparameter", sort=False)["importance"].mean()
    order = list(mean.sort_values(ascending=False, kind="stable").index)
    for name, ax in panels.items():
        bars = importance[importance["architecture"] == name].set_index("hyperparameter").loc[order]
        first = bars.iloc[0]
        of = f"{first['architectures']} architectures pooled" if name == POOLED else short_name(name)
        explained = "too few to say" if np.isnan(first["r2"]) else f"held-out R² {first['r2']:.2f}"
        ax.set_title(f"{of}\n{first['trials']} better trials, {explained}")
        look = {"color": BLUE, "height": 0.65, "error_kw": {"elinewidth": 1.2, "capsize": 3}}
        ax.barh(range(len(order)), bars["importance"], xerr=bars["error"], **look)
        ax.axvline(0, color="black", linewidth=0.8)
        known = bars["importance"].notna() | np.isnan(first["r2"])
        plain_rows(ax, [n if there else f"{n} (fixed)" for n, there in known.items()])
    return figure


@drawn
def lr_sensitivity_curves(trials: pd.DataFrame, within: float = 0.1) -> Figure:
    """Validation loss against learning rate with its lower envelope, a panel an architecture.

    trials: architecture and the columns of search_results.csv. The band is the range of lr_sensitivity.
    """
    names = list(trials["architecture"].unique())
    title = "How much the learning rate matters"
    figure, panels = panel_grid(names, 3.2, 2.6, title, "learning rate lr", f"validation {LOSS}")
    finite = trials[np.isfinite(trials["val_loss"])]
    envelope = lr_envelope(trials)
    sensitivity = lr_sensitivity(trials, within).set_index("architecture")
    for (name, ax), look in zip(panels.items(), looks(names).values(), strict=True):
        colour = look["color"]
        points, lower = (table[table["architecture"] == name] for table in (finite, envelope))
        width = sensitivity.loc[name]
        ax.plot(points["lr"], points["val_loss"], "o", color=GREY, markersize=3.5, markeredgewidth=0)
        ax.plot(lower["lr"], lower["val_loss"], color=colour, linewidth=1.8)
        title = f"{short_name(name)}: "
        if len(points):
            ax.plot(
                width["best_lr"], points["val_loss"].min(), "*", color=colour, markeredgecolor="black", markersize=11
            )
            title += f"{'fixed' if 'lr' in fixed(trials) else 'best'} lr {width['best_lr']:.2g}"
        if np.isfinite(width["decades"]):
            ax.axvspan(width["low"], width["high"], color=ORANGE, alpha=0.2, linewidth=0)
            title += f"\n{width['decades']:.1f} decades"
        ax.set_title(title if len(points) else f"{title}none trained")
        log_if_wide(ax, "y", finite["val_loss"])
        if (finite["lr"] > 0).all() and finite["lr"].nunique() > 1:
            ax.set_xscale("log")
    handles = [
        Line2D([], [], color=GREY, marker="o", markersize=4, linestyle="", label="trial"),
        Line2D([], [], color="black", label="lower envelope"),
        Line2D([], [], color="white", marker="*", markeredgecolor="black", markersize=11, linestyle="", label="best"),
        Patch(color=ORANGE, alpha=0.2, label=f"trials within {100 * within:g} % of the best"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure
