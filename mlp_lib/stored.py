"""What stored runs chose, as something to compare a training by hand with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlp_lib.artifacts import RunFiles, read_yaml
from mlp_lib.errors import MlpError
from mlp_lib.meta import read_architectures, read_meta
from mlp_lib.settings import TRAINING_DATA_SIZES, Architecture, DataSettings, Hyperparameters, TrainingSettings


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
        if _split_of(parameters) != _split_of(settings.model_dump()):
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


def _split_of(parameters: Mapping[str, Any]) -> tuple:
    dataset = parameters["dataset"]
    return dataset, parameters["split_seed"], parameters["validation_size"] or TRAINING_DATA_SIZES[dataset] // 6
