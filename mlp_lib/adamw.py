"""AdamW on stacked weights, with each member's own numbers."""

import torch
from torch import Tensor

from mlp_lib import fused
from mlp_lib.model import Network

_NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay")


class AdamW:
    """Decoupled, bias-corrected AdamW (Loshchilov & Hutter 2019) on a network's weights [P, out, in + 1]."""

    def __init__(self, network: Network, moments: list[list[Tensor]] | None = None, step: float = 0.0):
        self.moments = moments or [[torch.zeros_like(w) for w in network.weights] for _ in range(2)]
        like = network.weights[0]
        self.steps = torch.full((), step, dtype=torch.float32, device=like.device)
        stacks = (network.weights, network.gradients, *self.moments)
        numbers = [{name: getattr(h, name) for name in _NUMBERS} for h in network.hyperparameters]
        self._layers = list(zip(*stacks, strict=True)) if network.fused else []
        self._numbers = {name: like.new_tensor([n[name] for n in numbers]).view(-1, 1, 1) for name in _NUMBERS}
        self._members = [([[w[i] for w in stack] for stack in stacks], own) for i, own in enumerate(numbers)]

    def step(self) -> None:
        """One update of every member from the network's gradients: on a CPU member by member with torch's kernel."""
        self.steps += 1
        for layer in self._layers:
            fused.compiled(fused.adamw)(*layer, self.steps, **self._numbers)
        if self._layers:
            return
        for (weights, gradients, first, second), own in self._members:
            steps = [self.steps] * len(weights)
            torch._fused_adamw_(weights, gradients, first, second, [], steps, amsgrad=False, maximize=False, **own)
