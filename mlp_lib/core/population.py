"""A population in training: a pass over the training data, and a reading of its losses.

Shape letters: P members, N images, B images a batch, D inputs; streams: 1 where all share a run seed, else P.
"""

import functools
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mlp_lib.core.data import Split
from mlp_lib.core.kernels import Graph, rounds_factors
from mlp_lib.core.network import (
    Network,
    Tile,
    cross_entropy,
    cross_entropy_gradient,
    draw_uniforms,
    draw_weights,
)
from mlp_lib.core.optimizer import AdamW, layer_scales
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings

Stacks = Sequence[list[Tensor]]  # weights, running means of gradients and of their squares: [P, out, in + 1] a layer


def draw_members(
    architecture: Architecture, seeds: Sequence[int], settings: TrainingSettings, images: Tensor
) -> Stacks:
    """Fresh members for images [N, D + 1], where those lie: initial weights of (run seed, architecture), no moments."""
    drawn = {seed: draw_weights(architecture, images.shape[1] - 1, seed) for seed in dict.fromkeys(seeds)}
    stacked = [np.stack(layer) for layer in zip(*(drawn[seed] for seed in seeds), strict=True)]
    for stack, scale in zip(stacked, layer_scales(architecture, settings), strict=True):
        stack[..., :-1] *= scale.weight
        stack[..., -1] *= scale.bias
    weights = [torch.from_numpy(stack).to(images) for stack in stacked]
    return weights, *([torch.zeros_like(weight) for weight in weights] for _ in range(2))


class Population:
    """The members still training: their network, their optimizer and their run seeds.

    The stacks are trained in place; steps: how many updates were made of them. `measured` has no rounded factors.
    """

    def __init__(
        self,
        hyperparameters: list[Hyperparameters],
        seeds: list[int],
        settings: TrainingSettings,
        stacks: Stacks,
        steps: float = 0.0,
    ):
        weights, *moments = stacks
        self.seeds, self.settings, self.stacks = seeds, settings, stacks
        self.stream_seeds = seeds[:1] if len(set(seeds)) == 1 else seeds  # one where all share it, else each its own
        rounded = rounds_factors(settings, weights[0].device.type)
        self.network = network = Network(weights, hyperparameters, len(self.stream_seeds), rounded)
        self.measured = Network(weights, hyperparameters) if rounded else network
        scales = layer_scales(network.architecture, settings)
        self.optimizer = AdamW(weights, network.gradients, moments, steps, hyperparameters, scales, network.fused)
        self.losses = torch.zeros(len(seeds), dtype=torch.float64, device=weights[0].device)  # of this epoch
        train_rows = functools.partial(_train_rows, network, self.optimizer, self.losses)
        self._train_rows = Graph(train_rows) if network.fused else train_rows

    def select(self, kept: Sequence[int]) -> "Population":
        """The population of these members alone, in tensors of its own."""
        network, index = self.network, torch.tensor(kept, dtype=torch.int64, device=self.losses.device)
        stacks = [[layer.index_select(0, index) for layer in stack] for stack in self.stacks]
        hyperparameters, seeds = [network.hyperparameters[i] for i in kept], [self.seeds[i] for i in kept]
        steps = float(self.optimizer.steps)
        return Population(hyperparameters, seeds, self.settings, stacks, steps)

    def train_epoch(self, train: Split, epoch: int) -> Tensor:
        """One pass over the training data [N, D + 1]; the mean training loss of each member [P], float64."""
        device, number, seeds = self.losses.device, len(train.labels), self.stream_seeds
        batch_size = self.settings.batch_size
        orders = {s: generator(s, Stream.BATCHES, epoch).permutation(number) for s in dict.fromkeys(seeds)}
        order = torch.from_numpy(np.stack([orders[seed] for seed in seeds])).to(train.images.device)  # [streams, N]
        tiles = list(_tiles_of_epoch(number, batch_size, self.network.tile_rows(batch_size)))
        images_of_tiles = train.batches([order[:, a:b].flatten() for _, a, b in tiles], device)
        self.losses.zero_()
        for (step, start, stop), (images, labels) in zip(tiles, images_of_tiles, strict=True):
            begin, end = step * batch_size, min((step + 1) * batch_size, number)
            if start == begin:
                uniforms = self._draw_uniforms(epoch, step, end - begin)
            self._train_rows(
                images.unflatten(0, (len(seeds), -1)),
                labels.unflatten(0, (len(seeds), -1)),
                *(drawn[:, :, start - begin : stop - begin] for drawn in uniforms),
                batch=end - begin,
                accumulate=start > begin,
                last=stop == end,
            )
        return self.losses / number

    def _draw_uniforms(self, epoch: int, step: int, batch: int) -> list[Tensor]:
        """Dropout's uniforms [streams, width, batch] a hidden layer; a run seed's are drawn once."""
        architecture, device, seeds = self.network.architecture, self.losses.device, self.stream_seeds
        distinct = list(dict.fromkeys(seeds))
        cuda = device.type == "cuda"  # it fetches them from pinned memory while threads draw the next
        shapes = [(len(distinct), width, batch) for width in architecture.widths]
        stacks = [torch.empty(shape, dtype=torch.int16, pin_memory=cuda) for shape in shapes]

        def draw(layer: int, stream: int) -> None:
            stacks[layer].numpy()[stream] = draw_uniforms(architecture, layer, distinct[stream], epoch, step, batch)

        draws = itertools.product(range(len(stacks)), range(len(distinct)))
        list((_threads().map if cuda else map)(draw, *zip(*draws, strict=True)))
        stacks = [stack.to(device, non_blocking=True) for stack in stacks]
        if len(distinct) == len(seeds):
            return stacks
        streams = torch.tensor([distinct.index(seed) for seed in seeds], device=device)
        return [stack.index_select(0, streams) for stack in stacks]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


def _train_rows(
    network: Network,
    optimizer: AdamW,
    losses: Tensor,
    images: Tensor,
    labels: Tensor,
    *uniforms: Tensor,
    batch: int,
    accumulate: bool,
    last: bool,
) -> None:
    """One row tile of a step of `batch` images: its losses and gradients are added up, its last updates the weights.

    images: [streams, rows, D + 1]; labels: [streams, rows]; uniforms: [streams, width, rows] a hidden layer.
    """
    for tile in network.tiles(images.shape[1]):
        if network.streams > 1 or not tile.members.start:  # all tiles share the uniforms of one stream
            for place, drawn in zip(tile.uniforms, uniforms, strict=True):
                place.copy_(drawn[tile.streams])
        images_of_tile, labels_of_tile = images[tile.streams], labels[tile.streams]
        logits = tile.forward(images_of_tile, dropout=True)
        losses[tile.members] += _sum_rows(cross_entropy(logits, labels_of_tile))
        delta = cross_entropy_gradient(logits, labels_of_tile, batch)
        tile.backward(images_of_tile, delta, accumulate)
    if last:
        optimizer.step()
        if network.bfloat16:
            torch._foreach_copy_(network.factors, network.weights)


def _tiles_of_epoch(number: int, batch_size: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """(step, start, stop) of each row tile in order: they follow from the batch size and the rows of a tile alone."""
    for step in range(math.ceil(number / batch_size)):
        end = min((step + 1) * batch_size, number)
        for start in range(step * batch_size, end, rows):
            yield step, start, min(start + rows, end)


def _sum_rows(values: Tensor) -> Tensor:
    """Sum over rows [members, rows] -> [members] in float64, each member's by itself: the same bits in any stack."""
    if values.is_cuda:  # no such promise there
        return values.double().sum(-1)
    return torch.stack([row.sum() for row in values.double()])


def measure(network: Network, split: Split, batch_size: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy [P], float64 on the CPU, on a split whose images have the column of ones."""
    losses = torch.zeros(len(network.hyperparameters), dtype=torch.float64, device=network.weights[0].device)
    hits = torch.zeros_like(losses)
    for tile, _, logits, labels in _passes(network, split, batch_size):
        losses[tile.members] += _sum_rows(cross_entropy(logits, labels))
        hits[tile.members] += (logits.argmax(1) == labels).sum(-1)
    return tuple((total / len(split.labels)).cpu() for total in (losses, hits))


def measure_images(network: Network, split: Split, batch_size: int) -> Tensor:
    """Cross-entropy [P, N] of each image of such a split, on the CPU."""
    found = torch.empty(len(network.hyperparameters), len(split.labels))
    for tile, place, logits, labels in _passes(network, split, batch_size):
        found[tile.members, place] = cross_entropy(logits, labels).cpu().to(found.dtype)
    return found


def _passes(network: Network, split: Split, batch_size: int) -> Iterator[tuple[Tile, slice, Tensor, Tensor]]:
    """(tile of members, images, logits [members, classes, rows], labels [1, rows]) of a split, without dropout."""
    device, rows = network.weights[0].device, network.tile_rows(batch_size)
    for start in range(0, len(split.labels), rows):
        place = slice(start, start + rows)
        images, labels = split.images[place].to(device).unsqueeze(0), split.labels[place].to(device).unsqueeze(0)
        for tile in network.tiles(images.shape[1]):
            yield tile, place, tile.forward(images, dropout=False), labels


def prepare(split: Split, bfloat16: bool = False) -> Split:
    """The split as a population reads it, images [N, D + 1]: with a column of ones, which the bias multiplies."""
    images = split.images.bfloat16() if bfloat16 else split.images
    return replace(split, images=torch.cat([images, images.new_ones(len(images), 1)], dim=1))
