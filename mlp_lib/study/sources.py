"""Whose hyperparameters each target of the transfer is trained with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlp_lib.core.errors import RunDirectoryError, SettingsError
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import CLASSES, HYPERPARAMETERS, LOG_HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.evidence import summaries
from mlp_lib.run.files import ArchitectureFiles, RunFiles, read_table, read_yaml
from mlp_lib.run.parameters import TransferSettings
from mlp_lib.study.study import Study

Sources = dict[str, dict[str, Hyperparameters]]  # by target, then by source


def read_best(files: ArchitectureFiles) -> Hyperparameters:
    """The hyperparameters that the search chose; RunDirectoryError if it hasn't finished."""
    if not files.best.exists():
        raise RunDirectoryError(f"{files.best} is missing: run the search (01_search) on this directory first")
    return Hyperparameters(**read_yaml(files.best)["hyperparameters"])


def read_sources(study: Study, source_files: RunFiles) -> Sources:
    """The chosen hyperparameters of every architecture, or of those that `transfer_pairs` asks for, and extra sources.

    `cheapest`: of the architecture with the fewest parameters (the first of several); `median`: of all architectures'
    chosen vectors; `consensus`: the trial that ranks best on the other architectures; `default`: torch's own.
    """
    settings: TransferSettings = study.settings
    pairs = select_pairs("all", study.architectures)
    chosen = {a.name: read_best(source_files.architecture(a)) for a in study.architectures}
    cheapest = min(study.architectures, key=lambda a: a.count_parameters(study.inputs, CLASSES))
    common = {"cheapest": chosen[cheapest.name], "median": median(list(chosen.values())), "default": Hyperparameters()}
    names = settings.transfer_extra_sources
    trials = _read_trials(study, source_files) if "consensus" in names else None
    return {
        target: {name: h for name, h in chosen.items() if (target, name) in pairs}
        | {name: consensus(trials, target) if name == "consensus" else common[name] for name in names}
        for target in chosen
    }


def select_pairs(
    pairs: str | int | Sequence[Sequence[str]], architectures: Sequence[Architecture]
) -> set[tuple[str, str]]:
    """The pairs (target, source) of architectures to train, by `transfer_pairs`; each target's own is among them.

    `all`; so many other sources a target, drawn at random; or those named (SettingsError for one that isn't there),
    where an architecture that is named as no target is none. A draw depends on its pair alone: more sources a target
    are the same ones and others.
    """
    if pairs == "all":
        return {(t.name, s.name) for t in architectures for s in architectures}
    if not isinstance(pairs, int):
        known = [a.name for a in architectures]
        unknown = [name for pair in pairs for name in pair if name not in known]
        if unknown:
            raise SettingsError(f"transfer_pairs: {unknown[0]} is no architecture of the run: {', '.join(known)}")
        return {pair for target, source in pairs for pair in ((target, source), (target, target))}

    def draw(target: Architecture, source: Architecture) -> float:
        return generator(0, Stream.PAIRS, *target.widths, 0, *source.widths).random()  # no width is 0

    drawn = {(a.name, a.name) for a in architectures}
    for target in architectures:
        others = sorted((s for s in architectures if s != target), key=lambda source: draw(target, source))
        drawn |= {(target.name, source.name) for source in others[:pairs]}
    return drawn


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


def _read_trials(study: Study, source_files: RunFiles) -> pd.DataFrame:
    tables = [read_table(source_files.architecture(a).results).assign(architecture=a.name) for a in study.architectures]
    return pd.concat(tables, ignore_index=True)
