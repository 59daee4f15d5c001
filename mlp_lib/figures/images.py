"""Pure functions from the tables and predictions of single trainings to matplotlib Figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mlp_lib.figures.style import drawn, new_figure

MAX_DIGITS = 24  # misclassified images that are shown


@drawn
def sample_images(images: Sequence, labels: Sequence, number: int = 20) -> Figure:
    """The first images with their labels.

    images: [N, D], D a square number; labels: [N]; tensors on any device.
    """
    number = min(number, len(labels))
    side = round(len(images[0]) ** 0.5)
    figure = new_figure(0.6 * number, 0.9)
    ax = figure.subplots()
    tiles = [np.pad(image.cpu().reshape(side, side), ((0, 0), (1, 1))) for image in images[:number]]
    ax.imshow(np.hstack(tiles), cmap="gray_r")
    ax.set_xticks((side + 2) * (np.arange(number) + 0.5) - 0.5, [int(label) for label in labels[:number]])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return figure


@drawn
def mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Confusion matrix, and the misclassified images of which the network was surest.

    images: [N, D], D a square number; labels: [N]; probabilities: [N, classes].
    """
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MAX_DIGITS]
    figure = new_figure(11, 4.6)
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
    ax.set(xlabel="predicted", ylabel="true", title="Confusion matrix of the test images")
    ax.grid(False)
