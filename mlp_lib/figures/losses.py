"""Pure functions from the tables of a run to matplotlib Figures.

No pyplot, so nothing global is touched. Losses are in nats an example; a value that is not finite is not drawn.
Architectures are shown without their prefix: `mlp_256x128` as 256x128.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlp_lib.evidence.intervals import count_text
from mlp_lib.evidence.summaries import short_name
from mlp_lib.figures.style import (
    BLUE,
    GREY,
    LOSS,
    ORANGE,
    drawn,
    log_if_wide,
    looks,
    new_axes,
    new_figure,
    plain_rows,
    spread,
    with_untrained,
)


@drawn
def loss_distribution(losses: pd.DataFrame) -> Figure:
    """Test loss of every retrain seed by architecture, the mean as a bar, the mean accuracy at the right.

    losses: architecture, seed, test_loss, test_accuracy; a row a training.
    """
    architectures = losses["architecture"].unique()
    figure, ax = new_axes(7.5, 1.8 + 0.4 * len(architectures))
    finite = losses[np.isfinite(losses["test_loss"])]
    accuracies = []
    for row, (architecture, look) in enumerate(looks(architectures).items()):
        group = finite[finite["architecture"] == architecture]
        ax.plot(group["test_loss"], row + spread(len(group), 0.18), linestyle="", alpha=0.7, markeredgewidth=0, **look)
        if len(group):
            ax.vlines(group["test_loss"].mean(), row - 0.33, row + 0.33, color="black", linewidth=2)
        accuracies.append(f"{group['test_accuracy'].mean():.2%}" if len(group) else "none trained")
    plain_rows(ax, map(short_name, architectures))
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(architectures)), accuracies)
    right.set_ylabel("mean test accuracy")
    right.tick_params(length=0)
    right.grid(False)
    right.spines["right"].set_visible(False)
    log_if_wide(ax, "x", finite["test_loss"])
    ax.set(xlabel=f"test {LOSS}", ylabel="architecture")
    seeds = count_text(losses["seed"].nunique(), "retrain seed")
    title = f"Test loss over {seeds} by architecture (bar: mean)"
    means = finite.groupby("architecture")["test_loss"].mean()
    if len(means):
        lowest = f"the lowest mean is {means.min():.4f} ({short_name(means.idxmin())})"
        figure.set_label(f"{title}: {lowest}, the highest {means.max():.4f} ({short_name(means.idxmax())})")
    ax.set_title(with_untrained(title, len(losses) - len(finite), "training"))
    return figure


@drawn
def transfer_losses(losses: pd.DataFrame) -> Figure:
    """Test loss of every target with its own and with the other architectures' hyperparameters, a point a training.

    losses: target, source, seed, test_loss; sources that are no architecture are left out.
    """
    losses = losses[losses["source"].isin(losses["target"])]
    targets = losses["target"].unique()
    figure, ax = new_axes(7.5, 2.2 + 0.5 * len(targets))
    finite = losses[np.isfinite(losses["test_loss"])]
    own = finite["target"] == finite["source"]
    looks = {
        "own hyperparameters": (finite[own], -0.2, {"color": BLUE, "marker": "D", "markersize": 6}),
        "another architecture's": (finite[~own], 0.16, {"color": ORANGE, "marker": "o", "markersize": 4, "alpha": 0.5}),
    }
    for label, (points, offset, look) in looks.items():
        for row, target in enumerate(targets):
            values = points.loc[points["target"] == target, "test_loss"]
            heights = row + offset + spread(len(values), 0.04 if offset < 0 else 0.16)
            ax.plot(values, heights, linestyle="", markeredgewidth=0, label=label if row == 0 else None, **look)
            if len(values):
                ax.vlines(values.mean(), row + offset - 0.17, row + offset + 0.17, color="black", linewidth=2)
    for row in range(len(targets) - 1):
        ax.axhline(row + 0.5, color="0.9", linewidth=0.8, zorder=0)
    plain_rows(ax, map(short_name, targets))
    log_if_wide(ax, "x", finite["test_loss"])
    ax.plot([], [], "|", color="black", markersize=12, markeredgewidth=2, label="mean")
    figure.legend(loc="outside lower center", ncols=3)
    seeds = count_text(losses["seed"].nunique(), "seed")
    title = f"Test loss by target over {seeds}: own against transferred hyperparameters"
    title = with_untrained(title, len(losses) - len(finite), "training")
    ax.set(xlabel=f"test {LOSS}", ylabel="target (trained)", title=title)
    return figure


@drawn
def quotient_intervals(table: pd.DataFrame, label: str, title: str) -> Figure:
    """Quotients with their intervals, a row each, the first at the top; 1 is a line.

    table: the column `label`, quotient, low, high (NaN: no interval).
    """
    figure, ax = new_axes(7, 1.4 + 0.35 * len(table))
    ax.axvline(1, color="black", linewidth=0.8)
    places = range(len(table))
    ax.hlines(places, table["low"], table["high"], color=BLUE, linewidth=2)
    ax.plot(table["quotient"], places, "o", color=BLUE, markeredgecolor="white")
    plain_rows(ax, table[label])
    log_if_wide(ax, "x", table["quotient"])
    ax.set(xlabel="quotient of test losses (interval: Student's t over the run seeds)", title=title)
    known = table.dropna(subset="quotient")
    values = (f"{name} {value:.3f}" for name, value in zip(known[label], known["quotient"], strict=True))
    figure.set_label(f"{title}: {', '.join(values)}")
    return figure


@drawn
def speeds(table: pd.DataFrame) -> Figure:
    """Time of a member's epoch by method, a panel a case; rows as in benchmark.csv."""
    cases = list(table.groupby(["architecture", "members", "batch_size", "workers"], sort=False))
    figure = new_figure(8, 0.6 + 1.9 * len(cases))
    panels = figure.subplots(len(cases), squeeze=False)[:, 0]
    for ax, ((architecture, members, batch_size, workers), rows) in zip(panels, cases, strict=True):
        seconds = rows["seconds_per_member_epoch"]
        colours = [BLUE if method in ("population", "medium") else GREY for method in rows["method"]]
        bars = ax.barh(rows["method"], seconds, color=colours, height=0.7)
        labels = [f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms" for value in seconds]
        ax.bar_label(bars, labels, padding=4)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.15 * seconds.max())
        title = f"{architecture}, {members} members, batch {batch_size}, workers {workers}"
        ax.set_title(title, loc="left")
        ax.grid(False)
    figure.supxlabel("seconds a member and epoch")
    return figure
