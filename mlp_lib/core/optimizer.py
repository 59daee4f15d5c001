"""AdamW on stacked weights, with each member's own numbers, and how a layer's follow the widths."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lib.core import kernels
from mlp_lib.core.values import PARAMETRIZATIONS, Architecture, Hyperparameters, TrainingSettings

_NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay")


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


class AdamW:
    """Decoupled, bias-corrected AdamW (Loshchilov & Hutter 2019) in place of stacked weights [P, out, in + 1] a layer.

    `scales`: what multiplies the numbers of each layer. `moments`: the running means of gradients and of their squares,
    stacked as the weights are. `fused`: all members in one kernel, as a CUDA device wants it.
    """

    def __init__(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        moments: tuple[list[Tensor], list[Tensor]],
        steps: float,
        hyperparameters: Sequence[Hyperparameters],
        scales: Sequence[LayerScale],
        fused: bool = False,
    ):
        self.steps = torch.full((), steps, dtype=torch.float32, device=weights[0].device)
        numbers = [{name: getattr(h, name) for name in _NUMBERS} for h in hyperparameters]
        vectors = {name: weights[0].new_tensor([n[name] for n in numbers]).view(-1, 1, 1) for name in _NUMBERS}
        self._layers, groups = [], {}
        for *layer, scale in zip(weights, gradients, *moments, scales, strict=True):
            groups.setdefault(scale[2:], []).append(layer)
            if fused:
                self._layers.append((layer, _by_column(vectors, *scale[2:], layer[0].shape[2])))
        self._members = [
            ([[layer[i] for layer in stack] for stack in zip(*group, strict=True)], *_numbers(own, *scale))
            for i, own in enumerate([] if fused else numbers)
            for scale, group in groups.items()
        ]

    def step(self) -> None:
        """One update of every member from the gradients: on a CPU member by member with torch's kernel."""
        self.steps += 1
        for layer, numbers in self._layers:
            kernels.compiled(kernels.adamw)(*layer, self.steps, **numbers)
        for stacks, of_weights, of_biases in self._members:
            if of_weights == of_biases:
                self._update(stacks, of_weights)
                continue
            # the kernel takes one learning rate, and no column of a matrix: the biases are updated apart
            biases = [[tensor[:, -1].clone() for tensor in stack] for stack in stacks]
            self._update(biases, of_biases)
            self._update(stacks, of_weights)
            for weight, bias in zip(stacks[0], biases[0], strict=True):
                weight[:, -1] = bias

    def _update(self, stacks: list[list[Tensor]], numbers: dict[str, float]) -> None:
        """torch's fused update, in place, of one member's weights from gradients and moments."""
        steps = [self.steps] * len(stacks[0])
        torch._fused_adamw_(*stacks, [], steps, amsgrad=False, maximize=False, **numbers)


def _numbers(own: dict, lr: float, decay: float, eps: float) -> tuple[dict, dict]:
    """The five numbers of a layer's weights, and of its biases."""
    of_biases = own | {"eps": own["eps"] * eps}
    return of_biases | {"lr": own["lr"] * lr, "weight_decay": own["weight_decay"] * decay}, of_biases


def _by_column(own: dict[str, Tensor], lr: float, decay: float, eps: float, columns: int) -> dict[str, Tensor]:
    """The five numbers of a layer [P, 1, 1 or in + 1]: the last column is the biases'."""
    of_weights, of_biases = _numbers(own, lr, decay, eps)
    if lr == decay == 1:
        return of_biases
    return {name: torch.cat([of_weights[name].expand(-1, -1, columns - 1), of_biases[name]], 2) for name in own}
