"""Train a population with early stopping and AdamW per member, and evaluate it.

Shape letters: P members, N images, B images a batch, D inputs; a `streams` axis is 1 or P (see model.py).
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlp_lib.adamw import AdamW
from mlp_lib.data import Split
from mlp_lib.fused import Graph
from mlp_lib.model import (
    Network,
    cross_entropy,
    cross_entropy_gradient,
    draw_uniforms,
    draw_weights,
    tile_rows,
    with_ones,
)
from mlp_lib.parametrization import LayerScale, layer_scales
from mlp_lib.runtime import Stream, generator, training_mode
from mlp_lib.settings import CLASSES, Architecture, Hyperparameters, TrainingSettings
from mlp_lib.state import State

COMPLETED, DIVERGED = "completed", "diverged"
_HISTORY = ["member", "epoch", "train_loss", "val_loss", "val_accuracy"]
_ARRAYS = ("best_epoch", "epochs_trained", "val_loss", "val_accuracy")  # of Trained


@dataclass(frozen=True)
class Trained:
    """P trained members: the weights of each one's best check, and how the training went.

    weights: [P, out, in + 1] a layer; the arrays are [P]; losses in nats an example, NaN for a diverged member.
    history: a row a member and epoch: member, epoch, train_loss, val_loss, val_accuracy (NaN where not checked).
    """

    architecture: Architecture
    hyperparameters: list[Hyperparameters]
    weights: list[Tensor]
    status: list[str]
    best_epoch: np.ndarray
    epochs_trained: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    history: pd.DataFrame


class _Population:
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
    ) -> "_Population":
        """Fresh members: initial weights of (run seed, architecture), zero moments."""
        drawn = {seed: draw_weights(architecture, inputs, CLASSES, seed, scales) for seed in dict.fromkeys(seeds)}
        stacked = (np.stack([drawn[seed][layer] for seed in seeds]) for layer in range(len(architecture.widths) + 1))
        weights = [torch.from_numpy(layer).to(like) for layer in stacked]
        network = Network(architecture, weights, hyperparameters, len(set(seeds)))
        return cls(network, AdamW(network, [scale.lr for scale in scales]), seeds)

    @classmethod
    def resume(cls, fresh: "_Population", state: State, active: np.ndarray) -> "_Population":
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

    def select(self, kept: list[int]) -> "_Population":
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
        return _Population(smaller, AdamW(smaller, optimizer.lr_scales, moments, float(optimizer.steps)), seeds)

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
        """Dropout's uniforms [streams, width, batch] a hidden layer."""
        architecture, device = self.network.architecture, self.losses.device
        drawn = {s: draw_uniforms(architecture, s, epoch, step, batch) for s in dict.fromkeys(self.stream_seeds)}
        stacks = zip(*(drawn[s] for s in self.stream_seeds), strict=True)
        return [torch.stack([torch.from_numpy(u) for u in layer]).to(device) for layer in stacks]


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


def _evaluate(network: Network, split: Split, rows: int) -> tuple[np.ndarray, np.ndarray]:
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


def evaluate(trained: Trained, split: Split, settings: TrainingSettings) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy (nats an example) and accuracy (0 to 1) of each member on the split, [P] each.

    Both are NaN for a member that diverged.
    """
    with training_mode(settings):
        network = Network(trained.architecture, trained.weights, trained.hyperparameters, 1)
        rows = tile_rows(settings.batch_size, trained.weights[0].device)
        losses, accuracies = _evaluate(network, _prepared(split), rows)
    diverged = [status == DIVERGED for status in trained.status]
    return np.where(diverged, np.nan, losses), np.where(diverged, np.nan, accuracies)


def _prepared(split: Split) -> Split:
    return replace(split, images=with_ones(split.images))


def train_population(
    train: Split,
    validation: Split,
    architecture: Architecture,
    hyperparameters: Sequence[Hyperparameters],
    seeds: Sequence[int],
    settings: TrainingSettings,
    device: torch.device | None = None,
    watch: Callable[[pd.DataFrame], None] = lambda rows: None,
    keep: Callable[[Callable[[], State]], None] = lambda make: None,
    start: State | None = None,
) -> Trained:
    """Train P members of one architecture together, each with its own hyperparameters and run seed.

    A member's result depends on (architecture, its hyperparameters, its run seed, settings, the two splits) and not
    on its neighbours: on the CPU bit for bit. A member stops after `patience` checks without a better validation
    loss, or diverges (a loss that is not finite), and leaves the stack. `watch` is given each epoch's rows of
    the history, one a member still training; what it raises ends the training. `keep` is offered the state after each
    epoch, from which, as `start`, the same members go on to the same bits. The test split never comes here.
    """
    if not hyperparameters or len(hyperparameters) != len(seeds):
        raise ValueError(f"{len(hyperparameters)} hyperparameters and {len(seeds)} seeds: one of each a member")
    device = device or train.images.device
    with training_mode(settings):
        train, validation = _prepared(train), _prepared(validation)
        like = torch.empty((), dtype=train.images.dtype, device=device)
        inputs = train.images.shape[1] - 1
        scales = layer_scales(architecture, settings)
        population = _Population.start(architecture, list(hyperparameters), list(seeds), inputs, like, scales)
        return _train(population, train, validation, settings, watch, keep, start)


def _train(
    population: _Population,
    train: Split,
    validation: Split,
    settings: TrainingSettings,
    watch: Callable[[pd.DataFrame], None],
    keep: Callable[[Callable[[], State]], None],
    start: State | None,
) -> Trained:
    network = population.network
    size = len(population.seeds)
    best = Trained(
        network.architecture,
        network.hyperparameters,
        [weight.clone() for weight in network.weights],
        [COMPLETED] * size,
        best_epoch=np.zeros(size, dtype=int),
        epochs_trained=np.zeros(size, dtype=int),
        val_loss=np.full(size, np.inf),
        val_accuracy=np.full(size, np.nan),
        history=pd.DataFrame(),
    )
    stale = np.zeros(size, dtype=int)  # checks since each member's best
    active = np.arange(size)  # the member of each place in the stack
    history = []
    rows = tile_rows(settings.batch_size, network.weights[0].device)
    first = 1
    if start is not None:
        history, stale, active = [_restore(best, start)], start["stale"], np.flatnonzero(start["active"])
        first = int(start["epoch"][0]) + 1
        population = _Population.resume(population, start, active) if len(active) else population
    for epoch in range(first, settings.max_epochs + 1 if len(active) else first):
        train_loss = population.train_epoch(train, epoch, settings.batch_size).cpu().numpy()
        best.epochs_trained[active] = epoch
        record = {"member": active, "epoch": epoch, "train_loss": train_loss}
        diverged = ~np.isfinite(train_loss)
        stopped = diverged.copy()
        if epoch % settings.val_interval == 0 or epoch == settings.max_epochs:
            val_loss, val_accuracy = _evaluate(population.network, validation, rows)
            record |= {"val_loss": val_loss, "val_accuracy": val_accuracy}
            diverged |= ~np.isfinite(val_loss)
            better = ~diverged & (val_loss < best.val_loss[active])
            places, members = np.flatnonzero(better), active[better]
            for kept, weight in zip(best.weights, population.network.weights, strict=True):
                kept[members] = weight[places]
            best.best_epoch[members] = epoch
            best.val_loss[members], best.val_accuracy[members] = val_loss[better], val_accuracy[better]
            stale[active] = np.where(better, 0, stale[active] + 1)
            stopped = diverged | (stale[active] >= settings.patience)
        history.append(pd.DataFrame(record))
        watch(history[-1])
        for member in active[diverged]:
            best.status[member] = DIVERGED
            best.val_loss[member] = best.val_accuracy[member] = np.nan
            best.best_epoch[member] = 0
        if stopped.all():
            break
        if stopped.any():
            population = population.select(np.flatnonzero(~stopped).tolist())
            active = active[~stopped]
        keep(functools.partial(_describe, population, best, stale, active, history))
    frame = pd.concat(history).reindex(columns=_HISTORY).sort_values(["member", "epoch"], ignore_index=True)
    return Trained(**{**vars(best), "history": frame})


def _describe(
    population: _Population, best: Trained, stale: np.ndarray, active: np.ndarray, history: list[pd.DataFrame]
) -> State:
    """The state of all members after an epoch; those that stopped have zeros for what only the active need."""
    size, optimizer = len(stale), population.optimizer
    frame = pd.concat(history).reindex(columns=_HISTORY)
    epoch = int(frame["epoch"].max())
    told = np.full((size, epoch, 3), np.nan)
    told[frame["member"], frame["epoch"] - 1] = frame[_HISTORY[2:]]
    state = {
        "epoch": np.full(size, epoch),
        "steps": np.full(size, float(optimizer.steps)),
        "active": np.isin(np.arange(size), active),
        "stale": stale.copy(),
        "diverged": np.array([status == DIVERGED for status in best.status]),
        "history": told,
        **{name: getattr(best, name).copy() for name in _ARRAYS},
    }
    stacks = {"weight": population.network.weights, "first": optimizer.moments[0], "second": optimizer.moments[1]}
    for layer, kept in enumerate(best.weights):
        state[f"best_{layer}"] = kept.cpu().numpy().copy()
        for name, stack in stacks.items():
            state[f"{name}_{layer}"] = np.zeros_like(state[f"best_{layer}"])
            state[f"{name}_{layer}"][active] = stack[layer].cpu().numpy()
    return state


def _restore(best: Trained, state: State) -> pd.DataFrame:
    """Fill `best` from a state; the history so far."""
    for name in _ARRAYS:
        getattr(best, name)[:] = state[name]
    best.status[:] = [DIVERGED if diverged else COMPLETED for diverged in state["diverged"]]
    for layer, kept in enumerate(best.weights):
        kept.copy_(torch.from_numpy(state[f"best_{layer}"]))
    frames = [
        pd.DataFrame(told[:epochs], columns=_HISTORY[2:]).assign(member=member, epoch=np.arange(1, epochs + 1))
        for member, (told, epochs) in enumerate(zip(state["history"], state["epochs_trained"], strict=True))
    ]
    return pd.concat(frames)
