"""Whose hyperparameters each target of the transfer is trained with."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from mlp_lib.core.values import HYPERPARAMETERS, LOG_HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.evidence import summaries
from mlp_lib.run.files import ArchitectureFiles, RunDirectoryError, RunFiles, read_of_all, read_yaml

Sources = dict[str, dict[str, Hyperparameters]]  # by target, then by source
Chosen = Mapping[Architecture, Hyperparameters]


def read_best(files: ArchitectureFiles) -> Hyperparameters:
    """The hyperparameters that the search chose; RunDirectoryError if it hasn't finished."""
    if not files.best.exists():
        raise RunDirectoryError(f"{files.best} is missing: run the search (01_search) on this directory first")
    return Hyperparameters(**read_yaml(files.best)["hyperparameters"])


def make_sources(chosen: Chosen, names: Sequence[str], inputs: int, trials: pd.DataFrame | None = None) -> Sources:
    """The sources of each target from every architecture's choice; trials: see `consensus`, which alone needs them."""
    common = {architecture.name: hyperparameters for architecture, hyperparameters in chosen.items()}
    sources = {}
    for target in common:
        others = {a: h for a, h in chosen.items() if a.name != target} or chosen
        sources[target] = common | {name: EXTRA[name](others, inputs, trials, target) for name in names}
    return sources


def pool_vectors(pool: pd.DataFrame) -> dict[str, Hyperparameters]:
    """The contenders' hyperparameters, each as a source named trial_ and its number."""
    if pool.empty:
        return {}
    vectors = pool[list(HYPERPARAMETERS)].to_dict("records")
    return {f"trial_{trial}": Hyperparameters(**h) for trial, h in zip(pool["trial"], vectors, strict=True)}


def median(vectors: list[Hyperparameters]) -> Hyperparameters:
    """Each hyperparameter's median; between two values the middle on the scale that it is searched on."""
    middle = {}
    for name in HYPERPARAMETERS:
        values = [getattr(vector, name) for vector in vectors]
        low, high = statistics.median_low(values), statistics.median_high(values)
        if low == high:  # exactly that value, which a mean of logarithms would not be
            middle[name] = low
        else:
            logs = name in LOG_HYPERPARAMETERS and min(values) > 0
            middle[name] = math.sqrt(low * high) if logs else (low + high) / 2
    return Hyperparameters(**middle)


def consensus(trials: pd.DataFrame, target: str) -> Hyperparameters:
    """The hyperparameters of the trial with the best mean rank over the architectures other than the target.

    trials: architecture, and the columns of search_results.csv. RunDirectoryError if trials are not the same on all.
    """
    ranks = summaries.trial_ranks(trials[trials["architecture"] != target])
    if ranks.empty:
        raise RunDirectoryError(
            "transfer_extra_sources: consensus needs a search with same_trials_for_all_architectures = true "
            "on at least two architectures"
        )
    row = trials[trials["trial"] == ranks.mean(axis=1).idxmin()].iloc[0]
    return Hyperparameters(**{name: float(row[name]) for name in HYPERPARAMETERS})


# of (the other architectures' choices, inputs, all trials, target): what is one vector more for each target
EXTRA: dict[str, Callable[..., Hyperparameters]] = {
    "cheapest": lambda chosen, inputs, *_: chosen[min(chosen, key=lambda one: one.count_parameters(inputs))],
    "median": lambda chosen, *_: median(list(chosen.values())),
    "consensus": lambda chosen, inputs, trials, target: consensus(trials, target),
    "default": lambda *_: Hyperparameters(),
}


def read_trials(files: RunFiles, architectures: Sequence[Architecture]) -> pd.DataFrame:
    """The trials that there are (see by_trial) with `architecture`, and `chosen`: whether the search chose it."""
    trials = summaries.by_trial(read_of_all(files, architectures, "results"))
    best = {architecture.name: files.architecture(architecture).best for architecture in architectures}
    chosen = {name: read_yaml(path)["trial"] for name, path in best.items() if path.exists()}
    if len(trials):
        trials["chosen"] = trials["trial"] == trials["architecture"].map(chosen)
    return trials
