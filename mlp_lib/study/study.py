"""One phase at work on a run directory: its settings and files, and the context that decides its results."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

from mlp_lib.core.data import Dataset, load_dataset
from mlp_lib.core.machine import describe_machine, resolve_device
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings
from mlp_lib.run.files import RunFiles, read_table, read_yaml, write_yaml
from mlp_lib.run.parameters import StudySettings
from mlp_lib.workers import cluster
from mlp_lib.workers.processes import count_workers, train_units
from mlp_lib.workers.units import Job, Result, Unit, split_into_units

RESULT = ("status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class Study:
    """One phase at work on a run directory."""

    settings: StudySettings
    files: RunFiles
    architectures: tuple[Architecture, ...]
    inputs: int
    digest: str
    base: Path  # what relative paths in the settings start from

    @property
    def device(self) -> str:
        """cpu or cuda."""
        return find_device(self.settings)

    @property
    def workers(self) -> int:
        """How many units are trained at a time."""
        if self.settings.scheduler:
            return _cluster().count_workers(self.settings)
        return count_workers(self.settings)

    def context(self) -> dict[str, Any]:
        """Everything besides architecture, hyperparameters and run seed that decides a result."""
        settings = self.settings
        # standard is not said, as in the runs of before there was another
        unsaid = ("parametrization", "base_width") if settings.parametrization == "standard" else ()
        return {
            "training": {name: getattr(settings, name) for name in TrainingSettings.model_fields if name not in unsaid},
            "data": {
                **{name: getattr(settings, name) for name in ("dataset", "validation_size", "split_seed")},
                "digest": self.digest,
            },
            "device": self.device,
            "torch": str(torch.__version__),
        }

    def split(
        self, architecture: Architecture, hyperparameters: list[Hyperparameters], seeds: list[int], labels: list[int]
    ) -> list[Unit]:
        """The members as units; populations that memory once had to cut stay cut, so that a run repeats."""
        fitting, workers = self._population_sizes().get(architecture.name), self.workers
        if self.device == "cuda":  # whole populations feed it best: the workers share out the architectures
            workers = math.ceil(workers / len(self.architectures))
        return split_into_units(
            architecture, hyperparameters, seeds, labels, self.inputs, self.device, workers, fitting
        )

    def _population_sizes(self) -> dict[str, int]:
        return read_yaml(self.files.population_sizes) if self.files.population_sizes.exists() else {}

    def train(
        self, units: list[Unit], what: str, keep_weights: bool = False, to_be_continued: bool = False
    ) -> Iterable[tuple[Unit, Result]]:
        """Each unit with its result; what memory was found to hold of an architecture's members is recorded."""
        train = _cluster().train_units if self.settings.scheduler else train_units
        settings = self.settings.model_copy(update={"device": self.device})
        job = Job(settings, self.base, self.digest, what, self.files.work, keep_weights, to_be_continued)
        for unit, result in train(units, job):
            if result.fitting and self.device == "cuda":
                sizes = self._population_sizes() | {unit.architecture.name: result.fitting}
                write_yaml(self.files.population_sizes, sizes)
            yield unit, result


def find_device(settings: StudySettings) -> str:
    """What trains, cpu or cuda, here or on the cluster; SettingsError or ClusterError for what there isn't."""
    if settings.scheduler:
        return _cluster().find_device(settings)
    return resolve_device(settings.device).type


def find_machine(settings: StudySettings) -> str:
    """What trains, by name and number of cores; on a cluster the machine that gives the work out."""
    return describe_machine(resolve_device("cpu" if settings.scheduler else settings.device))


def load_here(settings: StudySettings, base: Path) -> Dataset:
    """The data set on the device that trains; for a study on a cluster, in this machine's memory, to look at."""
    if settings.scheduler:
        return load_dataset(settings.model_copy(update={"preload": "cpu"}), torch.device("cpu"), base)
    return load_dataset(settings, resolve_device(settings.device), base)


def _cluster() -> ModuleType:
    """The module of the cluster, which needs an extra; SettingsError where that is not installed."""

    return cluster


def extended(path: Path, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The table on disk with more rows, in the order of the key; rows it had are replaced."""
    if path.exists():
        rows = pd.concat([read_table(path), rows])
    return rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
