"""One phase at work on a run directory: its settings and files, and the context that decides its results."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mlp_lib.artifacts import RunFiles, read_table
from mlp_lib.runtime import resolve_device
from mlp_lib.settings import Architecture, StudySettings, TrainingSettings
from mlp_lib.workers import Result, Unit, train_units

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

    def train(self, units: list[Unit], what: str, keep_weights: bool = False) -> Iterable[tuple[Unit, Result]]:
        return train_units(units, self.settings, self.base, self.digest, what, keep_weights)


def extended(path: Path, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The table on disk with more rows, in the order of the key; rows it had are replaced."""
    if path.exists():
        rows = pd.concat([read_table(path), rows])
    return rows.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)
