"""What stored runs chose, as something to compare a training by hand with."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from mlp_lib.core.data import Dataset, Split, load_dataset
from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.training import train_population
from mlp_lib.core.values import (
    HYPERPARAMETERS,
    Architecture,
    DataSettings,
    Hyperparameters,
    TrainingSettings,
)
from mlp_lib.figures import curves as curve_figures
from mlp_lib.lab.display import picture
from mlp_lib.reports.session import read_parameters
from mlp_lib.run.files import ROOT, RunFiles, read_table, read_yaml
from mlp_lib.run.meta import read_architectures, read_meta
from mlp_lib.run.parameters import ArchitectureChoice, ExploreSettings, parse
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
    metas = sorted([*root.glob("*/search/search_meta.yaml"), *root.glob("*/*/search/search_meta.yaml")])
    return [stored for path in metas for stored in _read_stored(path.parents[1], root, settings)]


def _read_stored(run_dir: Path, root: Path, settings: DataSettings) -> list[Stored]:
    files, found = RunFiles(run_dir), []
    try:
        parameters = read_meta(files)["parameters"]
        if Data.model_validate(parameters).split != Data.model_validate(settings.model_dump()).split:
            return []
        training = TrainingSettings(
            **{name: parameters[name] for name in TrainingSettings.model_fields if name in parameters}
        )
        for architecture in read_architectures(files):
            own = files.architecture(architecture)
            if own.best.exists() and own.metrics.exists():
                chosen = Hyperparameters(**read_yaml(own.best)["hyperparameters"])
                found.append(Stored(str(run_dir.relative_to(root)), architecture, chosen, training, own.metrics))
    except (MlpError, KeyError, ValueError, TypeError):  # a damaged run is none to compare with
        return found
    return found


FIRST = Hyperparameters(lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-4, dropout=0.1, leaky_relu_alpha=0.01)
LOADING, TRAINING, STOPPED, FAILED = "loading data", "training", "stopped", "failed"
_REFRESH_S = 0.5


class _Stopped(Exception):
    """The training was told to stop."""


@dataclass(frozen=True)
class _StoppableSplit(Split):
    """A split that ends its training within a tile, some milliseconds, when it is told to stop."""

    stop: threading.Event = field(default_factory=threading.Event)

    def batches(self, *arguments: Any) -> Any:
        for batch in super().batches(*arguments):
            if self.stop.is_set():
                raise _Stopped
            yield batch


@dataclass
class Attempt:
    """One training by hand, as it goes on; `status` ends as completed, diverged, stopped or failed."""

    number: int
    architecture: Architecture
    hyperparameters: Hyperparameters
    seed: int
    settings: ExploreSettings
    status: str = LOADING
    message: str = ""  # why it failed
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch, as train_population tells them
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def running(self) -> bool:
        return self.status in (LOADING, TRAINING)

    def best(self) -> dict[str, float]:
        """The epoch of lowest validation loss so far; empty before the first check."""
        checks = [row for row in list(self.history) if np.isfinite(row.get("val_loss", np.nan))]
        return min(checks, key=lambda row: row["val_loss"], default={})


class Explorer:
    """The attempts of a session. One trains at a time, in a thread; nothing is written to disk.

    Test data is not read: with each look at it, trying by hand would tune on it.
    """

    def __init__(self, settings: ExploreSettings, base: Path = ROOT):
        self.settings, self.base = settings, base
        self.attempts: list[Attempt] = []
        self._datasets: dict[str, Dataset] = {}
        self._thread = threading.Thread()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(
        self,
        architecture: tuple[int, ...] = (128, 64),
        hyperparameters: Mapping[str, float] | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> Attempt:
        """Train in the background; `changes` are of hyperparameters or of the notebook's parameters, by name.

        Raises SettingsError for a value that isn't allowed, or while another attempt trains.
        """
        if self.running:
            raise SettingsError(f"attempt {self.attempts[-1].number} is still training: stop it, or wait for it")
        values = FIRST.model_dump() | dict(hyperparameters or {})
        values |= {name: changes.pop(name) for name in HYPERPARAMETERS if name in changes}
        attempt = Attempt(
            len(self.attempts) + 1,
            parse(ArchitectureChoice, {"list": [architecture]}, "architecture").architectures[0],
            parse(Hyperparameters, values, "hyperparameters"),
            seed,
            parse(ExploreSettings, self.settings.model_dump() | changes, "this attempt"),
        )
        self.attempts.append(attempt)
        self._thread = threading.Thread(target=self._train, args=(attempt,), daemon=True)
        self._thread.start()
        return attempt

    def _train(self, attempt: Attempt) -> None:
        try:
            attempt.status = self._train_to_the_end(attempt)
        except _Stopped:
            attempt.status = STOPPED
        except Exception as error:  # the thread's end is the only place that can tell of it
            attempt.status = FAILED
            attempt.message = str(error) if isinstance(error, MlpError) else f"{type(error).__name__}: {error}"
        attempt.seconds = time.monotonic() - attempt.started

    def _train_to_the_end(self, attempt: Attempt) -> str:
        settings = attempt.settings
        device = resolve_device(settings.device)
        if settings.dataset not in self._datasets:
            self._datasets[settings.dataset] = load_dataset(settings, device, self.base)
        dataset = self._datasets[settings.dataset]
        attempt.status, attempt.started = TRAINING, time.monotonic()

        def watch(rows: pd.DataFrame) -> None:
            attempt.history.append(rows.iloc[0].to_dict())
            attempt.seconds = time.monotonic() - attempt.started

        trained = train_population(
            _StoppableSplit(**vars(dataset.train), stop=attempt.stop),
            dataset.validation,
            attempt.architecture,
            [attempt.hyperparameters],
            [attempt.seed],
            settings,
            device,
            watch=watch,
        )
        return trained.status[0]

    def stop(self) -> None:
        """Tell the attempt that trains to stop; its curve so far stays."""
        if self.running:
            self.attempts[-1].stop.set()

    def wait(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Wait for the attempt that trains, calling `on_change` now and then; an interrupt stops the attempt."""
        try:
            while self.running:
                on_change()
                self._thread.join(_REFRESH_S)
        except KeyboardInterrupt:
            self.stop()
            self._thread.join()
            raise
        finally:
            on_change()

    def train(self, architecture: tuple[int, ...] = (128, 64), **changes: Any) -> None:
        """Train as `start` does, to the end, and show the curves as they grow."""
        attempt = self.start(tuple(architecture), **changes)
        handle = display(self._picture(), display_id=True)
        self.wait(lambda: handle.update(self._picture()))
        if attempt.status == FAILED:
            raise MlpError(attempt.message)

    def _picture(self) -> Any:
        return picture(self.figure(), f"Loss by epoch. {self.say()}")

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
            for row in list(attempt.history)
        ]
        curves = pd.DataFrame(rows, columns=columns, dtype=float).astype({"attempt": int})
        other = read_table(stored.metrics) if stored else None
        return curve_figures.attempt_curves(curves, other, str(stored or ""))


def start(namespace: Mapping[str, Any]) -> Explorer:
    """The session of 00_explore; `namespace` is the notebook's globals(). SettingsError for a wrong parameter."""
    return Explorer(read_parameters(ExploreSettings, namespace, "notebook explore"))
