"""Tables of losses by epoch to matplotlib Figures; losses are in nats an example."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mlp_lib.evidence.summaries import short_name
from mlp_lib.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    LOSS,
    MARKERS,
    ORANGE,
    drawn,
    log_if_wide,
    looks,
    new_axes,
    new_figure,
    panel_grid,
    usual_top,
)


def _label(ax: Axes, title: str, losses: Sequence[pd.Series]) -> None:
    log_if_wide(ax, "y", pd.concat(losses))
    ax.set(xlabel="epoch", ylabel=LOSS, title=title)


@drawn
def loss_curve(metrics: pd.DataFrame) -> Figure:
    """Training and validation loss of one training by epoch, its best epoch marked.

    metrics: epoch, train_loss, val_loss, val_accuracy (NaN where not checked).
    """
    figure, ax = new_axes(7, 4.2)
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
    _label(ax, title, [metrics["train_loss"], checks["val_loss"]])
    ax.legend()
    return figure


@drawn
def learning_curves(curves: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Validation loss by epoch of all trials, a panel an architecture, the chosen trial highlighted.

    curves: architecture, trial, epoch, val_loss; chosen: architecture, trial, a row an architecture.
    """
    best = dict(zip(chosen["architecture"], chosen["trial"], strict=True))
    title = "Learning curves of all trials, the chosen one in colour"
    figure, panels = panel_grid(list(best), 3.2, 2.6, title, "epoch", f"validation {LOSS}")
    top = usual_top(curves["val_loss"])
    by = [name for name in ("trial", "seed") if name in curves]  # a grid's trial has a curve a run seed
    for (architecture, ax), look in zip(panels.items(), looks(best).values(), strict=True):
        panel = curves[curves["architecture"] == architecture]
        for own, group in panel.groupby(panel["trial"] == best[architecture]):
            table = group.pivot(index=by, columns="epoch", values="val_loss")
            table[np.nan] = np.nan  # ends each curve: all are one line, since thousands would be slow to draw
            colour, width = (look["color"], 2) if own else (GREY, 0.8)
            epochs = np.tile(table.columns, len(table))
            ax.plot(epochs, table.to_numpy().ravel(), color=colour, linewidth=width, zorder=3 if own else 2)
        ax.set_title(f"{short_name(architecture)} (trial {best[architecture]})")
        log_if_wide(ax, "y", curves["val_loss"].clip(upper=top))
    for ax in panels.values():  # once all is drawn, since the axis is shared
        ax.set_ylim(top=1.05 * top if np.isfinite(top) else None)
    return figure


@drawn
def coordinate_sizes(table: pd.DataFrame) -> Figure:
    """How far activations moved since the first step against the width: a panel a parametrization, a line a step.

    table: coordinate_check's. Later steps are drawn stronger.
    """
    figure = new_figure(8.5, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    layers, steps = sorted(table["layer"].unique()), table["step"].max()
    for ax, (name, rows) in zip(panels, table.groupby("parametrization", sort=False), strict=True):
        for (layer, step), line in rows.groupby(["layer", "step"]):
            look = {"color": COLOURS[layer - 1], "marker": MARKERS[layer - 1], "markersize": 4}
            ax.plot(line["width"], line["change"], alpha=0.25 + 0.75 * step / steps, **look)
        log_if_wide(ax, "x", rows["width"])
        log_if_wide(ax, "y", table["change"])
        ax.set_title(name, fontsize="large")
        ax.set_xlabel("width of both hidden layers")
    panels[0].set_ylabel("mean absolute change of activations")
    names = [f"hidden layer {layer}" for layer in layers[:-1]] + ["logits"]
    handles = [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], label=label) for i, label in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"Change since initialization after 1 to {steps} steps (stronger: later)")
    return figure


@drawn
def attempt_curves(curves: pd.DataFrame, stored: pd.DataFrame | None = None, label: str = "") -> Figure:
    """Validation loss by epoch of trainings by hand; the last one thick and with its training loss.

    curves: attempt, epoch, train_loss, val_loss (NaN where not checked). stored: epoch, val_loss of a stored run's
    training, drawn dashed under its label.
    """
    figure, ax = new_axes(7.5, 4)
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
    _label(ax, "", shown)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


@drawn
def trial_curve(curves: pd.DataFrame, architecture: str, trial: int, chosen: int | None) -> Figure:
    """Losses of one trial at its checks, among the validation losses of all trials of its architecture.

    curves: trial, epoch, train_loss, val_loss of this architecture, of a grid also seed; chosen: the search's choice.
    """
    figure, ax = new_axes(6.5, 3.9)
    for _, curve in curves[curves["trial"] != trial].groupby(["trial", *({"seed"} & {*curves})]):
        ax.plot(curve["epoch"], curve["val_loss"], color=GREY, linewidth=0.7, zorder=1)
    own = curves[curves["trial"] == trial]
    labels = {"train_loss": "training (with dropout)", "val_loss": "validation"}
    for _, run in own.groupby(own["seed"] if "seed" in own else own["trial"]):  # of a grid several
        ax.plot(run["epoch"], run["train_loss"], color=ORANGE, label=labels.pop("train_loss", None))
        ax.plot(run["epoch"], run["val_loss"], color=BLUE, marker=".", linewidth=2, label=labels.pop("val_loss", None))
    ax.plot([], [], color=GREY, linewidth=0.7, label="validation, other trials")
    title = f"{short_name(architecture)}, trial {trial}" + (" (the chosen one)" if trial == chosen else "")
    title += "" if len(own) else ": no check was reached"
    _label(ax, title, [curves["val_loss"], own["train_loss"]])
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
