"""How many trainings a command would do, and how long they might take if an epoch takes what it is told."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from mlp_lib.core.values import HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.evidence import count_best, find_budget
from mlp_lib.run.ledger import missing
from mlp_lib.run.parameters import RetrainSettings, SearchSettings, StudySettings, TransferSettings
from mlp_lib.run.parsing import no_pool, parse_own
from mlp_lib.run.recipe import Wanted
from mlp_lib.study.draws import rung_epochs
from mlp_lib.study.phases import (
    left_trials,
    read_contenders,
    read_sources,
    retrainings,
    reusable,
    wanted_retrainings,
    wanted_transfers,
    wanted_trials,
)
from mlp_lib.study.sources import Sources, make_sources, pool_vectors, read_best
from mlp_lib.study.study import Study
from mlp_lib.workers.jobs import Unit
from mlp_lib.workers.progress import seconds_text

_TYPICAL = Hyperparameters(
    lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-4, dropout=0.25, leaky_relu_alpha=0.05
)  # what a search tends to choose
_STEPS, _STEPS_POWER = 900, 0.75  # optimizer steps to the best check at lr 1e-3, and how they fall with it
_SECONDS_A_PHASE = 12.0  # kernel, imports, data, figures, page
Plans = dict[str, tuple[int, list[Wanted]]]  # by phase its trainings: how many in all, and those that are not on disk


def describe(phases: tuple[str, ...], parsed: dict[str, Any], study: Study, images: int, seconds: Callable) -> str:
    """The plan as text.

    parsed: the parameters of all phases; study: of the search; images: of training; seconds: of an epoch of one member
    of a unit, of which one an architecture is tried.
    """
    plans = plan(phases, parsed, study)
    unsure = {"transfer": "at most "} if "search" in phases and find_undecided(study) else {}
    lines = [
        f"{phase}: {unsure.get(phase, '')}{total} trainings, {len(left)} new" for phase, (total, left) in plans.items()
    ]
    if not any(left for _, left in plans.values()):
        return "\n".join([*lines, "nothing to train"])
    settings: SearchSettings = study.settings
    tried = [replace(one, hyperparameters=_TYPICAL) for one in wanted_trials(study)]
    units: dict[Any, Unit] = {unit.architecture: unit for unit in reversed(study.workers.cut(tried, study.inputs))}
    new = {one.architecture for _, left in plans.values() for one in left}
    each = {architecture: seconds(units[architecture]) / study.workers.shares for architecture in new}
    steps = math.ceil(images / settings.batch_size)
    pace, expected, most = find_pace(study, steps), 0.0, 0.0
    for phase, (_, left) in plans.items():
        for training in left:
            epochs = expected_epochs(training.hyperparameters, settings, steps)
            epochs = _with_rungs(epochs, settings) if phase == "search" else epochs
            expected += pace * epochs * each[training.architecture]
            most += settings.max_epochs * each[training.architecture]
    rest = _SECONDS_A_PHASE * len(phases)
    return "\n".join(
        [
            *lines,
            f"time: about {seconds_text(expected + rest)} with {study.workers.number} workers",
            f"at most {seconds_text(most + rest)}, if all go on for {settings.max_epochs} epochs",
        ]
    )


def plan(phases: tuple[str, ...], parsed: dict[str, Any], study: Study) -> Plans:
    """What each phase would train. Choices that aren't made yet are taken as all different."""
    plans: Plans = {phase: (0, []) for phase in phases}
    undecided, planned = find_undecided(study), set()
    if "search" in phases:
        plans["search"] = len(wanted_trials(study)), left_trials(study)
    if "retrain" in phases:
        own = replace(study, settings=parse_own(RetrainSettings, parsed, "the parameters"))
        wanted = wanted_retrainings(own, _choices(study, undecided))
        plans["retrain"] = len(wanted), missing(wanted, retrainings(own))
        planned = {one.key for one in wanted}
    if "transfer" in phases:
        own = replace(study, settings=parse_own(TransferSettings, parsed, "the parameters"))
        wanted = [one for _, one in wanted_transfers(own, _sources(own, study.settings, undecided))]
        left = missing(missing(wanted, reusable(own)), own.trainings("transfer"))
        plans["transfer"] = len({one.key for one in wanted}), [one for one in left if one.key not in planned]
    return plans


def find_undecided(study: Study) -> set[Architecture]:
    """The architectures whose choice isn't made yet, or may become another."""
    there = {a for a in study.architectures if study.files.architecture(a).best.exists()}
    return {*study.architectures} - there | {one.architecture for one in left_trials(study)}


def _choices(study: Study, undecided: set[Architecture]) -> dict[Architecture, Hyperparameters]:
    """What is chosen for each architecture; in place of what is yet to be found a typical vector of its own."""
    return {
        a: _stand_in(place) if a in undecided else read_best(study.files.architecture(a))
        for place, a in enumerate(study.architectures)
    }


def _stand_in(place: int) -> Hyperparameters:
    return _TYPICAL.model_copy(update={"eps": _TYPICAL.eps * (1 + (place + 1) / 10**6)})


def _sources(study: Study, search: SearchSettings, undecided: set[Architecture]) -> Sources:
    """The sources of each target and the contenders; in place of those that are yet to be found as many as can be."""
    settings, number = study.settings, len(study.architectures)
    if settings.search_dir or not undecided:
        pool = pool_vectors(read_contenders(study))
        return {target: row | pool for target, row in read_sources(study).items()}
    names, trials = settings.transfer_extra_sources, search.num_trials
    later = {name: _stand_in(-2) for name in names if name == "consensus"}  # all trials decide it
    if settings.contenders == "auto" and not no_pool(search.model_dump()):
        best = count_best(find_budget(settings.search_budget, trials), trials)
        more = range(number, min(trials, best * number))  # the choices are among them
        later |= {f"trial_{place}": _stand_in(place) for place in more}
    known = make_sources(_choices(study, undecided), [n for n in names if n not in later], study.inputs)
    return {target: row | later for target, row in known.items()}


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


def find_pace(study: Study, steps: int) -> float:
    """Epochs that this run's trials took, over those expected; 1 as long as it has none."""
    trials = study.trainings("search")
    if trials.empty:
        return 1.0
    vectors = [Hyperparameters(**row) for row in trials[list(HYPERPARAMETERS)].to_dict("records")]
    expected = (expected_epochs(h, study.settings, steps) for h in vectors)
    return trials["epochs_trained"].sum() / sum(_with_rungs(epochs, study.settings) for epochs in expected)
