"""Whose hyperparameters each target of the transfer is trained with."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from mlp_lib.core.errors import RunDirectoryError
from mlp_lib.core.values import CLASSES, HYPERPARAMETERS, LOG_HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.evidence import summaries
from mlp_lib.run.files import ArchitectureFiles, RunFiles, read_table, read_yaml
from mlp_lib.study.study import Study

Sources = dict[str, dict[str, Hyperparameters]]  # by target, then by source
Chosen = Mapping[Architecture, Hyperparameters]


def read_best(files: ArchitectureFiles) -> Hyperparameters:
    """The hyperparameters that the search chose; RunDirectoryError if it hasn't finished."""
    if not files.best.exists():
        raise RunDirectoryError(f"{files.best} is missing: run the search (01_search) on this directory first")
    return Hyperparameters(**read_yaml(files.best)["hyperparameters"])


def read_sources(study: Study, source_files: RunFiles) -> Sources:
    """The chosen hyperparameters of every architecture, and those of `transfer_extra_sources` (see EXTRA)."""
    chosen = {a: read_best(source_files.architecture(a)) for a in study.architectures}
    names = study.settings.transfer_extra_sources
    trials = _read_trials(study, source_files) if "consensus" in names else None
    return make_sources(chosen, names, study.inputs, trials)


def make_sources(chosen: Chosen, names: Sequence[str], inputs: int, trials: pd.DataFrame | None = None) -> Sources:
    """The sources of each target from every architecture's choice; trials: see `consensus`, which alone needs them."""
    common = {architecture.name: hyperparameters for architecture, hyperparameters in chosen.items()}
    return {target: common | {name: EXTRA[name](chosen, inputs, trials, target) for name in names} for target in common}


def cheapest(chosen: Chosen, inputs: int) -> Hyperparameters:
    """Those of the architecture with the fewest parameters (the first of several)."""
    return chosen[min(chosen, key=lambda architecture: architecture.count_parameters(inputs, CLASSES))]


def median(vectors: list[Hyperparameters]) -> Hyperparameters:
    """Each hyperparameter's median; between two values the middle on the scale that it is searched on."""
    middle = {}
    for name in HYPERPARAMETERS:
        values = np.array([getattr(vector, name) for vector in vectors])
        positive = name in LOG_HYPERPARAMETERS and (values > 0).all()
        middle[name] = float(np.exp(np.median(np.log(values))) if positive else np.median(values))
    return Hyperparameters(**middle)


def consensus(trials: pd.DataFrame, target: str) -> Hyperparameters:
    """The hyperparameters of the trial with the best mean rank over the architectures other than the target.

    trials: architecture, and the columns of search_results.csv. RunDirectoryError if trials are not the same on all.
    """
    trial = summaries.consensus_trial(trials[trials["architecture"] != target])
    if trial is None:
        raise RunDirectoryError(
            "transfer_extra_sources: consensus needs a search with same_trials_for_all_architectures = true "
            "on at least two architectures"
        )
    row = trials[trials["trial"] == trial].iloc[0]
    return Hyperparameters(**{name: float(row[name]) for name in HYPERPARAMETERS})


# of (every architecture's choice, inputs, all trials, target): what is one vector more for each target
EXTRA: dict[str, Callable[..., Hyperparameters]] = {
    "cheapest": lambda chosen, inputs, *_: cheapest(chosen, inputs),
    "median": lambda chosen, *_: median(list(chosen.values())),
    "consensus": lambda chosen, inputs, trials, target: consensus(trials, target),
    "default": lambda *_: Hyperparameters(),
}


def _read_trials(study: Study, source_files: RunFiles) -> pd.DataFrame:
    tables = [read_table(source_files.architecture(a).results).assign(architecture=a.name) for a in study.architectures]
    return pd.concat(tables, ignore_index=True)
