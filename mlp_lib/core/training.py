"""Train a population with early stopping and AdamW per member, and evaluate it.

Shape letters: P members, N images, B images a batch, D inputs; a `streams` axis is 1 or P (see model.py).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlp_lib.core.data import Split
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import Network, layer_scales, tile_rows
from mlp_lib.core.population import Population, State, measure, prepare
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings

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


def evaluate(trained: Trained, split: Split, settings: TrainingSettings) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy (nats an example) and accuracy (0 to 1) of each member on the split, [P] each.

    Both are NaN for a member that diverged.
    """
    with training_mode(settings):
        network = Network(trained.architecture, trained.weights, trained.hyperparameters, 1)
        rows = tile_rows(settings.batch_size, trained.weights[0].device)
        losses, accuracies = measure(network, prepare(split), rows)
    diverged = [status == DIVERGED for status in trained.status]
    return np.where(diverged, np.nan, losses), np.where(diverged, np.nan, accuracies)


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
        train, validation = prepare(train), prepare(validation)
        like = torch.empty((), dtype=train.images.dtype, device=device)
        inputs = train.images.shape[1] - 1
        scales = layer_scales(architecture, settings)
        population = Population.start(architecture, list(hyperparameters), list(seeds), inputs, like, scales)
        return _train(population, train, validation, settings, watch, keep, start)


def _train(
    population: Population,
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
        population = Population.resume(population, start, active) if len(active) else population
    for epoch in range(first, settings.max_epochs + 1 if len(active) else first):
        train_loss = population.train_epoch(train, epoch, settings.batch_size).cpu().numpy()
        best.epochs_trained[active] = epoch
        record = {"member": active, "epoch": epoch, "train_loss": train_loss}
        diverged = ~np.isfinite(train_loss)
        stopped = diverged.copy()
        if epoch % settings.val_interval == 0 or epoch == settings.max_epochs:
            val_loss, val_accuracy = measure(population.network, validation, rows)
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
    population: Population, best: Trained, stale: np.ndarray, active: np.ndarray, history: list[pd.DataFrame]
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
