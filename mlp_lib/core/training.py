"""Training P members of one architecture together, an epoch at a time, with early stopping for each.

Shape letters: P members, N images, D inputs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mlp_lib.core.data import Split
from mlp_lib.core.kernels import rounds_factors
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import Network, to_sequential
from mlp_lib.core.population import Population, draw_members, measure, measure_images, prepare
from mlp_lib.core.values import (
    COMPLETED,
    DIVERGED,
    GUESSING,
    NOT_TRAINED,
    Architecture,
    Hyperparameters,
    TrainingSettings,
)

_MEASURED = ["train_loss", "val_loss", "val_accuracy"]
# what is told of a member: before its first epoch, and once it has diverged
_FRESH = dict.fromkeys(("best_epoch", "epochs_trained", "stale"), 0)
_FRESH |= {"diverged": False, "val_loss": np.inf, "val_accuracy": np.nan}
_LOST = {"best_epoch": 0, "diverged": True, "val_loss": np.nan, "val_accuracy": np.nan}

State = dict[str, Tensor]  # all that a training goes on from, on the CPU; the first axis of each is the member
_STACKS = ("best", "weight", "first", "second")  # in a state by layer: of the best check, and AdamW's with its moments


@dataclass(frozen=True)
class Trained:
    """P trained members: the weights of each one's best check, and how the training went.

    weights: [P, out, in + 1] a layer; the arrays are [P]; losses in nats an example, NaN for a diverged member.
    status: completed; diverged (a loss is not finite); not_trained (no validation loss is below that of guessing).
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
        return tuple(np.where(np.equal(self.status, DIVERGED), np.nan, each) for each in self._measure(measure, split))

    def image_losses(self, split: Split) -> np.ndarray:
        """Cross-entropy (nats) of each image of a split, float32 [P, N]; NaN for a member that diverged."""
        images = self._measure(measure_images, split)
        return np.where(np.equal(self.status, DIVERGED)[:, None], np.float32("nan"), images)

    def _measure(self, how: Callable, split: Split) -> Any:
        with training_mode(self.settings, self.weights[0].device):
            network = Network(self.weights, self.hyperparameters)
            return how(network, prepare(split), self.settings.batch_size)

    def model(self, member: int) -> nn.Sequential:
        """One member as an ordinary nn.Sequential on the CPU, in eval mode: images [N, D] to logits [N, classes]."""
        weights = [weight[member].cpu() for weight in self.weights]
        return to_sequential(self.architecture, weights, self.hyperparameters[member]).eval()


class Training(Iterator[pd.DataFrame]):
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
        device: torch.device | str | None = None,
        state: State | None = None,
    ):
        """seeds: a run seed a member, else 0; device: else the data's. ValueError for other numbers or other state."""
        self.hyperparameters = [hyperparameters] if isinstance(hyperparameters, Hyperparameters) else [*hyperparameters]
        number = len(self.hyperparameters)
        self.seeds = [0] * number if seeds is None else list(seeds)
        if not number or number != len(self.seeds):
            raise ValueError(f"{number} hyperparameters and {len(self.seeds)} seeds: one of each a member")
        self.architecture, self.settings = architecture, settings or TrainingSettings()
        self.device = torch.device(device or train.images.device)
        self._train = prepare(train, rounds_factors(self.settings, self.device.type))
        self._validation = prepare(validation)
        state = state or _fresh(architecture, self.seeds, self.settings, self._validation.images)
        self.epoch = state["history"].shape[1]
        self._history = [state["history"]]  # [P, epochs, 3], of some epochs each
        self._told = {name: state[name].clone() for name in _FRESH}  # [P] each
        layers = range(len(architecture.widths) + 1)
        self._best, *stacks = (
            [state[f"{name}_{layer}"].to(self.device, copy=True) for layer in layers] for name in _STACKS
        )
        shapes = [(number, n_out, n_in + 1) for n_in, n_out in architecture.layer_sizes(train.images.shape[1])]
        if [best.shape for best in self._best] != shapes:
            raise ValueError("the state is of another architecture, or of other numbers of members or pixels")
        steps = self.epoch * math.ceil(len(train.labels) / self.settings.batch_size)
        self._population = Population(self.hyperparameters, self.seeds, self.settings, stacks, steps)
        self._active = torch.arange(number)  # the member of each place in the stack
        self._leave()

    def __next__(self) -> pd.DataFrame:
        if not len(self._active) or self.epoch >= self.settings.max_epochs:
            raise StopIteration
        # for each epoch by itself: entered across a yield, inference mode would leak to the caller
        with training_mode(self.settings, self.device):
            return self._train_epoch()

    def _train_epoch(self) -> pd.DataFrame:
        self.epoch, settings, active, told = self.epoch + 1, self.settings, self._active, self._told
        row = torch.full((len(active), len(_MEASURED)), torch.nan, dtype=torch.float64)
        row[:, 0] = self._population.train_epoch(self._train, self.epoch).cpu()
        check = self.epoch % settings.val_interval == 0 or self.epoch == settings.max_epochs
        if check:
            row[:, 1], row[:, 2] = measure(self._population.measured, self._validation, settings.batch_size)
        diverged = ~row[:, : 1 + check].isfinite().all(1)
        told["epochs_trained"][active] = self.epoch
        told["stale"][active] += int(check)
        if check:
            self._keep(row, ~diverged & (row[:, 1] < told["val_loss"][active]))
        for name, value in _LOST.items():
            told[name][active[diverged]] = value
        self._history.append(torch.full((len(self.seeds), 1, len(_MEASURED)), torch.nan, dtype=torch.float64))
        self._history[-1][active, 0] = row
        self._leave()
        return _table(row.numpy(), active.numpy(), self.epoch)

    def _keep(self, row: Tensor, better: Tensor) -> None:
        """The check in the row [active, 3] is the best so far of those who are better [active]."""
        members, told = self._active[better], self._told
        told["best_epoch"][members], told["stale"][members] = self.epoch, 0
        told["val_loss"][members], told["val_accuracy"][members] = row[better, 1], row[better, 2]
        for kept, weight in zip(self._best, self._population.network.weights, strict=True):
            kept[members.to(self.device)] = weight[better.to(self.device)]

    def _leave(self) -> None:
        """Those who have stopped leave the stack."""
        stopped = self._told["diverged"] | (self._told["stale"] >= self.settings.patience)
        stay = ~stopped[self._active]
        if not stay.all():
            self._active = self._active[stay]
            self._population = self._population.select(stay.nonzero().flatten().tolist())

    def state(self) -> State:
        """Where the training stands, in tensors of its own; those that stopped have zeros for what only others need."""
        number = len(self.seeds)
        state = {name: values.clone() for name, values in self._told.items()}
        state["history"] = torch.cat(self._history, 1)
        for name, stack in zip(_STACKS, (self._best, *self._population.stacks), strict=True):
            members = torch.arange(number) if name == "best" else self._active
            for layer, values in enumerate(stack):
                whole = torch.zeros(number, *values.shape[1:], dtype=values.dtype)
                state[f"{name}_{layer}"] = whole.index_copy_(0, members, values.cpu())
        return state

    def result(self) -> Trained:
        """What the members have come to: each one's best check so far."""
        told = {name: values.numpy().copy() for name, values in self._told.items()}
        measured = torch.cat(self._history, 1).numpy()
        member, epoch = np.nonzero(np.arange(self.epoch) < told["epochs_trained"][:, None])
        return Trained(
            self.architecture,
            self.hyperparameters,
            self.settings,
            [kept.clone() for kept in self._best],
            np.select([told["diverged"], told["val_loss"] >= GUESSING], [DIVERGED, NOT_TRAINED], COMPLETED).tolist(),
            **{name: told[name] for name in ("best_epoch", "epochs_trained", "val_loss", "val_accuracy")},
            history=_table(measured[member, epoch], member, epoch + 1),
        )


def train(
    train: Split,
    validation: Split,
    architecture: Architecture,
    hyperparameters: Hyperparameters | Sequence[Hyperparameters],
    seeds: Sequence[int] | None = None,
    settings: TrainingSettings | None = None,
    device: torch.device | str | None = None,
) -> Trained:
    """Train P members of one architecture together to their end: see `Training`, of which this is the whole."""
    training = Training(train, validation, architecture, hyperparameters, seeds, settings, device)
    for _ in training:
        pass
    return training.result()


def _fresh(architecture: Architecture, seeds: list[int], settings: TrainingSettings, images: Tensor) -> State:
    """The state before the first epoch."""
    state = {name: torch.from_numpy(np.full(len(seeds), value)) for name, value in _FRESH.items()}
    state["history"] = torch.empty(len(seeds), 0, len(_MEASURED), dtype=torch.float64)
    weights, *moments = draw_members(architecture, seeds, settings, images.cpu())
    for name, stack in zip(_STACKS, (weights, weights, *moments), strict=True):
        state |= {f"{name}_{layer}": values for layer, values in enumerate(stack)}
    return state


def _table(measured: np.ndarray, member: np.ndarray, epoch: int | np.ndarray) -> pd.DataFrame:
    """Rows of what was measured [rows, 3] as in Trained.history."""
    return pd.DataFrame({"member": member, "epoch": epoch} | dict(zip(_MEASURED, measured.T, strict=True)))
