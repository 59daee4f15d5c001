"""All trainings of a run as one tidy table."""

from typing import Any

import pandas as pd

from mlp_lib.core.values import CLASSES, DATASETS, HYPERPARAMETERS, Architecture
from mlp_lib.run.files import RunFiles, read_table, read_yaml, write_table
from mlp_lib.run.meta import read_architectures, read_meta

_COORDINATES = ["phase", "architecture", "parameters", "source", "trial", "seed"]
_RESULT = ["status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]


def write_trainings(files: RunFiles) -> None:
    """Write trainings.csv at the run's top: a row a training that is on disk.

    Columns: phase (search, reevaluation, retrain, transfer), architecture (the one trained), parameters (their number),
    source (whose hyperparameters they are, of the transfer; several that are equal are separated by spaces), trial,
    seed (the run seed), the seven hyperparameters, and the result. A transfer that reuses a retraining has no row.
    """
    parameters = read_meta(files)["parameters"]
    # a run that transfers another's search has none of its own
    architectures = read_architectures(files) if "architectures" in parameters else ()
    tables = [part for a in architectures for part in _of_architecture(files, a, parameters.get("training_seed"))]
    tables = [table for table in [*tables, *_of_transfer(files)] if len(table)]
    if tables:
        table = pd.concat(tables, ignore_index=True)
        inputs = DATASETS[parameters["dataset"]].inputs
        counts = [Architecture.from_name(name).count_parameters(inputs, CLASSES) for name in table["architecture"]]
        table = table.assign(parameters=counts)
        table = table.reindex(columns=[*_COORDINATES, *HYPERPARAMETERS, *_RESULT])
        write_table(files.all_trainings, table.astype({"trial": "Int64", "seed": "Int64"}))


def _of_architecture(files: RunFiles, architecture: Architecture, training_seed: int | None) -> list[pd.DataFrame]:
    """Its trials, the best ones trained again, and its retrainings, as far as they are there."""
    own = files.architecture(architecture)
    found = []
    if own.results.exists():
        trials = read_table(own.results)
        found.append(trials.assign(phase="search", seed=training_seed))
        if own.reevaluation.exists():
            again = read_table(own.reevaluation).merge(trials[["trial", *HYPERPARAMETERS]], on="trial")
            found.append(again.assign(phase="reevaluation"))
    configs = [read_yaml(path) for path in own.configs()]
    rows: list[dict[str, Any]] = [{"seed": c["seed"], **c["hyperparameters"], **c["result"]} for c in configs]
    found.append(pd.DataFrame(rows).assign(phase="retrain"))
    return [table.assign(architecture=architecture.name) for table in found]


def _of_transfer(files: RunFiles) -> list[pd.DataFrame]:
    if not files.trainings.exists() or not files.sources.exists():
        return []
    key = ["target", *HYPERPARAMETERS]
    names = read_table(files.sources).groupby(key, sort=False)["source"].agg(" ".join).reset_index()
    table = read_table(files.trainings).merge(names, on=key, how="left")
    return [table.rename(columns={"target": "architecture"}).assign(phase="transfer")]
