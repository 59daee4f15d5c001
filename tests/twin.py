"""A member of a population as its slow twin, and vectors of hyperparameters for both."""

import numpy as np
import torch
from torch import nn

from mlp_lib.core.data import Split
from mlp_lib.core.network import draw_uniforms, draw_weights, keep_threshold, to_sequential
from mlp_lib.core.population import Population, draw_members
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import Architecture, Hyperparameters


def draw_hyperparameters(number: int, seed: int = 0) -> list[Hyperparameters]:
    """Vectors that differ in every hyperparameter."""
    draws = np.random.default_rng(seed)
    return [
        Hyperparameters(
            lr=10 ** draws.uniform(-4, -2),
            beta1=draws.uniform(0.85, 0.99),
            beta2=draws.uniform(0.9, 0.9999),
            eps=10 ** draws.uniform(-8, -6),
            weight_decay=10 ** draws.uniform(-6, -1),
            dropout=draws.uniform(0, 0.6),
            leaky_relu_alpha=draws.uniform(0.01, 0.1),
        )
        for _ in range(number)
    ]


def fresh(architecture: Architecture, hyperparameters, seeds, settings, images) -> Population:
    """A population before its first step."""
    stacks = draw_members(architecture, seeds, settings, images)
    return Population(hyperparameters, seeds, settings, stacks)


class Twin:
    """One member as nn.Sequential and torch.optim.AdamW, stepped by autograd."""

    def __init__(self, architecture: Architecture, h: Hyperparameters, seed: int, inputs: int, dtype: torch.dtype):
        weights = [torch.from_numpy(w).to(dtype) for w in draw_weights(architecture, inputs, seed)]
        self.architecture, self.h, self.seed = architecture, h, seed
        self.layers = to_sequential(architecture, weights, h)
        betas = (h.beta1, h.beta2)
        self.optimizer = torch.optim.AdamW(
            self.layers.parameters(), lr=h.lr, betas=betas, eps=h.eps, weight_decay=h.weight_decay, foreach=False
        )

    def forward(self, images: torch.Tensor, uniforms: list[np.ndarray]) -> torch.Tensor:
        drawn = iter(uniforms)
        for layer in self.layers:
            if isinstance(layer, nn.Dropout):
                mask = torch.from_numpy(next(drawn).astype(np.int64).T) > keep_threshold(self.h.dropout)
                images = images * mask / (1 - self.h.dropout)
            else:
                images = layer(images)
        return images

    def train_epoch(self, train: Split, epoch: int, batch_size: int) -> float:
        order = torch.from_numpy(generator(self.seed, Stream.BATCHES, epoch).permutation(len(train.labels)))
        total = 0.0
        for step, index in enumerate(order.split(batch_size)):
            layers = range(len(self.architecture.widths))
            uniforms = [draw_uniforms(self.architecture, i, self.seed, epoch, step, len(index)) for i in layers]
            logits = self.forward(train.images[index], uniforms)
            loss = nn.functional.cross_entropy(logits, train.labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(index)
        return total / len(train.labels)

    def weights(self) -> list[torch.Tensor]:
        """[out, in + 1] a layer."""
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [torch.cat([n.weight, n.bias[:, None]], dim=1).detach() for n in linears]
