"""How many trainings a command would do, and how long they might take, from a few timed steps."""

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from mlp_lib.core.data import Dataset
from mlp_lib.core.training import Training
from mlp_lib.core.values import CLASSES, HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.run.files import RunFiles, read_table
from mlp_lib.run.parameters import PHASES, SearchSettings, StudySettings
from mlp_lib.run.parsing import parse
from mlp_lib.study.draws import rung_epochs
from mlp_lib.study.phases import missing_seeds, missing_trials
from mlp_lib.study.sources import read_best, select_pairs
from mlp_lib.study.study import Study, load_here
from mlp_lib.workers.progress import seconds_text

_TIMED_WORK = 3e9  # images x parameters: a second or so on one core
_TYPICAL = Hyperparameters(
    lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-4, dropout=0.25, leaky_relu_alpha=0.05
)  # what a search tends to choose
_STEPS, _STEPS_POWER = 900, 0.75  # optimizer steps to the best check at lr 1e-3, and how they fall with it
_SECONDS_A_PHASE = 12.0  # kernel, imports, data, figures, page


@dataclass(frozen=True)
class Plan:
    """Trainings of one phase and architecture: in all, those not on disk, and the epochs that these may take."""

    phase: str
    architecture: Architecture
    total: int
    new: int
    epochs: float = 0.0


def describe(phases: tuple[str, ...], parsed: dict[str, dict[str, Any]], run_dir: Path | None, base: Path) -> str:
    """The plan as text."""
    settings = parse(PHASES["search"], parsed["search"], "the parameters")
    files = RunFiles(run_dir or Path("does-not-exist"))
    dataset = load_here(settings, base)
    study = Study(settings, files, settings.architectures.architectures, dataset.train.images.shape[1], "", base)
    plans = plan(phases, parsed, study, len(dataset.train.labels))
    lines = [f"{phase}: {_sum(plans, phase, 'total')} trainings, {_sum(plans, phase, 'new')} new" for phase in phases]
    if not any(plan.new for plan in plans):
        return "\n".join([*lines, "nothing to train"])
    seconds = {a: _seconds_an_epoch(study, a, dataset) for a in {p.architecture for p in plans if p.new}}
    workers = study.workers
    # a population timed alone keeps a CUDA device busy, whichever of this machine's workers trains it
    shares = 1 if study.device == "cuda" and not settings.scheduler else workers
    expected = sum(p.epochs * seconds[p.architecture] for p in plans if p.new) / shares
    most = sum(p.new * settings.max_epochs * seconds[p.architecture] for p in plans if p.new) / shares
    rest = _SECONDS_A_PHASE * len(phases)
    return "\n".join(
        [
            *lines,
            f"time: about {seconds_text(expected + rest)} with {workers} workers",
            f"at most {seconds_text(most + rest)}, if all go on for {settings.max_epochs} epochs",
        ]
    )


def _sum(plans: list[Plan], phase: str, what: str) -> int:
    return sum(getattr(plan, what) for plan in plans if plan.phase == phase)


def plan(phases: tuple[str, ...], parsed: dict[str, dict[str, Any]], study: Study, images: int) -> list[Plan]:
    """What each phase would train on that many images.

    Sources whose hyperparameters aren't known yet are taken as all different.
    """
    seeds, transfer_seeds = parsed["retrain"]["retrain_seeds"], parsed["transfer"]["transfer_seeds"]
    missing = missing_trials(study)
    steps = math.ceil(images / study.settings.batch_size)
    pace = _pace(study, steps)
    plans = []
    for architecture in study.architectures:
        trials = [h for unit in missing if unit.architecture == architecture for h in unit.hyperparameters]
        best_known = study.files.architecture(architecture).best.exists() and not trials
        if "search" in phases:
            epochs = pace * sum(_with_rungs(expected_epochs(h, study.settings, steps), study.settings) for h in trials)
            plans.append(Plan("search", architecture, study.settings.num_trials, len(trials), epochs))
        chosen = read_best(study.files.architecture(architecture)) if best_known else _TYPICAL
        each = pace * expected_epochs(chosen, study.settings, steps)
        if "retrain" in phases:
            new = len(seeds)
            if best_known:
                settings = parse(PHASES["retrain"], parsed["retrain"], "the parameters")
                alone = replace(study, settings=settings, architectures=(architecture,))
                new = sum(len(unit.labels) for unit in missing_seeds(alone))
            plans.append(Plan("retrain", architecture, len(seeds), new, new * each))
        if "transfer" in phases:
            extra = set(parsed["transfer"]["transfer_extra_sources"]) - {"cheapest"}  # an architecture's own choice
            pairs = select_pairs("all", study.architectures)
            sources = len(extra) + sum(target == architecture.name for target, _ in pairs)
            total = sources * len(transfer_seeds)
            reused = len(set(seeds) & set(transfer_seeds))
            new = max(0, total - reused - _transfer_done(study, architecture))
            plans.append(Plan("transfer", architecture, total, new, new * each))
    return plans


def expected_epochs(hyperparameters: Hyperparameters, settings: StudySettings, steps: int) -> float:
    """Epochs of `steps` steps until a training stops, by a rule of thumb from some 150 trainings on MNIST and digits.

    The steps to the best check fall with the learning rate; the patience comes on top.
    """
    best = _STEPS * (hyperparameters.lr / 1e-3) ** -_STEPS_POWER / steps
    return min(settings.max_epochs, best + settings.patience * settings.val_interval)


def _with_rungs(epochs: float, settings: SearchSettings) -> float:
    """What remains of a trial's epochs where half of the trials are dropped at each rung, whichever they are."""
    if settings.search_method != "successive_halving":
        return epochs
    ends = [0, *rung_epochs(settings.num_trials, settings.max_epochs, settings.val_interval)]
    return sum((min(epochs, end) - min(epochs, begin)) / 2**k for k, (begin, end) in enumerate(pairwise(ends)))


def _pace(study: Study, steps: int) -> float:
    """Epochs that this run's trials took, over those expected; 1 as long as it has none."""
    tables = [study.files.architecture(a).results for a in study.architectures]
    trials = pd.concat([read_table(path) for path in tables if path.exists()] or [pd.DataFrame()])
    if trials.empty:
        return 1.0
    vectors = [Hyperparameters(**row) for row in trials[list(HYPERPARAMETERS)].to_dict("records")]
    return trials["epochs_trained"].sum() / sum(expected_epochs(h, study.settings, steps) for h in vectors)


def _transfer_done(study: Study, target: Architecture) -> int:
    path = study.files.trainings
    return int((read_table(path)["target"] == target.name).sum()) if path.exists() else 0


def _seconds_an_epoch(study: Study, architecture: Architecture, dataset: Dataset) -> float:
    """Time of one epoch of one member in a unit as the search makes them, its share of the validation included."""
    settings: SearchSettings = study.settings
    trials = list(range(settings.num_trials))
    hyperparameters = [_TYPICAL] * len(trials)
    unit = study.split(architecture, hyperparameters, trials, trials)[0]
    work = len(dataset.train.labels) * len(unit.labels) * architecture.count_parameters(study.inputs, CLASSES)
    epochs = 1 + max(1, min(20, int(_TIMED_WORK / work)))
    training = Training(
        dataset.train,
        dataset.validation,
        architecture,
        unit.hyperparameters,
        settings=settings.model_copy(update={"max_epochs": epochs, "val_interval": 1, "patience": epochs}),
    )
    ends = [time.perf_counter() for _ in training]
    return (ends[-1] - ends[0]) / (epochs - 1) / len(unit.labels)  # the first epoch warms up
