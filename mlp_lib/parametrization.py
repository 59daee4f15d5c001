"""How initial weights and learning rates follow from a layer's width: PyTorch's way, or maximal update (muP).

muP keeps the size of every activation, and of its change in a step, the same at any width, so that a learning rate
tuned on a narrow network should serve a wide one: Yang et al. 2022, Tensor Programs V. This is their table 3, which is
table 8 without its output multiplier (their lemma J.1), so that a trained member stays an ordinary nn.Sequential.
"""

from dataclasses import dataclass

from mlp_lib.settings import Architecture, TrainingSettings


@dataclass(frozen=True)
class LayerScale:
    """A layer's numbers as multiples of the standard ones."""

    weight: float = 1.0  # initial weights
    bias: float = 1.0  # initial biases
    lr: float = 1.0  # learning rate of the weights; a bias has the standard one


def layer_scales(architecture: Architecture, settings: TrainingSettings) -> list[LayerScale]:
    """One scale a layer; all are 1 in the standard parametrization, and in muP where the width is the base width.

    With r = inputs of the layer / base width, for AdamW: hidden and output weights learn at lr / r, and output weights
    start r^-1/2 times PyTorch's size (1 / inputs in all; a hidden weight's 1 / sqrt(inputs) is right as it is). A bias
    learns at lr, and starts with one size at all widths, PyTorch's at the base width. The first layer's inputs are the
    images, whose number is no width: it is standard.
    """
    scales = [LayerScale()]
    for layer, width in enumerate(architecture.widths, start=1):
        ratio = width / settings.base_width if settings.parametrization == "mup" else 1.0
        output = layer == len(architecture.widths)
        scales.append(LayerScale(ratio**-0.5 if output else 1.0, ratio**0.5, 1 / ratio))
    return scales
