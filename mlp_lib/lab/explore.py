"""Training by hand: attempts, one after the other, beside what stored runs chose."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from mlp_lib.core.data import Dataset, load_dataset
from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.training import Training
from mlp_lib.core.values import HYPERPARAMETERS, Architecture, DataSettings, Hyperparameters, TrainingSettings
from mlp_lib.figures import curves as curve_figures
from mlp_lib.reports.parameters_cell import read_parameters
from mlp_lib.run.files import RunFiles, read_table, read_yaml, runs_below
from mlp_lib.run.meta import read_architectures, read_meta
from mlp_lib.run.parameters import ArchitectureChoice, ExploreSettings
from mlp_lib.run.parsing import own, parse
from mlp_lib.run.recipe import Data


@dataclass(frozen=True)
class Stored:
    """What a stored run chose for one architecture."""

    run: str
    architecture: Architecture
    hyperparameters: Hyperparameters
    training: TrainingSettings
    metrics: Path

    def __str__(self) -> str:
        return f"{self.run}: {self.architecture.name}"


def find_stored(settings: DataSettings, root: Path) -> list[Stored]:
    """The chosen trials of all runs at most two levels below `root` that have the same data and split."""
    return [stored for files in runs_below(root) for stored in _read_stored(files, root, settings)]


def _read_stored(files: RunFiles, root: Path, settings: DataSettings) -> list[Stored]:
    found = []
    with contextlib.suppress(MlpError, KeyError, ValueError, TypeError):  # a damaged run is none to compare with
        parameters = read_meta(files)["parameters"]
        if Data.model_validate(parameters).split != Data.model_validate(settings.model_dump()).split:
            return []
        training = TrainingSettings(**own(TrainingSettings, parameters))
        for architecture in read_architectures(files):
            best, metrics = files.architecture(architecture).best, files.architecture(architecture).metrics
            if best.exists() and metrics.exists():
                chosen = Hyperparameters(**read_yaml(best)["hyperparameters"])
                found.append(Stored(str(files.root.relative_to(root)), architecture, chosen, training, metrics))
    return found


FIRST = Hyperparameters(lr=3e-3, beta2=0.99, weight_decay=1e-4, dropout=0.1)
LOADING, TRAINING, STOPPED, FAILED = "loading data", "training", "stopped", "failed"
_REFRESH_S = 0.5  # between two looks at the curves


@dataclass
class Attempt:
    """One training by hand, as it goes on; `status` ends as that of `Trained`, stopped or failed."""

    number: int
    architecture: Architecture
    hyperparameters: Hyperparameters
    seed: int
    settings: ExploreSettings
    status: str = LOADING
    message: str = ""  # why it failed
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch, as in Trained.history
    epochs: Generator[None] = field(default_factory=lambda: (none for none in ()))  # what trains it

    @property
    def running(self) -> bool:
        return self.status in (LOADING, TRAINING)

    def stop(self) -> None:
        """End it between two epochs, if it has not ended; its curve so far stays."""
        if self.running:
            self.status = STOPPED
            if not self.epochs.gi_running:  # else it ends by itself after this epoch
                self.epochs.close()

    def best(self) -> dict[str, float]:
        """The epoch of lowest validation loss so far; empty before the first check."""
        checks = [row for row in self.history if np.isfinite(row["val_loss"])]
        return min(checks, key=lambda row: row["val_loss"], default={})


class Explorer:
    """The attempts of a session. One trains at a time; nothing is written to disk.

    Test data is not read: with each look at it, trying by hand would tune on it.
    """

    def __init__(self, settings: ExploreSettings):
        self.settings = settings
        self.attempts: list[Attempt] = []
        self._datasets: dict[str, Dataset] = {}

    @property
    def running(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].running

    def begin(
        self,
        architecture: tuple[int, ...] = (128, 64),
        seed: int = 0,
        **changes: Any,
    ) -> Attempt:
        """A new attempt, for `wait` or `follow` to train; `changes` are of hyperparameters or parameters, by name.

        Raises SettingsError for a value that isn't allowed, or while another attempt trains.
        """
        if self.running:
            raise SettingsError(f"attempt {self.attempts[-1].number} is still training: stop it, or wait for it")
        values = FIRST.model_dump() | {name: changes.pop(name) for name in HYPERPARAMETERS if name in changes}
        attempt = Attempt(
            len(self.attempts) + 1,
            parse(ArchitectureChoice, {"list": [architecture]}, "architecture").architectures[0],
            parse(Hyperparameters, values, "hyperparameters"),
            seed,
            parse(ExploreSettings, self.settings.model_dump() | changes, "this attempt"),
        )
        self.attempts.append(attempt)
        attempt.epochs = self._train(attempt)
        return attempt

    def _train(self, attempt: Attempt) -> Generator[None]:
        """Train, giving way before the data is read and after each epoch."""
        settings, began = attempt.settings, time.monotonic()
        try:
            yield
            device = resolve_device(settings.device)
            of = DataSettings.of(settings), device
            if of not in self._datasets:
                self._datasets[of] = load_dataset(settings, device)
            data = self._datasets[of]
            if not attempt.running:
                return
            attempt.status, began = TRAINING, time.monotonic()
            vector, seeds = attempt.hyperparameters, [attempt.seed]
            training = Training(data.train, data.validation, attempt.architecture, vector, seeds, settings, device)
            for rows in training:
                attempt.history.append(rows.iloc[0].to_dict())
                attempt.seconds = time.monotonic() - began
                yield
                if not attempt.running:
                    return
            attempt.status = training.result().status[0]
        except Exception as error:  # an attempt that failed is one of the table, and the next may go well
            attempt.status = FAILED
            attempt.message = str(error) if isinstance(error, MlpError) else f"{type(error).__name__}: {error}"
        attempt.seconds = time.monotonic() - began

    def _show_epochs(self, on_change: Callable[[], None]) -> Iterator[None]:
        """Train epoch by epoch, calling `on_change` now and then, and at the end whatever the end is."""
        due, attempt = 0.0, self.attempts[-1]
        try:
            for _ in attempt.epochs:
                if time.monotonic() >= due:
                    on_change()
                    due = time.monotonic() + _REFRESH_S
                yield
        finally:
            attempt.stop()
            on_change()

    def stop(self) -> None:
        """Stop the attempt that trains, if one does."""
        for attempt in self.attempts[-1:]:
            attempt.stop()

    def wait(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Train the attempt that was begun, calling `on_change` now and then; an interrupt stops the attempt."""
        for _ in self._show_epochs(on_change):
            pass

    async def follow(self, on_change: Callable[[], None] = lambda: None) -> None:
        """The same while the kernel answers clicks: each epoch in a thread that is awaited, so its loop is free."""
        steps, end = self._show_epochs(on_change), object()
        while await asyncio.to_thread(next, steps, end) is not end:
            pass

    def train(self, architecture: tuple[int, ...] = (128, 64), **changes: Any) -> None:
        """Train an attempt as `begin` makes it, to the end, and show the curves as they grow."""
        attempt = self.begin(tuple(architecture), **changes)
        handle = display(self._picture(), display_id=True)
        self.wait(lambda: handle.update(self._picture()))
        if attempt.status == FAILED:
            raise MlpError(attempt.message)

    def _picture(self) -> Any:
        figure = self.figure()
        figure.set_label(f"Loss by epoch. {self.say()}")
        return figure

    def say(self) -> str:
        """A sentence on the last attempt."""
        if not self.attempts:
            return "Nothing was tried yet."
        attempt = self.attempts[-1]
        what = f"Attempt {attempt.number}, {attempt.architecture.name} on {attempt.settings.dataset}: {attempt.status}"
        if attempt.message:
            return f"{what}: {attempt.message}"
        epochs = f", epoch {len(attempt.history)} of at most {attempt.settings.max_epochs}, {attempt.seconds:.1f} s"
        best = attempt.best()
        found = f", best validation loss {best['val_loss']:.4f} (accuracy {best['val_accuracy']:.2%})" if best else ""
        return what + epochs + found

    def table(self) -> pd.DataFrame:
        """What was tried: a row an attempt, with the best validation loss (nats an example) and its accuracy."""
        rows = [
            {
                "attempt": attempt.number,
                "dataset": attempt.settings.dataset,
                "architecture": attempt.architecture.name,
                "val_loss": attempt.best().get("val_loss", np.nan),
                "val_accuracy": attempt.best().get("val_accuracy", np.nan),
                "status": attempt.status,
                "epochs": len(attempt.history),
                "seconds": round(attempt.seconds, 1),
                **attempt.hyperparameters.model_dump(),
                "seed": attempt.seed,
                "batch_size": attempt.settings.batch_size,
            }
            for attempt in self.attempts
        ]
        return pd.DataFrame(rows).set_index("attempt") if rows else pd.DataFrame()

    def figure(self, stored: Stored | None = None) -> Any:
        """The curves of all attempts on the last one's data set, beside those of a stored training."""
        columns = ["attempt", "epoch", "train_loss", "val_loss"]
        dataset = self.attempts[-1].settings.dataset if self.attempts else None
        rows = [
            {"attempt": attempt.number, **row}
            for attempt in self.attempts
            if attempt.settings.dataset == dataset
            for row in attempt.history
        ]
        curves = pd.DataFrame(rows, columns=columns, dtype=float).astype({"attempt": int})
        other = read_table(stored.metrics) if stored else None
        return curve_figures.attempt_curves(curves, other, str(stored or ""))


def start(namespace: Mapping[str, Any]) -> Explorer:
    """The session of 00_explore; `namespace` is the notebook's globals(). SettingsError for a wrong parameter."""
    return Explorer(read_parameters(ExploreSettings, namespace, "notebook explore"))
