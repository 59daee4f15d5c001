"""One phase at work on a run directory: its settings and files, and the context that decides its results."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mlp_lib.artifacts import RunFiles, read_table, read_yaml, write_yaml
from mlp_lib.runtime import resolve_device
from mlp_lib.settings import Architecture, Hyperparameters, StudySettings, TrainingSettings
from mlp_lib.workers import Result, Unit, split_into_units, train_units

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
            "device": resolve_device(settings.device).type,
            "torch": str(torch.__version__),
        }

    def split(
        self, architecture: Architecture, hyperparameters: list[Hyperparameters], seeds: list[int], labels: list[int]
    ) -> list[Unit]:
        """The members as units; populations that memory once had to cut stay cut, so that a run repeats."""
        fitting = self._population_sizes().get(architecture.name)
        return split_into_units(architecture, hyperparameters, seeds, labels, self.inputs, self.settings, fitting)

    def _population_sizes(self) -> dict[str, int]:
        return read_yaml(self.files.population_sizes) if self.files.population_sizes.exists() else {}

    def train(self, units: list[Unit], what: str, keep_weights: bool = False) -> Iterable[tuple[Unit, Result]]:
        """Each unit with its result; what memory was found to hold of an architecture's members is recorded."""
        for unit, result in train_units(
            units, self.settings, self.base, self.digest, what, self.files.work, keep_weights
        ):
            if result.fitting and resolve_device(self.settings.device).type == "cuda":
                sizes = self._population_sizes() | {unit.architecture.name: result.fitting}
                write_yaml(self.files.population_sizes, sizes)
            yield unit, result


def extended(path: Path, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The table on disk with more rows, in the order of the key; rows it had are replaced."""
    if path.exists():
        rows = pd.concat([read_table(path), rows])
    return rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
