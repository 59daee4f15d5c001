"""How many trainings a command would do, and how long they might take, from a few timed steps."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlp_lib.artifacts import RunFiles, read_table
from mlp_lib.data import Dataset, load_dataset
from mlp_lib.experiments import Study, missing_seeds, missing_trials
from mlp_lib.progress import seconds_text
from mlp_lib.runtime import resolve_device
from mlp_lib.settings import CLASSES, PHASES, Architecture, Hyperparameters, SearchSettings, parse
from mlp_lib.train import train_population
from mlp_lib.workers import count_workers, split_into_units

_TIMED_WORK = 3e9  # images x parameters: a second or so on one core
_TYPICAL = Hyperparameters(
    lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-4, dropout=0.25, leaky_relu_alpha=0.05
)


@dataclass(frozen=True)
class Plan:
    """Trainings of one phase and architecture: in all, and those not on disk."""

    phase: str
    architecture: Architecture
    total: int
    new: int


def describe(phases: tuple[str, ...], parsed: dict[str, dict[str, Any]], run_dir: Path | None, base: Path) -> str:
    """The plan as text."""
    settings = parse(PHASES["search"], parsed["search"], "the parameters")
    files = RunFiles(run_dir or Path("does-not-exist"))
    dataset = load_dataset(settings, resolve_device(settings.device), base)
    study = Study(settings, files, settings.architectures.architectures, dataset.train.images.shape[1], "", base)
    plans = plan(phases, parsed, study)
    lines = [f"{phase}: {_sum(plans, phase, 'total')} trainings, {_sum(plans, phase, 'new')} new" for phase in phases]
    new = {a: sum(p.new for p in plans if p.architecture == a) for a in study.architectures}
    if not any(new.values()):
        return "\n".join([*lines, "nothing to train"])
    epochs, source = _expected_epochs(study)
    seconds = {a: _seconds_an_epoch(study, a, dataset) for a, count in new.items() if count}
    workers = count_workers(settings)
    work = sum(new[a] * seconds[a] for a in seconds) / workers
    return "\n".join(
        [
            *lines,
            f"time: about {seconds_text(work * epochs)} with {workers} workers ({source})",
            f"at most {seconds_text(work * settings.max_epochs)}, if all go on for {settings.max_epochs} epochs",
        ]
    )


def _sum(plans: list[Plan], phase: str, what: str) -> int:
    return sum(getattr(plan, what) for plan in plans if plan.phase == phase)


def plan(phases: tuple[str, ...], parsed: dict[str, dict[str, Any]], study: Study) -> list[Plan]:
    """What each phase would train; sources whose hyperparameters aren't known yet are taken as all different."""
    seeds, transfer_seeds = parsed["retrain"]["retrain_seeds"], parsed["transfer"]["transfer_seeds"]
    number = len(study.architectures)
    missing = _count(missing_trials(study))
    plans = []
    for architecture in study.architectures:
        best_known = study.files.architecture(architecture).best.exists() and not missing.get(architecture)
        if "search" in phases:
            plans.append(Plan("search", architecture, study.settings.num_trials, missing.get(architecture, 0)))
        if "retrain" in phases:
            new = len(seeds)
            if best_known:
                alone = replace(
                    study,
                    settings=parse(PHASES["retrain"], parsed["retrain"], "the parameters"),
                    architectures=(architecture,),
                )
                new = _count(missing_seeds(alone)).get(architecture, 0)
            plans.append(Plan("retrain", architecture, len(seeds), new))
        if "transfer" in phases:
            total = number * len(transfer_seeds)
            reused = len(set(seeds) & set(transfer_seeds))
            plans.append(
                Plan("transfer", architecture, total, max(0, total - reused - _transfer_done(study, architecture)))
            )
    return plans


def _count(units: list) -> dict[Architecture, int]:
    counts: dict[Architecture, int] = {}
    for unit in units:
        counts[unit.architecture] = counts.get(unit.architecture, 0) + len(unit.labels)
    return counts


def _transfer_done(study: Study, target: Architecture) -> int:
    path = study.files.trainings
    return int((read_table(path)["target"] == target.name).sum()) if path.exists() else 0


def _expected_epochs(study: Study) -> tuple[float, str]:
    """Epochs of a training: the mean of this run's trials, or a guess from early stopping."""
    tables = [study.files.architecture(a).results for a in study.architectures]
    trained = [read_table(path)["epochs_trained"] for path in tables if path.exists()]
    if trained:
        return float(pd.concat(trained).mean()), "trainings as long as this run's trials"
    settings = study.settings
    guess = min(settings.max_epochs, 10 * settings.patience * settings.val_interval)
    return guess, f"a guess: trainings that stop early after {guess} epochs"


def _seconds_an_epoch(study: Study, architecture: Architecture, dataset: Dataset) -> float:
    """Time of one epoch of one member in a unit as the search makes them, its share of the validation included."""
    settings: SearchSettings = study.settings
    trials = list(range(settings.num_trials))
    hyperparameters = [_TYPICAL] * len(trials)
    unit = split_into_units(architecture, hyperparameters, trials, trials, study.inputs, settings)[0]
    work = len(dataset.train.labels) * len(unit.labels) * architecture.count_parameters(study.inputs, CLASSES)
    epochs = 1 + max(1, min(20, int(_TIMED_WORK / work)))
    ends: list[float] = []
    train_population(
        dataset.train,
        dataset.validation,
        architecture,
        unit.hyperparameters,
        [0] * len(unit.labels),
        settings.model_copy(update={"max_epochs": epochs, "val_interval": 1, "patience": epochs}),
        report=lambda _: ends.append(time.perf_counter()),
    )
    return (ends[-1] - ends[0]) / (epochs - 1) / len(unit.labels)  # the first epoch warms up
