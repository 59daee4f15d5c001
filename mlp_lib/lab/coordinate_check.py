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
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import to_sequential
from mlp_lib.core.population import Population, draw_members, prepare
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
        chosen = settings.model_copy(update={"parametrization": name, "batch_size": len(images)})
        for width in widths:
            architecture = Architecture((width, width))
            before, *after = _activations(batch, architecture, chosen, steps)
            for step, layers in enumerate(after, start=1):
                for layer, (now, then) in enumerate(zip(layers, before, strict=True), start=1):
                    rows.append((name, width, step, layer, float((now - then).abs().mean())))
    return pd.DataFrame(rows, columns=["parametrization", "width", "step", "layer", "change"])


def _activations(
    batch: Split, architecture: Architecture, settings: TrainingSettings, steps: int
) -> list[list[Tensor]]:
    """Before the first step and after each: [seeds, images, units] of each layer, before its nonlinearity."""
    found = []
    with training_mode(settings, batch.images.device):
        vectors = [_HYPERPARAMETERS] * len(_SEEDS)
        stacks = draw_members(architecture, _SEEDS, settings, prepare(batch).images)
        population = Population(vectors, list(_SEEDS), settings, stacks)
        for epoch in range(steps + 1):
            if epoch:
                population.train_epoch(prepare(batch, population.network.bfloat16), epoch)
            weights = population.network.weights
            members = [_layers(architecture, [w[i] for w in weights], batch.images) for i in range(len(_SEEDS))]
            found.append([torch.stack(layer) for layer in zip(*members, strict=True)])
    return found


def _layers(architecture: Architecture, weights: list[Tensor], images: Tensor) -> list[Tensor]:
    sequential = to_sequential(architecture, weights, _HYPERPARAMETERS).to(images.device).eval()
    found = []
    for module in sequential:
        images = module(images)
        if isinstance(module, torch.nn.Linear):
            found.append(images)
    return found
