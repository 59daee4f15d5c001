"""What workers are given and what they give back: units of trainings, and the job that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlp_lib.core.errors import TrainingError
from mlp_lib.core.kernels import rounds_factors
from mlp_lib.core.values import Architecture
from mlp_lib.run.files import WorkFiles
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Conditions, Recipe, Wanted


@dataclass(frozen=True)
class Unit:
    """Trainings of one architecture that one worker does in one go, as a population."""

    members: Sequence[Wanted]

    @property
    def architecture(self) -> Architecture:
        return self.members[0].architecture

    @property
    def seeds(self) -> list[int]:
        return [one.seed for one in self.members]

    @property
    def trials(self) -> list[int | None]:
        return [one.trial for one in self.members]


@dataclass(frozen=True)
class Job:
    """What the units of a phase have in common: how and on what data they are trained, and what is kept of them."""

    settings: StudySettings  # whose device is cpu or cuda
    digest: str  # of the data
    what: str  # the phase, for the progress
    work: WorkFiles
    keep_weights: bool = False
    keep_images: bool = False  # the loss of each test image
    to_be_continued: bool = False  # later, with more epochs

    @property
    def conditions(self) -> Conditions:
        """What decides the results of its units."""
        device = name_arithmetic(self.settings, self.settings.device)
        return Conditions.of(self.settings, self.digest, device, str(torch.__version__))


def name_arithmetic(settings: StudySettings, device: str) -> str:
    """A device (cpu, cuda) as it decides results: with bfloat16, if factors of products are rounded to that."""
    return f"{device}, bfloat16" if rounds_factors(settings, device) else device


class MemoryShortage(TrainingError):
    """There is no memory even for a single training, at least not beside what else is at work."""


@dataclass(frozen=True)
class Result:
    """What a unit came to, in plain columns, which another version of pandas can read.

    rows: a value a member; history: a value a member and epoch (see Trained); weights: [P, out, in + 1] a layer and
    image_losses: float32 [P, test images], if asked for; fitting: how many members memory held together, if not all of
    them; unfused: why the worker's kernels could not be compiled, if so.
    """

    rows: Mapping[str, Sequence]
    history: Mapping[str, np.ndarray]
    weights: list[np.ndarray] | None
    image_losses: np.ndarray | None = None
    fitting: int | None = None
    unfused: frozenset[str] = frozenset()


Parts = list[tuple[Unit, Result]]  # of a unit: what was trained together, each part with its result


def state_paths(unit: Unit, job: Job) -> list[Path]:
    """Where the state of each training is kept, by all that decides how it goes on; not how long.

    Equal trials are trained by two workers at once: each has a place of its own.
    """
    conditions = job.conditions
    recipes = [Recipe.under(conditions, one) for one in unit.members]
    places = zip(recipes, unit.trials, strict=True)
    return [job.work.state(f"{recipe.identity('max_epochs')[:32]}_{trial}") for recipe, trial in places]
