"""How a layer's initial weights, and its optimizer's numbers, follow the widths."""

import itertools
from typing import NamedTuple

from mlp_lib.core.values import PARAMETRIZATIONS, Architecture, TrainingSettings


class LayerScale(NamedTuple):
    """A layer's numbers as multiples of the standard ones: those of its start, then those of a step."""

    weight: float = 1.0  # initial weights, of the output layer alone
    bias: float = 1.0  # initial biases
    lr: float = 1.0  # of the weights; a bias has the standard one
    decay: float = 1.0  # weight decay of the weights, which a step multiplies by lr; a bias has the standard one
    eps: float = 1.0


def layer_scales(architecture: Architecture, settings: TrainingSettings) -> list[LayerScale]:
    """One scale a layer; all are 1 in the standard parametrization, and where the width is the base width.

    The width is that of a layer's inputs, for eps that of its outputs; images and classes, whose numbers are no widths,
    count as of the base width.
    """
    powers = PARAMETRIZATIONS[settings.parametrization]
    ratios = [1.0, *(width / settings.base_width for width in architecture.widths), 1.0]
    *hidden, output = (
        LayerScale(**{name: (outs if name == "eps" else ins) ** power for name, power in powers.items()})
        for ins, outs in itertools.pairwise(ratios)
    )
    return [*(scale._replace(weight=1.0) for scale in hidden), output]
