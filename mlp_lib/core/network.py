"""How initial weights and learning rates follow from a layer's width: PyTorch's way, or maximal update (muP).

muP keeps the size of every activation, and of its change in a step, the same at any width, so that a learning rate
tuned on a narrow network should serve a wide one: Yang et al. 2022, Tensor Programs V. This is their table 3, which is
table 8 without its output multiplier (their lemma J.1), so that a trained member stays an ordinary nn.Sequential.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mlp_lib.core import kernels
from mlp_lib.core.kernels import multiply
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings


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


UNIFORM_LEVELS = 2**16  # dropout's uniforms are 16-bit integers: a dropout probability counts in 1/65536
_threshold_backward = torch.ops.aten.threshold_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_TILE_ROWS = 512
_TILE_VALUES = 2**19  # activations of a tile of several members: they should stay in a core's cache


def draw_weights(
    architecture: Architecture, inputs: int, classes: int, seed: int, scales: Sequence[LayerScale] | None = None
) -> list[np.ndarray]:
    """Initial weights [out, in + 1] of each layer: uniform in +-1/sqrt(in), PyTorch's default, times the scales."""
    scales = scales or [LayerScale()] * (len(architecture.widths) + 1)
    weights = []
    for layer, (n_in, n_out) in enumerate(architecture.layer_sizes(inputs, classes)):
        bound = 1 / math.sqrt(n_in)
        draws = generator(seed, Stream.WEIGHTS, layer, *architecture.widths)
        weight = draws.uniform(-bound, bound, (n_out, n_in + 1))
        weight *= [scales[layer].weight] * n_in + [scales[layer].bias]
        weights.append(weight)
    return weights


def draw_uniforms(architecture: Architecture, layer: int, seed: int, epoch: int, step: int, batch: int) -> np.ndarray:
    """Dropout's uniforms [width, batch] of a hidden layer in one step, a 16-bit integer in [-32768, 32767] each."""
    width = architecture.widths[layer]
    draws = generator(seed, Stream.DROPOUT, epoch, step, layer, *architecture.widths)
    words = draws.bit_generator.random_raw(-(-width * batch // 4))  # four integers a 64-bit word
    return words.view(np.int16)[: width * batch].reshape(width, batch)


def keep_threshold(dropout: float) -> int:
    """A unit is kept where its integer uniform is above this: mask = U >= dropout, in 1/65536."""
    return min(math.ceil(dropout * UNIFORM_LEVELS), UNIFORM_LEVELS - 1) - UNIFORM_LEVELS // 2 - 1


def with_ones(images: Tensor) -> Tensor:
    """The images [N, D] with a column of ones [N, D + 1], which the bias multiplies."""
    return torch.cat([images, images.new_ones(len(images), 1)], dim=1)


def tile_rows(batch_size: int, device: torch.device) -> int:
    """Rows of a tile: on the CPU few enough for the cache, and never dependent on how many members there are."""
    return batch_size if device.type == "cuda" else min(batch_size, _TILE_ROWS)


def tile_members(architecture: Architecture, rows: int, device: torch.device) -> int:
    """Members of a tile: on the CPU as many as the cache holds, on a CUDA device all of them."""
    if device.type == "cuda":
        return 10**9
    return max(1, _TILE_VALUES // (rows * sum(architecture.widths)))


@dataclass(frozen=True)
class Buffers:
    """What one tile computes into; allocated once for its members and rows."""

    activations: list[Tensor]  # [members, width + 1, rows] a hidden layer, the last row ones
    factors: list[Tensor]  # [members, width, rows] a hidden layer: dropout mask / (1 - dropout) x slope
    uniforms: list[Tensor]  # [streams, width, rows] a hidden layer; real numbers, as the CPU's kernels want them
    logits: Tensor  # [members, classes, rows]

    @classmethod
    def allocate(cls, sizes: list[int], members: int, streams: int, rows: int, like: Tensor) -> "Buffers":
        *hidden, classes = sizes
        return cls(
            [like.new_ones(members, size + 1, rows) for size in hidden],
            [like.new_empty(members, size, rows) for size in hidden],
            [like.new_empty(streams, size, rows) for size in hidden],
            like.new_empty(members, classes, rows),
        )


class Network:
    """P stacked MLPs with their gradients; `forward` and `backward` work through tiles of members and rows."""

    def __init__(
        self, architecture: Architecture, weights: list[Tensor], hyperparameters: list[Hyperparameters], streams: int
    ):
        self.architecture = architecture
        self.weights = weights  # [P, out, in + 1] a layer
        self.gradients = [torch.zeros_like(weight) for weight in weights]
        self.hyperparameters = hyperparameters
        self.streams = streams
        self.sizes = [weight.shape[1] for weight in weights]
        self._tiles: dict[int, list[Tile]] = {}

    @property
    def fused(self) -> bool:
        """Whether the elementwise work of all members is done in one kernel, and a step is replayed as a graph."""
        return self.weights[0].is_cuda

    def tiles(self, rows: int) -> "list[Tile]":
        """The member tiles for that many rows, made at the first call."""
        if rows not in self._tiles:
            members, like = len(self.hyperparameters), self.weights[0]
            step = min(members, tile_members(self.architecture, rows, like.device))
            shared: dict[int, Buffers] = {}
            tiles = []
            for start in range(0, members, step):
                size = min(step, members - start)
                streams = 1 if self.streams == 1 else size
                if size not in shared:
                    shared[size] = Buffers.allocate(self.sizes, size, streams, rows, like)
                tiles.append(Tile(self, slice(start, start + size), shared[size]))
            self._tiles[rows] = tiles
        return self._tiles[rows]


class _UnitsByMember:
    """The elementwise work of one hidden layer on a CPU: each member's in kernels that pass over the cache once.

    The backward kernels of threshold and leaky ReLU compute just what is wanted: threshold_backward(g, u, t) is g
    where u > t, else 0; leaky_relu_backward(g, z, a) is g where z > 0, else a g.
    """

    def __init__(self, hyperparameters: list[Hyperparameters], units: Tensor, uniform: Tensor, factor: Tensor):
        self.units, self.factor = units, factor
        one = units.new_tensor(1.0)
        self.members = [
            (
                units[i],
                uniform[i % len(uniform)],
                factor[i],
                one.expand_as(units[i]),
                units.new_tensor(1 / (1 - h.dropout)).expand_as(units[i]),
                keep_threshold(h.dropout),
                h.leaky_relu_alpha,
            )
            for i, h in enumerate(hyperparameters)
        ]

    def activate(self, dropout: bool) -> None:
        """factor = mask / (1 - dropout) x slope(units), then units x factor in place."""
        for units, uniform, factor, mask, scale, threshold, slope in self.members:
            if dropout:
                mask = _threshold_backward(scale, uniform, threshold, grad_input=factor)
            _leaky_relu_backward(mask, units, slope, False, grad_input=factor)
        self.units.mul_(self.factor)


class _FusedUnits:
    """The same for all members in one kernel, for a CUDA device."""

    def __init__(self, hyperparameters: list[Hyperparameters], units: Tensor, uniform: Tensor, factor: Tensor):
        self.tensors = units, uniform, factor

        def numbers(values: Iterable[float]) -> Tensor:
            return units.new_tensor(list(values)).view(-1, 1, 1)

        slope = numbers(h.leaky_relu_alpha for h in hyperparameters)
        everything = numbers(-math.inf for _ in hyperparameters), torch.ones_like(slope), slope
        threshold = numbers(keep_threshold(h.dropout) for h in hyperparameters)
        scale = numbers(1 / (1 - h.dropout) for h in hyperparameters)
        self.numbers = {False: everything, True: (threshold, scale, slope)}

    def activate(self, dropout: bool) -> None:
        kernels.compiled(kernels.activate)(*self.tensors, *self.numbers[dropout])


class Tile:
    """The forward and backward pass of some members on some rows, by hand, in views made once."""

    def __init__(self, network: Network, members: slice, buffers: Buffers):
        self.members = members
        self.streams = slice(None) if network.streams == 1 else members
        self.buffers = buffers
        self.weights = [weight[members] for weight in network.weights]
        self.weights_back = [weight[:, :, :-1].transpose(1, 2) for weight in self.weights]
        self.gradients = [gradient[members] for gradient in network.gradients]
        self.activations_back = [activation.transpose(1, 2) for activation in buffers.activations]
        self.units = [activation[:, :-1] for activation in buffers.activations]
        self.size = len(self.weights[0])
        kind = _FusedUnits if network.fused else _UnitsByMember
        layers = zip(self.units, buffers.uniforms, buffers.factors, strict=True)
        self._elementwise = [kind(network.hyperparameters[members], *layer) for layer in layers]

    def forward(self, images: Tensor, dropout: bool) -> Tensor:
        """Logits [members, classes, rows] for images [streams, rows, D + 1]; dropout reads `buffers.uniforms`."""
        buffers = self.buffers
        inputs = images.transpose(1, 2).expand(self.size, -1, -1)  # [members, D + 1, rows]
        for layer, units in enumerate(self.units):
            multiply(self.weights[layer], inputs, units)
            self._elementwise[layer].activate(dropout)
            inputs = buffers.activations[layer]
        return multiply(self.weights[-1], inputs, buffers.logits)

    def backward(self, images: Tensor, delta: Tensor, accumulate: bool) -> None:
        """Add (or write) the gradients that follow from delta = d loss / d logits [members, classes, rows]."""
        buffers, beta = self.buffers, int(accumulate)
        for layer in reversed(range(1, len(self.weights))):
            gradient = self.gradients[layer]
            multiply(delta, self.activations_back[layer - 1], gradient, beta)
            # the activations of the layer below have done their work: their place takes that layer's delta
            delta = multiply(self.weights_back[layer], delta, self.units[layer - 1])
            delta.mul_(buffers.factors[layer - 1])
        gradient = self.gradients[0]
        multiply(delta, images.expand(len(gradient), -1, -1), gradient, beta)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats [members, rows] of logits [members, classes, rows] and labels [streams, rows]."""
    index = labels.unsqueeze(1).expand(len(logits), 1, -1)
    return torch.log_softmax(logits, 1).gather(1, index).squeeze(1).neg_()


def cross_entropy_gradient(logits: Tensor, labels: Tensor, batch: int) -> Tensor:
    """d (mean cross-entropy over the batch) / d logits [members, classes, rows]."""
    index = labels.unsqueeze(1).expand(len(logits), 1, -1)
    delta = torch.softmax(logits, 1)
    delta.scatter_add_(1, index, delta.new_full((1, 1, 1), -1.0).expand_as(index))
    return delta.mul_(1 / batch)


def to_sequential(architecture: Architecture, weights: list[Tensor], hyperparameters: Hyperparameters) -> nn.Sequential:
    """One member as an ordinary nn.Sequential: Linear, LeakyReLU, Dropout a hidden width, then Linear.

    weights: [out, in + 1] a layer.
    """
    layers: list[nn.Module] = []
    for layer, weight in enumerate(weights):
        linear = skip_init(nn.Linear, weight.shape[1] - 1, weight.shape[0], dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[:, :-1])
            linear.bias.copy_(weight[:, -1])
        layers.append(linear)
        if layer < len(architecture.widths):
            layers += [nn.LeakyReLU(hyperparameters.leaky_relu_alpha), nn.Dropout(hyperparameters.dropout)]
    return nn.Sequential(*layers)
