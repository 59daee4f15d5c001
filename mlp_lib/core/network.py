"""Stacked multilayer perceptrons of one architecture: initial weights, forward and backward pass by hand.

Shape letters: P members, N images, D inputs; a tile is some members on some rows (images). Weights are
[P, out, in + 1], the last column the biases, which a last row of ones in a layer's inputs multiplies.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mlp_lib.core import kernels
from mlp_lib.core.kernels import multiply
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import Architecture, Hyperparameters

UNIFORM_LEVELS = 2**16  # dropout's uniforms are 16-bit integers: a dropout probability counts in 1/65536
_threshold_backward = torch.ops.aten.threshold_backward.grad_input
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input
_TILE_VALUES = 2**19  # activations of a tile of several members: they should stay in a core's cache


def draw_weights(architecture: Architecture, inputs: int, seed: int) -> list[np.ndarray]:
    """Initial weights [out, in + 1] of each layer: uniform in +-1/sqrt(in), PyTorch's default."""
    weights = []
    for layer, (n_in, n_out) in enumerate(architecture.layer_sizes(inputs)):
        bound, draws = 1 / math.sqrt(n_in), generator(seed, Stream.WEIGHTS, layer, *architecture.widths)
        weights.append(draws.uniform(-bound, bound, (n_out, n_in + 1)))
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


def tile_members(architecture: Architecture, rows: int, device: torch.device) -> int:
    """Members of a tile: on the CPU as many as the cache holds, on a CUDA device all of them."""
    return 10**9 if device.type == "cuda" else max(1, _TILE_VALUES // (rows * sum(architecture.widths)))


class Network:
    """P stacked MLPs with their gradients, which work through tiles of members and rows.

    weights: [P, out, in + 1] a layer; streams: 1 where all members see the same images and uniforms, else P; bfloat16:
    whether factors and results of products are rounded to it. Sums over tiles, weights and losses never are.
    """

    def __init__(
        self, weights: list[Tensor], hyperparameters: list[Hyperparameters], streams: int = 1, bfloat16: bool = False
    ):
        self.architecture = Architecture(tuple(weight.shape[1] for weight in weights[:-1]))
        self.weights, self.hyperparameters = weights, hyperparameters
        self.gradients = [torch.zeros_like(weight) for weight in weights]
        self.streams, self.bfloat16 = streams, bfloat16
        self.factors = [weight.bfloat16() for weight in weights] if bfloat16 else weights
        self._tiles: dict[int, list[Tile]] = {}

    @property
    def fused(self) -> bool:
        """Whether the elementwise work of all members is done in one kernel, and a step is replayed as a graph."""
        return self.weights[0].is_cuda

    def tile_rows(self, batch_size: int) -> int:
        """Rows of a tile: on the CPU few enough for the cache, and never dependent on how many members there are."""
        return batch_size if self.fused else min(batch_size, 2048 if self.bfloat16 else 512)

    def tiles(self, rows: int) -> "list[Tile]":
        """The member tiles for that many rows, made at the first call; all compute in the same memory."""
        if rows not in self._tiles:
            members, like = len(self.hyperparameters), self.factors[0]
            size = min(members, tile_members(self.architecture, rows, like.device))
            streams, widths = size if self.streams > 1 else 1, self.architecture.widths
            drawn = torch.int16 if self.bfloat16 else like.dtype  # see activate_by_member
            memory = (
                [like.new_ones(size, width + 1, rows) for width in widths],
                [like.new_empty(size, width, rows) for width in widths],
                [like.new_empty(streams, width, rows, dtype=drawn) for width in widths],
                [self.weights[-1].new_empty(size, self.weights[-1].shape[1], rows)],
            )
            starts = range(0, members, size)
            self._tiles[rows] = [Tile(self, slice(start, min(start + size, members)), memory) for start in starts]
        return self._tiles[rows]


class Tile:
    """The forward and backward pass of some members on some rows, by hand, in views made once.

    activations: [members, width + 1, rows] a hidden layer, the last row ones; factors: [members, width, rows] a hidden
    layer, dropout mask / (1 - dropout) x slope; uniforms: [streams, width, rows] a hidden layer, as real numbers, which
    the CPU's kernels want, if not for bfloat16; logits: [members, classes, rows]. `memory` has these four, of as many
    members or more.
    """

    def __init__(self, network: Network, members: slice, memory: tuple[list[Tensor], ...]):
        self.members, self.size = members, members.stop - members.start
        self.streams = members if network.streams > 1 else slice(None)
        self.activations, self.factors, self.uniforms, (self.logits,) = (
            [layer[: self.size] for layer in layers] for layers in memory
        )
        self.units = [activation[:, :-1] for activation in self.activations]
        self.weights = [factor[members] for factor in network.factors]
        self.gradients = [gradient[members] for gradient in network.gradients]
        activate = activate_fused if network.fused else activate_by_member
        layers = zip(self.units, self.uniforms, self.factors, strict=True)
        self._activate = [activate(network.hyperparameters[members], *layer) for layer in layers]
        self._weights_back = [weight[:, :, :-1].transpose(1, 2) for weight in self.weights]
        self._activations_back = [activation.transpose(1, 2) for activation in self.activations]

    def forward(self, images: Tensor, dropout: bool) -> Tensor:
        """Logits [members, classes, rows] for images [streams, rows, D + 1]; dropout reads `uniforms`."""
        inputs = images.transpose(1, 2).expand(self.size, -1, -1)  # [members, D + 1, rows]
        for weight, units, activate, activations in zip(
            self.weights[:-1], self.units, self._activate, self.activations, strict=True
        ):
            multiply(weight, inputs, units)
            activate(dropout)
            inputs = activations
        return multiply(self.weights[-1], inputs, self.logits)

    def backward(self, images: Tensor, delta: Tensor, accumulate: bool) -> None:
        """Add (or write) the gradients that follow from delta = d loss / d logits [members, classes, rows]."""
        beta, delta = int(accumulate), delta.to(images.dtype)
        for layer in reversed(range(1, len(self.weights))):
            multiply(delta, self._activations_back[layer - 1], self.gradients[layer], beta)
            # the activations of the layer below have done their work: their place takes that layer's delta
            delta = multiply(self._weights_back[layer], delta, self.units[layer - 1])
            delta.mul_(self.factors[layer - 1])
        multiply(delta, images.expand(self.size, -1, -1), self.gradients[0], beta)


Activate = Callable[[bool], None]  # with dropout or without: factor = mask / (1 - dropout) x slope, units x factor


def activate_by_member(vectors: list[Hyperparameters], units: Tensor, uniform: Tensor, factor: Tensor) -> Activate:
    """The elementwise work of one hidden layer on a CPU: each member's in kernels that pass over the cache once.

    The backward kernels of threshold and leaky ReLU compute just what is wanted: threshold_backward(g, u, t) is g
    where u > t, else 0; leaky_relu_backward(g, z, a) is g where z > 0, else a g. bfloat16 has too few digits for the
    uniforms: there they are integers, and the threshold lets the bits of g through as one.
    """
    one = units.new_tensor(1.0).expand_as(units[0])
    scales = [units.new_tensor(1 / (1 - h.dropout)).view(uniform.dtype).expand_as(one) for h in vectors]
    numbers = [(keep_threshold(h.dropout) if h.dropout else None, h.leaky_relu_alpha) for h in vectors]
    bits = factor.view(uniform.dtype)
    members = list(zip(units, uniform.expand_as(units), factor, bits, scales, numbers, strict=True))

    def activate(dropout: bool) -> None:
        for own, drawn, place, mask, scale, (threshold, slope) in members:
            if dropped := dropout and threshold is not None:
                _threshold_backward(scale, drawn, threshold, grad_input=mask)
            _leaky_relu_backward(place if dropped else one, own, slope, False, grad_input=place)
        units.mul_(factor)

    return activate


def activate_fused(vectors: list[Hyperparameters], units: Tensor, uniform: Tensor, factor: Tensor) -> Activate:
    """The same for all members in one kernel, for a CUDA device."""

    def numbers(values: list[float]) -> Tensor:
        return units.new_tensor(values).view(-1, 1, 1)

    slope = numbers([h.leaky_relu_alpha for h in vectors])
    thresholds = {True: numbers([keep_threshold(h.dropout) for h in vectors]), False: torch.full_like(slope, -math.inf)}
    scales = {True: numbers([1 / (1 - h.dropout) for h in vectors]), False: torch.ones_like(slope)}

    def activate(dropout: bool) -> None:
        kernels.compiled(kernels.activate)(units, uniform, factor, thresholds[dropout], scales[dropout], slope)

    return activate


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


def sequential(
    architecture: Architecture, inputs: int, hyperparameters: Hyperparameters, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """An ordinary nn.Sequential: Linear, LeakyReLU, Dropout a hidden width, then Linear; its weights are not set."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # each layer draws weights, which are replaced
        for sizes in architecture.layer_sizes(inputs):
            layers += [nn.Linear(*sizes, dtype=dtype), nn.LeakyReLU(hyperparameters.leaky_relu_alpha)]
            layers += [nn.Dropout(hyperparameters.dropout)]
    return nn.Sequential(*layers[:-2])


def to_sequential(architecture: Architecture, weights: list[Tensor], hyperparameters: Hyperparameters) -> nn.Sequential:
    """One member, of weights [out, in + 1] a layer, as an ordinary nn.Sequential."""
    model = sequential(architecture, weights[0].shape[1] - 1, hyperparameters, weights[0].dtype)
    linears = [module for module in model if isinstance(module, nn.Linear)]
    for linear, weight in zip(linears, weights, strict=True):
        linear.load_state_dict({"weight": weight[:, :-1], "bias": weight[:, -1]})
    return model
