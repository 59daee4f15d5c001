"""The search's best trials trained again with fresh run seeds, before the winner is named."""

import pandas as pd

from mlp_lib.artifacts import ArchitectureFiles, read_table, write_table
from mlp_lib.runtime import Stream, sequence
from mlp_lib.settings import HYPERPARAMETERS, Architecture, Hyperparameters, SearchSettings
from mlp_lib.study import Study, extended
from mlp_lib.train import COMPLETED
from mlp_lib.units import Unit

_SEEDS = 3  # fresh run seeds a candidate
_METRICS = ["epoch", "train_loss", "val_loss", "val_accuracy"]
_COLUMNS = ["trial", "seed", "status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy"]


def fresh_seeds(search_seed: int) -> list[int]:
    """Run seeds that no one gave: 32-bit words of the search seed's own stream."""
    return [int(word) for word in sequence(search_seed, Stream.REEVALUATION).generate_state(_SEEDS)]


def best_trials(results: pd.DataFrame, number: int) -> list[int]:
    """The completed trials of lowest validation loss, the best first (ties: the lowest number)."""
    finite = results[results["status"] == COMPLETED].sort_values(["val_loss", "trial"])
    return [int(trial) for trial in finite["trial"].head(number)]


def keep_candidates(files: ArchitectureFiles, results: pd.DataFrame, curves: pd.DataFrame, number: int) -> None:
    """Write the metrics of each epoch for the candidates among `curves` (trial and the columns of metrics.csv)."""
    candidates = best_trials(results, number)
    for trial in set(candidates) & set(curves["trial"]):
        write_table(files.candidate(trial), curves.loc[curves["trial"] == trial, _METRICS])
    for path in files.candidates():
        if path not in [files.candidate(trial) for trial in candidates]:
            path.unlink()


def reevaluate(study: Study, number: int) -> dict[Architecture, int]:
    """The winner of each architecture: of its `number` best trials the one of lowest mean validation loss over fresh
    run seeds (ties: the lowest number). An architecture whose candidates all diverge in some seed has none.
    """
    settings: SearchSettings = study.settings
    seeds = fresh_seeds(settings.search_seed)
    units = [unit for architecture in study.architectures for unit in _missing(study, architecture, number, seeds)]
    for unit, result in study.train(units, "reevaluation"):
        rows = result.rows.assign(trial=unit.labels, seed=unit.seeds)[_COLUMNS]
        path = study.files.architecture(unit.architecture).reevaluation
        write_table(path, extended(path, rows, ["trial", "seed"]))
    winners = {}
    for architecture in study.architectures:
        files = study.files.architecture(architecture)
        table = read_table(files.reevaluation)
        table = table[table["trial"].isin(best_trials(read_table(files.results), number))]
        means = table.groupby("trial")["val_loss"].agg(["mean", "count"]).query(f"count == {_SEEDS}")["mean"]
        if len(means):
            winners[architecture] = int(means.idxmin())
    return winners


def _missing(study: Study, architecture: Architecture, number: int, seeds: list[int]) -> list[Unit]:
    files = study.files.architecture(architecture)
    results = read_table(files.results).set_index("trial")
    done = set()
    if files.reevaluation.exists():
        done = set(read_table(files.reevaluation)[["trial", "seed"]].itertuples(index=False, name=None))
    units = []
    for seed in seeds:
        trials = [t for t in best_trials(results.reset_index(), number) if (t, seed) not in done]
        vectors = [Hyperparameters(**{h: float(results.loc[t, h]) for h in HYPERPARAMETERS}) for t in trials]
        units += study.split(architecture, vectors, [seed] * len(trials), trials)
    return units
