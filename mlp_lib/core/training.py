"""Training P members of one architecture together, an epoch at a time, with early stopping for each.

Shape letters: P members, N images, D inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mlp_lib.core.data import Split
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import Network, tile_rows, to_sequential
from mlp_lib.core.population import Population, initial_weights, measure, measure_images, prepare
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings

COMPLETED, DIVERGED = "completed", "diverged"
_MEASURED = ["train_loss", "val_loss", "val_accuracy"]

State = dict[str, Tensor]  # all that a training goes on from, on the CPU; the first axis of each is the member


@dataclass(frozen=True)
class Trained:
    """P trained members: the weights of each one's best check, and how the training went.

    weights: [P, out, in + 1] a layer; the arrays are [P]; losses in nats an example, NaN for a diverged member.
    history: a row a member and epoch: member, epoch, train_loss, val_loss, val_accuracy (NaN where not checked).
    """

    architecture: Architecture
    hyperparameters: list[Hyperparameters]
    settings: TrainingSettings
    weights: list[Tensor]
    status: list[str]
    best_epoch: np.ndarray
    epochs_trained: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    history: pd.DataFrame

    def score(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Mean cross-entropy (nats an example) and accuracy (0 to 1) of each member on a split, [P] each.

        Both are NaN for a member that diverged.
        """
        losses, accuracies = (np.where(self._diverged, np.nan, values) for values in self._measure(measure, split))
        return losses, accuracies

    def image_losses(self, split: Split) -> np.ndarray:
        """Cross-entropy (nats) of each image of a split, float32 [P, N]; NaN for a member that diverged."""
        return np.where(self._diverged[:, None], np.float32("nan"), self._measure(measure_images, split))

    @property
    def _diverged(self) -> np.ndarray:
        return np.array([status == DIVERGED for status in self.status])

    def _measure(self, how: Callable, split: Split) -> Any:
        with training_mode(self.settings):
            network = Network(self.architecture, self.weights, self.hyperparameters, streams=1)
            return how(network, prepare(split), tile_rows(self.settings.batch_size, self.weights[0].device))

    def model(self, member: int) -> nn.Sequential:
        """One member as an ordinary nn.Sequential on the CPU, in eval mode: images [N, D] to logits [N, classes]."""
        weights = [weight[member].cpu() for weight in self.weights]
        return to_sequential(self.architecture, weights, self.hyperparameters[member]).eval()


class Training:
    """P members of one architecture in training, each with its own hyperparameters and run seed.

    An iterator: each epoch it gives the epoch's rows, one a member still training, with the columns of
    `Trained.history`. A member stops after `patience` checks without a better validation loss, or diverges (a loss that
    is not finite), and leaves the stack; `result` has each one's best check.

    A member's result depends on (architecture, its hyperparameters, its run seed, settings, the two splits) and not on
    its neighbours: on the CPU bit for bit. From `state()`, given as `state`, the same members go on to the same bits.
    The test split never comes here.
    """

    def __init__(
        self,
        train: Split,
        validation: Split,
        architecture: Architecture,
        hyperparameters: Hyperparameters | Sequence[Hyperparameters],
        seeds: Sequence[int] | None = None,
        settings: TrainingSettings | None = None,
        device: torch.device | None = None,
        state: State | None = None,
    ):
        """seeds: a run seed a member, else 0 for all; device: else that of the data. ValueError for other numbers."""
        one = isinstance(hyperparameters, Hyperparameters)
        self.hyperparameters = [hyperparameters] if one else list(hyperparameters)
        self.seeds = [0] * len(self.hyperparameters) if seeds is None else list(seeds)
        if not self.hyperparameters or len(self.hyperparameters) != len(self.seeds):
            number = len(self.hyperparameters)
            raise ValueError(f"{number} hyperparameters and {len(self.seeds)} seeds: one of each a member")
        self.architecture, self.settings = architecture, settings or TrainingSettings()
        self.device = device or train.images.device
        self._train, self._validation = prepare(train), prepare(validation)
        if state is None:
            state = _fresh(architecture, self.seeds, self.settings, self._train.images)
        self.epoch = int(state["epoch"].max())
        self._history = list(state["history"].unbind(1))  # [P, 3] an epoch
        self._told = {name: state[name].clone() for name in _fresh_numbers(0)}
        self._best = [layer.to(self.device, copy=True) for layer in self._layers(state, "best")]
        self._active = state["active"].nonzero().flatten()  # the member of each place in the stack
        if len(self._active):
            self._population = self._gather(state)

    def _layers(self, state: State, name: str) -> list[Tensor]:
        return [state[f"{name}_{layer}"] for layer in range(len(self.architecture.widths) + 1)]

    def _gather(self, state: State) -> Population:
        """The members that are active, from where they stand."""
        names, active = ("weight", "first", "second"), self._active
        weights, *moments = ([a[active].to(self.device) for a in self._layers(state, name)] for name in names)
        hyperparameters, seeds = ([of_all[i] for i in active] for of_all in (self.hyperparameters, self.seeds))
        steps = float(state["steps"][active[0]])
        return Population(self.architecture, hyperparameters, seeds, self.settings, weights, tuple(moments), steps)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self

    def __next__(self) -> pd.DataFrame:
        if not len(self._active) or self.epoch >= self.settings.max_epochs:
            raise StopIteration
        # for each epoch by itself: entered across a yield, inference mode would leak to the caller
        with training_mode(self.settings):
            return self._train_epoch()

    def _train_epoch(self) -> pd.DataFrame:
        self.epoch, active, told = self.epoch + 1, self._active, self._told
        row = torch.full((len(self.seeds), 3), torch.nan, dtype=torch.float64)
        row[active, 0] = self._population.train_epoch(self._train, self.epoch).cpu()
        told["epochs_trained"][active] = self.epoch
        diverged = ~row[active, 0].isfinite()
        if self.epoch % self.settings.val_interval == 0 or self.epoch == self.settings.max_epochs:
            diverged |= self._check(row)
        told["diverged"][active[diverged]] = True
        for name in ("val_loss", "val_accuracy"):
            told[name][active[diverged]] = torch.nan
        told["best_epoch"][active[diverged]] = 0
        self._history.append(row)
        going_on = ~diverged & (told["stale"][active] < self.settings.patience)
        if not going_on.all():
            self._active = active[going_on]
            if len(self._active):
                self._population = self._population.select(going_on.nonzero().flatten().tolist())
        rows = pd.DataFrame(row[active].numpy(), columns=_MEASURED)
        return rows.assign(member=active.numpy(), epoch=self.epoch)[["member", "epoch", *_MEASURED]]

    def _check(self, row: Tensor) -> Tensor:
        """Measure the validation split into the epoch's row and keep what is better; who diverged, of the active."""
        active, told, network = self._active, self._told, self._population.network
        rows = tile_rows(self.settings.batch_size, self.device)
        loss, accuracy = measure(network, self._validation, rows)
        row[active, 1], row[active, 2] = loss, accuracy
        finite = row[active, 0].isfinite() & loss.isfinite()
        better = finite & (loss < told["val_loss"][active])
        places, members = better.nonzero().flatten(), active[better]
        for kept, weight in zip(self._best, network.weights, strict=True):
            kept[members.to(self.device)] = weight[places.to(self.device)]
        told["best_epoch"][members] = self.epoch
        told["val_loss"][members], told["val_accuracy"][members] = loss[better], accuracy[better]
        told["stale"][active] = torch.where(better, 0, told["stale"][active] + 1)
        return ~finite

    def state(self) -> State:
        """Where the training stands, in tensors of its own; those that stopped have zeros for what only others need."""
        size = len(self.seeds)
        state = {name: values.clone() for name, values in self._told.items()}
        state |= {f"best_{layer}": kept.cpu().clone() for layer, kept in enumerate(self._best)}
        state["epoch"] = torch.full((size,), self.epoch)
        state["history"] = (
            torch.stack(self._history, 1) if self._history else torch.empty(size, 0, 3, dtype=torch.float64)
        )
        state["active"] = torch.zeros(size, dtype=torch.bool)
        state["active"][self._active] = True
        state["steps"] = torch.zeros(size, dtype=torch.float64)
        for name in ("weight", "first", "second"):
            state |= {f"{name}_{layer}": torch.zeros_like(state[f"best_{layer}"]) for layer in range(len(self._best))}
        if len(self._active):
            state["steps"][self._active] = self._population.steps
            for name, stack in self._population.stacks.items():
                for layer, values in enumerate(stack):
                    state[f"{name}_{layer}"][self._active] = values.cpu()
        return state

    def _told_by_epoch(self) -> Tensor:
        """What was measured [P, epochs, 3], NaN where nothing was."""
        empty = torch.empty(len(self.seeds), 0, 3, dtype=torch.float64)
        return torch.stack(self._history, 1) if self._history else empty

    def result(self) -> Trained:
        """What the members have come to: each one's best check so far."""
        told = {name: values.numpy().copy() for name, values in self._told.items()}
        measured = self._told_by_epoch().numpy()
        member, epoch = np.nonzero(np.arange(measured.shape[1]) < told["epochs_trained"][:, None])
        history = pd.DataFrame(measured[member, epoch], columns=_MEASURED).assign(member=member, epoch=epoch + 1)
        return Trained(
            self.architecture,
            self.hyperparameters,
            self.settings,
            [kept.clone() for kept in self._best],
            [DIVERGED if diverged else COMPLETED for diverged in told["diverged"]],
            **{name: told[name] for name in ("best_epoch", "epochs_trained", "val_loss", "val_accuracy")},
            history=history[["member", "epoch", *_MEASURED]],
        )


def train(
    train: Split,
    validation: Split,
    architecture: Architecture,
    hyperparameters: Hyperparameters | Sequence[Hyperparameters],
    seeds: Sequence[int] | None = None,
    settings: TrainingSettings | None = None,
    device: torch.device | None = None,
) -> Trained:
    """Train P members of one architecture together to their end: see `Training`, of which this is the whole."""
    training = Training(train, validation, architecture, hyperparameters, seeds, settings, device)
    for _ in training:
        pass
    return training.result()


def _fresh_numbers(size: int) -> State:
    """What is told of each member [P] before its first epoch."""
    counts = {name: torch.zeros(size, dtype=torch.int64) for name in ("best_epoch", "epochs_trained", "stale")}
    losses = {
        "val_loss": torch.full((size,), torch.inf, dtype=torch.float64),
        "val_accuracy": torch.full((size,), torch.nan, dtype=torch.float64),
    }
    return counts | losses | {"diverged": torch.zeros(size, dtype=torch.bool)}


def _fresh(architecture: Architecture, seeds: list[int], settings: TrainingSettings, images: Tensor) -> State:
    """The state before the first epoch: initial weights of (run seed, architecture), zero moments."""
    size = len(seeds)
    state = _fresh_numbers(size) | {
        "epoch": torch.zeros(size, dtype=torch.int64),
        "history": torch.empty(size, 0, 3, dtype=torch.float64),
        "active": torch.ones(size, dtype=torch.bool),
        "steps": torch.zeros(size, dtype=torch.float64),
    }
    for layer, weights in enumerate(initial_weights(architecture, seeds, settings, images.cpu())):
        state |= {f"weight_{layer}": weights, f"best_{layer}": weights}
        state |= {f"{name}_{layer}": torch.zeros_like(weights) for name in ("first", "second")}
    return state
