"""AdamW on stacked weights, with each member's own numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lib.core import kernels
from mlp_lib.core.values import Hyperparameters

_NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay")


class AdamW:
    """Decoupled, bias-corrected AdamW (Loshchilov & Hutter 2019) in place of stacked weights [P, out, in + 1] a layer.

    `lr_scales`: what multiplies the learning rate of each layer's weights, but not of its biases. Weight decay is
    divided by it, so that a step still shrinks every parameter by lr x weight_decay: decay is part of what a width
    should not change. `moments`: the running means of gradients and of their squares, stacked as the weights
    are. `fused`: all members in one kernel, as a CUDA device wants it.
    """

    def __init__(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        moments: tuple[list[Tensor], list[Tensor]],
        steps: float,
        hyperparameters: Sequence[Hyperparameters],
        lr_scales: Sequence[float],
        fused: bool = False,
    ):
        self.moments = moments
        self.steps = torch.full((), steps, dtype=torch.float32, device=weights[0].device)
        stacks = (weights, gradients, *moments)
        numbers = [{name: getattr(h, name) for name in _NUMBERS} for h in hyperparameters]
        self._layers = []
        if fused:
            vectors = {name: weights[0].new_tensor([n[name] for n in numbers]).view(-1, 1, 1) for name in _NUMBERS}
            for *layer, scale in zip(*stacks, lr_scales, strict=True):
                self._layers.append((layer, _by_column(vectors, scale, layer[0].shape[2])))
        self._members = [
            ([[w[i] for w, s in zip(stack, lr_scales, strict=True) if s == scale] for stack in stacks], own, scale)
            for i, own in enumerate(numbers)
            for scale in dict.fromkeys(lr_scales)
        ]

    def step(self) -> None:
        """One update of every member from the gradients: on a CPU member by member with torch's kernel."""
        self.steps += 1
        for layer, numbers in self._layers:
            kernels.compiled(kernels.adamw)(*layer, self.steps, **numbers)
        if self._layers:
            return
        for stacks, own, scale in self._members:
            if scale == 1:
                self._update(stacks, own)
                continue
            # the kernel takes one learning rate, and no column of a matrix: the biases are updated apart
            biases = [[tensor[:, -1].clone() for tensor in stack] for stack in stacks]
            self._update(biases, own)
            self._update(stacks, _scaled(own, scale))
            for weight, bias in zip(stacks[0], biases[0], strict=True):
                weight[:, -1] = bias

    def _update(self, stacks: list[list[Tensor]], numbers: dict[str, float]) -> None:
        """torch's fused update, in place, of one member's weights from gradients and moments."""
        steps = [self.steps] * len(stacks[0])
        torch._fused_adamw_(*stacks, [], steps, amsgrad=False, maximize=False, **numbers)


def _scaled(numbers: dict, scale: float | Tensor) -> dict:
    return numbers | {"lr": numbers["lr"] * scale, "weight_decay": numbers["weight_decay"] / scale}


def _by_column(numbers: dict[str, Tensor], scale: float, columns: int) -> dict[str, Tensor]:
    """The five numbers of a layer [P, 1, 1 or in + 1]: scaled but for the last column, the biases'."""
    if scale == 1:
        return numbers
    scales = numbers["lr"].new_full((columns,), scale)
    scales[-1] = 1.0
    return _scaled(numbers, scales)
