"""Pure functions from the tables of a run to matplotlib Figures.

No pyplot, so nothing global is touched. Losses are in nats an example; a value that is not finite is not drawn.
Architectures are shown without their prefix: `mlp_256x128` as 256x128.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from mlp_lib.settings import HYPERPARAMETERS, LOG_HYPERPARAMETERS

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.6"  # Okabe & Ito's colour-blind-safe pair
# Tol's "muted", safe for the colour-blind; past nine architectures the marker tells them apart
COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LOSS = "loss (nats per example)"
MAX_PRINTED = 12  # architectures up to which a heatmap prints its values
MAX_INCHES = 40


def _figure(width: float, height: float) -> Figure:
    return Figure((min(width, MAX_INCHES), min(height, MAX_INCHES)), dpi=120, layout="constrained")


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)


def _short(architecture: str) -> str:
    return architecture.removeprefix("mlp_")


def _log_if_wide(ax: Axes, name: str, values: pd.Series) -> None:
    """A log axis, labelled in plain numbers, if the positive values span a factor of 5: below, too few labels fit."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axis = getattr(ax, f"{name}axis")
        ax.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 1000 * values.min() else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _with_diverged(title: str, diverged: int, what: str) -> str:
    return f"{title}\n({diverged} {what}{'' if diverged == 1 else 's'} diverged, not shown)" if diverged else title


def _spread(number: int, width: float) -> np.ndarray:
    """Offsets that keep `number` points of one row apart; fixed, so that a figure repeats exactly."""
    return np.linspace(-width, width, number) if number > 1 else np.zeros(number)


def _rows_of_architectures(ax: Axes, architectures: Sequence[str]) -> None:
    """Architectures as rows, the first at the top: long names need no turning."""
    ax.set_yticks(range(len(architectures)), [_short(a) for a in architectures])
    ax.set_ylim(len(architectures) - 0.5, -0.5)
    _plain(ax)
    ax.grid(False, axis="y")


def loss_curve(metrics: pd.DataFrame) -> Figure:
    """Training and validation loss of one training by epoch, its best epoch marked.

    metrics: epoch, train_loss, val_loss, val_accuracy (NaN where not checked).
    """
    figure = _figure(7, 4.2)
    ax = figure.subplots()
    checks = metrics[np.isfinite(metrics["val_loss"])]
    ax.plot(metrics["epoch"], metrics["train_loss"], color=ORANGE, label="training (with dropout)")
    ax.plot(checks["epoch"], checks["val_loss"], color=BLUE, marker=".", label="validation")
    title = "Loss of one training: no finite validation loss"
    if len(checks):
        best = checks.loc[checks["val_loss"].idxmin()]
        ax.axvline(best["epoch"], color=GREY, linestyle=":", zorder=0)
        ax.plot(best["epoch"], best["val_loss"], "*", color=BLUE, markeredgecolor="black", markersize=13, label="best")
        title = f"Loss of one training: best validation loss {best['val_loss']:.4f} at epoch {best['epoch']:g}"
        title += f" (accuracy {best['val_accuracy']:.2%})"
    _log_if_wide(ax, "y", pd.concat([metrics["train_loss"], checks["val_loss"]]))
    _plain(ax)
    ax.set(xlabel="epoch", ylabel=LOSS)
    ax.set_title(title, fontsize="medium")
    ax.legend(frameon=False)
    return figure


def search_overview(results: pd.DataFrame) -> Figure:
    """Validation loss of every trial against each of the seven hyperparameters, a colour an architecture.

    results: architecture and the columns of search_results.csv; a row a trial.
    """
    architectures = results["architecture"].unique()
    columns = -(-len(architectures) // 18)  # of the legend, which takes the eighth panel
    figure = _figure(13 + 1.6 * (columns - 1), 6.5)
    *panels, legend = figure.subplots(2, 4, sharey=True).flat
    finite = results[np.isfinite(results["val_loss"])]
    handles = []
    for i, architecture in enumerate(architectures):
        trials = finite[finite["architecture"] == architecture]
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
        for ax, name in zip(panels, HYPERPARAMETERS, strict=True):
            ax.scatter(trials[name], trials["val_loss"], s=22, alpha=0.75, linewidths=0, **look)
        handles.append(Line2D([], [], linestyle="", label=_short(architecture), **look))
    for i, (ax, name) in enumerate(zip(panels, HYPERPARAMETERS, strict=True)):
        _plain(ax)
        ax.set(xlabel=name, ylabel=f"validation {LOSS}" if i % 4 == 0 else "")
        if name in LOG_HYPERPARAMETERS and (finite[name] > 0).all():
            ax.set_xscale("log")
        else:
            ax.locator_params(axis="x", nbins=5)
    _log_if_wide(panels[0], "y", finite["val_loss"])
    legend.axis("off")
    legend.legend(handles=handles, title="architecture", loc="center", ncols=columns, frameon=False, fontsize="small")
    title = f"Validation loss of {len(finite)} trials against each hyperparameter"
    figure.suptitle(_with_diverged(title, len(results) - len(finite), "trial"))
    return figure


def loss_distribution(losses: pd.DataFrame) -> Figure:
    """Test loss of every retrain seed by architecture, the mean as a bar, the mean accuracy at the right.

    losses: architecture, seed, test_loss, test_accuracy; a row a training.
    """
    architectures = losses["architecture"].unique()
    figure = _figure(7.5, 1.8 + 0.4 * len(architectures))
    ax = figure.subplots()
    finite = losses[np.isfinite(losses["test_loss"])]
    accuracies = []
    for row, architecture in enumerate(architectures):
        group = finite[finite["architecture"] == architecture]
        ax.plot(group["test_loss"], row + _spread(len(group), 0.18), "o", color=BLUE, alpha=0.6, markeredgewidth=0)
        if len(group):
            ax.vlines(group["test_loss"].mean(), row - 0.33, row + 0.33, color=ORANGE, linewidth=2.5)
        accuracies.append(f"{group['test_accuracy'].mean():.2%}" if len(group) else "none finite")
    _rows_of_architectures(ax, architectures)
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(architectures)), accuracies)
    right.set_ylabel("mean test accuracy")
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    _log_if_wide(ax, "x", finite["test_loss"])
    ax.set(xlabel=f"test {LOSS}", ylabel="architecture")
    title = f"Test loss over {losses['seed'].nunique()} retrain seeds by architecture (bar: mean)"
    ax.set_title(_with_diverged(title, len(losses) - len(finite), "training"), fontsize="medium")
    return figure


def transfer_losses(losses: pd.DataFrame) -> Figure:
    """Test loss of every target with its own and with the other architectures' hyperparameters, a point a training.

    losses: target, source, seed, test_loss; sources that are no architecture are left out.
    """
    losses = losses[losses["source"].isin(losses["target"])]
    targets = losses["target"].unique()
    figure = _figure(7.5, 2.2 + 0.5 * len(targets))
    ax = figure.subplots()
    finite = losses[np.isfinite(losses["test_loss"])]
    own = finite["target"] == finite["source"]
    looks = {
        "own hyperparameters": (finite[own], -0.2, {"color": BLUE, "marker": "D", "markersize": 6}),
        "another architecture's": (finite[~own], 0.16, {"color": ORANGE, "marker": "o", "markersize": 4, "alpha": 0.5}),
    }
    for label, (points, offset, look) in looks.items():
        for row, target in enumerate(targets):
            values = points.loc[points["target"] == target, "test_loss"]
            heights = row + offset + _spread(len(values), 0.04 if offset < 0 else 0.16)
            ax.plot(values, heights, linestyle="", markeredgewidth=0, label=label if row == 0 else None, **look)
            if len(values):
                ax.vlines(values.mean(), row + offset - 0.17, row + offset + 0.17, color="black", linewidth=2)
    for row in range(len(targets) - 1):
        ax.axhline(row + 0.5, color="0.9", linewidth=0.8, zorder=0)
    _rows_of_architectures(ax, targets)
    _log_if_wide(ax, "x", finite["test_loss"])
    ax.set(xlabel=f"test {LOSS}", ylabel="target (trained)")
    ax.plot([], [], "|", color="black", markersize=12, markeredgewidth=2, label="mean")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    title = f"Test loss by target over {losses['seed'].nunique()} seeds: own against transferred hyperparameters"
    ax.set_title(_with_diverged(title, len(losses) - len(finite), "training"), fontsize="medium")
    return figure


def heatmap(matrix: pd.DataFrame, title: str, centre: float, label: str) -> Figure:
    """A matrix of targets (rows) and sources (columns) in diverging colours: white at `centre`, hatched where NaN.

    `label` names the value, with its unit, at the colour bar. A few outliers do not bleach the rest: a limit is then
    set below them, and the colour bar's pointed ends say so. Values are printed up to 12 architectures.
    """
    rows, columns = matrix.shape
    sides = [2.6 + 0.62 * min(n, MAX_PRINTED) + 0.35 * max(n - MAX_PRINTED, 0) for n in (columns, rows)]
    figure = _figure(sides[0] + 1.4, sides[1])
    ax = figure.subplots()
    values = matrix.to_numpy(dtype=float)
    if np.isnan(values).any():
        title += " (hatched: diverged or not trained)"
    limit, clipped = _limit(np.abs(values[np.isfinite(values)] - centre))
    image = ax.imshow(values, cmap="RdBu_r", norm=CenteredNorm(centre, limit))
    ax.patch.set(facecolor="0.92", edgecolor="0.6", hatch="////")
    ax.set_xticks(
        range(columns), [_short(name) for name in matrix.columns], rotation=45, ha="right", rotation_mode="anchor"
    )
    ax.set_yticks(range(rows), [_short(name) for name in matrix.index])
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


def learning_curves(curves: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Validation loss by epoch of all trials, a panel an architecture, the chosen trial highlighted.

    curves: architecture, trial, epoch, val_loss; chosen: architecture, trial, a row an architecture.
    """
    best = dict(zip(chosen["architecture"], chosen["trial"], strict=True))
    columns = min(4, len(best))
    rows = -(-len(best) // columns)
    figure = _figure(3.4 * columns, 2.6 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax, (architecture, trial) in zip(panels.flat, best.items(), strict=False):
        group = curves[curves["architecture"] == architecture]
        for number, curve in group.groupby("trial"):
            look = (
                {"color": BLUE, "linewidth": 2, "zorder": 3} if number == trial else {"color": GREY, "linewidth": 0.8}
            )
            ax.plot(curve["epoch"], curve["val_loss"], **look)
        ax.set_title(f"{_short(architecture)} (trial {trial})", fontsize=10)
        _plain(ax)
    for ax in panels.flat[len(best) :]:
        ax.remove()
    _log_if_wide(panels[0, 0], "y", curves["val_loss"])
    figure.supxlabel("epoch")
    figure.supylabel(f"validation {LOSS}")
    return figure


def sample_images(images: Sequence, labels: Sequence, number: int = 20) -> Figure:
    """The first images with their labels.

    images: [N, D], D a square number; labels: [N]; tensors on any device.
    """
    number = min(number, len(labels))
    side = round(len(images[0]) ** 0.5)
    figure = _figure(0.6 * number, 0.9)
    for ax, image, label in zip(figure.subplots(1, number, squeeze=False).flat, images, labels, strict=False):
        ax.imshow(image.cpu().reshape(side, side), cmap="gray_r")
        ax.set_title(int(label), fontsize=9)
        ax.set_axis_off()
    return figure
