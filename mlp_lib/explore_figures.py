"""Pure functions from the tables and predictions of single trainings to matplotlib Figures."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlp_lib.figures import BLUE, COLOURS, GREY, LOSS, ORANGE, _figure, _log_if_wide, _plain, _short

MAX_DIGITS = 24  # misclassified images that are shown


def attempt_curves(curves: pd.DataFrame, stored: pd.DataFrame | None = None, label: str = "") -> Figure:
    """Validation loss by epoch of trainings by hand; the last one thick and with its training loss.

    curves: attempt, epoch, train_loss, val_loss (NaN where not checked). stored: epoch, val_loss of a stored run's
    training, drawn dashed under its label.
    """
    figure = _figure(7.5, 4)
    ax = figure.subplots()
    attempts = curves["attempt"].unique()
    shown = [curves["val_loss"]]
    for attempt in attempts:
        last = attempt == attempts[-1]
        curve, colour = curves[curves["attempt"] == attempt], COLOURS[(attempt - 1) % len(COLOURS)]
        checks = curve[np.isfinite(curve["val_loss"])]
        if last:
            shown.append(curve["train_loss"])
            ax.plot(curve["epoch"], curve["train_loss"], color=colour, alpha=0.4, label=f"{attempt}: training loss")
        look = {"linewidth": 2.2, "marker": "."} if last else {"linewidth": 1}
        ax.plot(checks["epoch"], checks["val_loss"], color=colour, label=f"{attempt}: validation loss", **look)
    if stored is not None:
        checks = stored[np.isfinite(stored["val_loss"])]
        shown.append(checks["val_loss"])
        ax.plot(checks["epoch"], checks["val_loss"], color="black", linestyle="--", linewidth=1.2, label=label)
    _log_if_wide(ax, "y", pd.concat(shown))
    _plain(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=LOSS)
    if ax.lines:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def trial_curve(curves: pd.DataFrame, architecture: str, trial: int, chosen: int | None) -> Figure:
    """Losses of one trial at its checks, among the validation losses of all trials of its architecture.

    curves: trial, epoch, train_loss, val_loss of this architecture; chosen: the trial that the search chose.
    """
    figure = _figure(6.5, 3.9)
    ax = figure.subplots()
    for number, curve in curves.groupby("trial"):
        if number != trial:
            ax.plot(curve["epoch"], curve["val_loss"], color=GREY, linewidth=0.7, zorder=1)
    own = curves[curves["trial"] == trial]
    ax.plot(own["epoch"], own["train_loss"], color=ORANGE, label="training (with dropout)")
    ax.plot(own["epoch"], own["val_loss"], color=BLUE, marker=".", linewidth=2, label="validation")
    ax.plot([], [], color=GREY, linewidth=0.7, label="validation, other trials")
    _log_if_wide(ax, "y", pd.concat([curves["val_loss"], own["train_loss"]]))
    _plain(ax)
    title = f"{_short(architecture)}, trial {trial}" + (" (the chosen one)" if trial == chosen else "")
    ax.set(xlabel="epoch", ylabel=LOSS)
    ax.set_title(title if len(own) else f"{title}: no check was reached", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Confusion matrix, and the misclassified images of which the network was surest.

    images: [N, D], D a square number; labels: [N]; probabilities: [N, classes].
    """
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MAX_DIGITS]
    figure = _figure(11, 4.6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    _confusion(left, labels, predicted, probabilities.shape[1])
    right.suptitle(
        f"{len(wrong)} of {len(labels)} test images are misclassified (the surest: true, predicted)", size=10
    )
    side = round(images.shape[1] ** 0.5)
    panels = right.subplots(4, 6)
    for ax in panels.flat:
        ax.set_axis_off()
    for ax, index in zip(panels.flat, surest, strict=False):
        ax.imshow(images[index].reshape(side, side), cmap="gray_r")
        ax.set_title(f"{labels[index]}, {predicted[index]}", fontsize=8, pad=2)
    return figure


def _confusion(figure: Figure, labels: np.ndarray, predicted: np.ndarray, classes: int) -> None:
    """Counts of true class (row) and predicted class (column); the colour is of the mistakes alone."""
    counts = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    errors = counts * (1 - np.eye(classes, dtype=int))
    ax = figure.subplots()
    ax.imshow(errors, cmap="Blues", vmin=0, vmax=max(errors.max(), 1))
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if errors[row, column] > 0.6 * max(errors.max(), 1) else "black"
        weight = "bold" if row == column else "normal"
        ax.text(column, row, count or "", ha="center", va="center", fontsize=7, color=colour, fontweight=weight)
    ax.set_xticks(range(classes))
    ax.set_yticks(range(classes))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title("Confusion matrix of the test images", fontsize=10)
