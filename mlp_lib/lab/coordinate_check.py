"""The coordinate check of a parametrization: how activations of networks of growing width move in the first steps.

Yang et al. 2022, Tensor Programs V, appendix D.1: where the parametrization is right, they move as far at any width.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from IPython.display import Markdown, display
from torch import Tensor

from mlp_lib import figures
from mlp_lib.core.data import Split
from mlp_lib.core.training import State, Training
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings
from mlp_lib.reports.pieces import read_sections

_SEEDS = (1, 2, 3)
_WIDTHS = (32, 64, 128, 256, 512, 1024)
_IMAGES = 256  # of one batch, which every step is made on
_HYPERPARAMETERS = Hyperparameters()  # torch's AdamW, no dropout


def show(train: Split, settings: TrainingSettings) -> None:
    """Display the section on the parametrization with its coordinate check; none under `standard`, PyTorch's way."""
    if settings.parametrization != "standard":
        display(Markdown(read_sections()["parametrization"]))
        display(figures.coordinate_sizes(coordinate_check(train, settings, _WIDTHS)))


def coordinate_check(train: Split, settings: TrainingSettings, widths: Sequence[int], steps: int = 4) -> pd.DataFrame:
    """How far the units of each layer moved: a row a parametrization, width, step (from 1) and layer.

    Columns: parametrization, width (of both hidden layers), step, layer (1, 2, 3: the logits), change (mean absolute
    difference of its activations, before the nonlinearity, to those before the first step). Means over three run
    seeds. The parametrizations are `standard` and the settings' own.
    """
    images = train.images[:_IMAGES]
    batch = Split(images, train.labels[:_IMAGES])
    rows = []
    for name in ("standard", settings.parametrization):
        asked = {"parametrization": name, "batch_size": len(images), "max_epochs": steps, "val_interval": steps}
        chosen = settings.model_copy(update=asked)
        for width in widths:
            architecture = Architecture((width, width))
            before, *after = _activations(batch, architecture, chosen)
            for step, layers in enumerate(after, start=1):
                for layer, (now, then) in enumerate(zip(layers, before, strict=True), start=1):
                    rows.append((name, width, step, layer, float((now - then).abs().mean())))
    return pd.DataFrame(rows, columns=["parametrization", "width", "step", "layer", "change"])


def _activations(batch: Split, architecture: Architecture, settings: TrainingSettings) -> list[list[Tensor]]:
    """Before the first step and after each: [seeds, images, units] of each layer, before its nonlinearity."""
    vectors = [_HYPERPARAMETERS] * len(_SEEDS)
    training = Training(batch, batch, architecture, vectors, _SEEDS, settings)
    states = [training.state(), *(training.state() for _ in training)]
    return [_layers(state, batch.images, len(architecture.widths) + 1) for state in states]


def _layers(state: State, images: Tensor, number: int) -> list[Tensor]:
    units, found = images.expand(len(_SEEDS), -1, -1), []
    for layer in range(number):
        weight = state[f"weight_{layer}"].to(images)
        found.append(torch.baddbmm(weight[:, None, :, -1], units, weight[:, :, :-1].mT))
        units = torch.nn.functional.leaky_relu(found[-1], _HYPERPARAMETERS.leaky_relu_alpha)
    return found
