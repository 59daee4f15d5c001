"""What decides the result of a training, said once: who reuses, refuses or compares trainings asks these values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from mlp_lib.core.values import (
    DATASETS,
    Architecture,
    DataSettings,
    Hyperparameters,
    Seed,
    TrainingSettings,
    Width,
    _Frozen,
)

Key = tuple  # architecture, trial (-1 where a training is none), seed and the hyperparameters
MACHINE = ("device", "torch")  # decide no more than rounding, and nothing where devices may be mixed


@dataclass(frozen=True)
class Wanted:
    """A training that a phase wants; a trial of the search is one of its own, whatever its hyperparameters."""

    architecture: Architecture
    hyperparameters: Hyperparameters
    seed: int
    trial: int | None = None

    @property
    def key(self) -> Key:
        """What equal trainings of a run have in common."""
        trial = -1 if self.trial is None else self.trial
        return (self.architecture.name, trial, self.seed, *self.vector)

    @property
    def vector(self) -> tuple[float, ...]:
        """The values of HYPERPARAMETERS."""
        return tuple(value for _, value in self.hyperparameters)


class Data(_Frozen):
    """Which data, and how it is split; the digest is of the data before the split, empty where it isn't known."""

    model_config = ConfigDict(extra="ignore")

    dataset: str
    validation_size: int | None
    split_seed: int
    digest: str = ""

    @property
    def split(self) -> tuple[str, int, int]:
        """What is trained on: data set, images of validation as a number, split seed."""
        return self.dataset, self.validation_size or DATASETS[self.dataset].images // 6, self.split_seed


class Conditions(_Frozen):
    """What decides the results of all trainings of a phase: settings, data, device, torch.

    device: cpu or cuda; or cpu, bfloat16, where that is what it multiplies.
    """

    training: TrainingSettings
    data: Data
    device: str
    torch: str

    @classmethod
    def of(cls, settings: Any, digest: str, device: str, torch: str) -> "Conditions":
        """Of the settings of a phase that trains."""
        data = Data(**DataSettings.of(settings).model_dump(), digest=digest)
        return cls(training=TrainingSettings.of(settings), data=data, device=device, torch=torch)

    def describe(self) -> dict[str, Any]:
        """As config.yaml says it. Standard parametrization goes without saying: it has no base width."""
        values = self.model_dump(mode="json")
        if self.training.parametrization == "standard":
            del values["training"]["parametrization"], values["training"]["base_width"]
        return values

    def identity(self, *without: str) -> str:
        """A digest of all that decides the result, but for what is named: of the machine or of the training."""
        values = {name: value for name, value in self.describe().items() if name not in without}
        values["training"] = {name: value for name, value in values["training"].items() if name not in without}
        values["data"] = (*self.data.split, self.data.digest)
        values["torch"] = values.get("torch", "").split("+")[0]  # not the build
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Recipe(Conditions):
    """All that decides one training."""

    architecture: tuple[Width, ...]
    hyperparameters: Hyperparameters
    seed: Seed

    @classmethod
    def under(cls, conditions: Conditions, one: Wanted) -> "Recipe":
        """Of a training under the conditions of its phase."""
        own = {"architecture": one.architecture.widths, "hyperparameters": one.hyperparameters, "seed": one.seed}
        return cls(**own, **dict(conditions))

    def describe(self) -> dict[str, Any]:
        """As config.yaml says it."""
        values = super().describe()
        return {name: values.pop(name) for name in ("architecture", "hyperparameters", "seed")} | values


class Recorded(Recipe):
    """A config.yaml: all that decides a training, and its result."""

    model_config = ConfigDict(extra="ignore")

    result: Mapping[str, Any]

    def is_of(self, recipe: Recipe, mixed: bool = False) -> bool:
        """Whether the result is that of the recipe; `mixed`: on whatever device, by whatever torch."""
        without = MACHINE if mixed else ()
        return self.identity("result", *without) == recipe.identity(*without)
