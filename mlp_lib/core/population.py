"""A population in training: a pass over the training data, and a reading of its losses.

Shape letters: P members, N images, B images a batch, D inputs; a `streams` axis is 1 or P (see model.py).
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
from mlp_lib.core.kernels import Graph
from mlp_lib.core.network import (
    LayerScale,
    Network,
    cross_entropy,
    cross_entropy_gradient,
    draw_uniforms,
    draw_weights,
    tile_rows,
    with_ones,
)
from mlp_lib.core.optimizer import AdamW
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import CLASSES, Architecture, Hyperparameters

State = dict[str, np.ndarray]  # all that a training goes on from; the first axis is the member, all at the same epoch


class Population:
    """The members still training: their network, their optimizer and their run seeds."""

    def __init__(self, network: Network, optimizer: AdamW, seeds: list[int]):
        self.network, self.optimizer, self.seeds = network, optimizer, seeds
        self.losses = torch.zeros(len(seeds), dtype=torch.float64, device=network.weights[0].device)  # of this epoch
        train_rows = functools.partial(_train_rows, network, optimizer, self.losses)
        self._train_rows = Graph(train_rows) if network.fused else train_rows

    @classmethod
    def start(
        cls,
        architecture: Architecture,
        hyperparameters: list[Hyperparameters],
        seeds: list[int],
        inputs: int,
        like: Tensor,
        scales: Sequence[LayerScale],
    ) -> "Population":
        """Fresh members: initial weights of (run seed, architecture), zero moments."""
        drawn = {seed: draw_weights(architecture, inputs, CLASSES, seed, scales) for seed in dict.fromkeys(seeds)}
        stacked = (np.stack([drawn[seed][layer] for seed in seeds]) for layer in range(len(architecture.widths) + 1))
        weights = [torch.from_numpy(layer).to(like) for layer in stacked]
        network = Network(architecture, weights, hyperparameters, len(set(seeds)))
        return cls(network, AdamW(network, [scale.lr for scale in scales]), seeds)

    @classmethod
    def resume(cls, fresh: "Population", state: State, active: np.ndarray) -> "Population":
        """The members of a fresh population that were active, as the state has them."""
        like = fresh.network.weights[0]
        layers = range(len(fresh.network.weights))

        def stacks(name: str) -> list[Tensor]:
            return [torch.from_numpy(state[f"{name}_{layer}"][active]).to(like) for layer in layers]

        seeds = [fresh.seeds[i] for i in active]
        hyperparameters = [fresh.network.hyperparameters[i] for i in active]
        network = Network(fresh.network.architecture, stacks("weight"), hyperparameters, len(set(seeds)))
        moments, steps = [stacks("first"), stacks("second")], float(state["steps"][active[0]])
        return cls(network, AdamW(network, fresh.optimizer.lr_scales, moments, steps), seeds)

    def select(self, kept: list[int]) -> "Population":
        """The population without the members that stopped."""
        network, optimizer = self.network, self.optimizer
        index = torch.tensor(kept, device=network.weights[0].device)
        seeds = [self.seeds[i] for i in kept]
        smaller = Network(
            network.architecture,
            [weight.index_select(0, index) for weight in network.weights],
            [network.hyperparameters[i] for i in kept],
            len(set(seeds)),
        )
        moments = [[m.index_select(0, index) for m in stack] for stack in optimizer.moments]
        return Population(smaller, AdamW(smaller, optimizer.lr_scales, moments, float(optimizer.steps)), seeds)

    @property
    def stream_seeds(self) -> list[int]:
        """One run seed when all members share it, else each member's."""
        return self.seeds[:1] if len(set(self.seeds)) == 1 else self.seeds

    def train_epoch(self, train: Split, epoch: int, batch_size: int) -> Tensor:
        """One pass over the training data [N, D + 1]; the mean training loss of each member [P], float64."""
        device, number, seeds = self.losses.device, len(train.labels), self.stream_seeds
        orders = {s: generator(s, Stream.BATCHES, epoch).permutation(number) for s in dict.fromkeys(seeds)}
        order = torch.from_numpy(np.stack([orders[seed] for seed in seeds])).to(train.images.device)  # [streams, N]
        tiles = list(_tiles_of_epoch(number, batch_size, tile_rows(batch_size, device)))
        images_of_tiles = train.batches([order[:, a:b].flatten() for _, a, b in tiles], device)
        self.losses.zero_()
        for (step, start, stop), (images, labels) in zip(tiles, images_of_tiles, strict=True):
            begin, end = step * batch_size, min((step + 1) * batch_size, number)
            if start == begin:
                uniforms = self._draw_uniforms(epoch, step, end - begin)
            rows = stop - start
            self._train_rows(
                images.view(len(seeds), rows, -1),
                labels.view(len(seeds), rows),
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
        places = [stack.numpy() for stack in stacks]

        def draw(layer: int, stream: int) -> None:
            places[layer][stream] = draw_uniforms(architecture, layer, distinct[stream], epoch, step, batch)

        draws = itertools.product(range(len(places)), range(len(distinct)))
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
    filled = None  # the buffers that hold the shared uniforms of these rows
    for tile in network.tiles(images.shape[1]):
        if network.streams > 1 or tile.buffers is not filled:
            for buffer, drawn in zip(tile.buffers.uniforms, uniforms, strict=True):
                buffer.copy_(drawn[tile.streams])
            filled = tile.buffers
        images_of_tile, labels_of_tile = images[tile.streams], labels[tile.streams]
        logits = tile.forward(images_of_tile, dropout=True)
        losses[tile.members] += _sum_rows(cross_entropy(logits, labels_of_tile))
        delta = cross_entropy_gradient(logits, labels_of_tile, batch)
        tile.backward(images_of_tile, delta, accumulate)
    if last:
        optimizer.step()


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
    return torch.stack([row.double().sum() for row in values])


def measure(network: Network, split: Split, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and accuracy [P] on a split whose images have the column of ones."""
    losses = torch.zeros(len(network.hyperparameters), dtype=torch.float64, device=network.weights[0].device)
    hits = torch.zeros_like(losses)
    for start in range(0, len(split.labels), rows):
        images = split.images[start : start + rows].to(losses.device).unsqueeze(0)
        labels = split.labels[start : start + rows].to(losses.device).unsqueeze(0)
        for tile in network.tiles(images.shape[1]):
            logits = tile.forward(images, dropout=False)
            losses[tile.members] += _sum_rows(cross_entropy(logits, labels))
            hits[tile.members] += (logits.argmax(1) == labels).sum(-1)
    number = len(split.labels)
    return (losses / number).cpu().numpy(), (hits / number).cpu().numpy()


def prepare(split: Split) -> Split:
    """The split as a population reads it, images [N, D + 1]: with the column of ones."""
    return replace(split, images=with_ones(split.images))
