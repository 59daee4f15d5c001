"""The ledger of a run, trainings.csv: a row a training, appended to as they finish."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mlp_lib.core.values import HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.run.files import RunFiles, append_rows, read_table, write_table
from mlp_lib.run.recipe import Key, Wanted

RESULT = ("status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
COLUMNS = ("phase", "architecture", "parameters", "source", "trial", "seed", *HYPERPARAMETERS, *RESULT)
_KEY = ["architecture", "trial", "seed", *HYPERPARAMETERS]
_PHASES = {"search": 0, "retrain": 1, "transfer": 2}


def missing(wanted: Iterable[Wanted], ledger: pd.DataFrame) -> list[Wanted]:
    """Those wanted that are not in the ledger, equal ones once, in their order."""
    done = set(keys(ledger))
    return [one for key, one in {one.key: one for one in wanted}.items() if key not in done]


def keys(ledger: pd.DataFrame) -> list[Key]:
    """The key of each row."""
    trials = ledger["trial"].astype("Int64").fillna(-1).astype("int64")
    return list(ledger.assign(trial=trials)[_KEY].itertuples(index=False, name=None))


def wanted_of(row: Mapping[str, Any]) -> Wanted:
    """The training that a row is of."""
    vector = Hyperparameters(**{name: row[name] for name in HYPERPARAMETERS})
    trial = None if pd.isna(row["trial"]) else int(row["trial"])
    return Wanted(Architecture.from_name(row["architecture"]), vector, row["seed"], trial)


def append_trainings(
    files: RunFiles, phase: str, trainings: Sequence[Wanted], results: Mapping[str, Iterable], parameters: int
) -> None:
    """Record trainings of one architecture, in one write that is on the disk when this returns.

    results: the columns of RESULT, a row a training; parameters: the architecture's number of weights and biases. The
    source, of the transfer, is known when the phase ends.
    """
    own = zip(*(results[name] for name in RESULT), strict=True)
    rows = (
        (phase, one.architecture.name, parameters, None, one.trial, one.seed, *one.vector, *result)
        for one, result in zip(trainings, own, strict=True)
    )
    append_rows(files.trainings, COLUMNS, rows)


def read_trainings(files: RunFiles, *phases: str) -> pd.DataFrame:
    """The trainings of some phases, of all if none is named; of one that was recorded twice the last row."""
    if not files.trainings.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    rows = read_table(files.trainings).drop_duplicates(["phase", *_KEY], keep="last")
    return rows[rows["phase"].isin(phases or _PHASES)].reset_index(drop=True)


def sort_trainings(files: RunFiles, rows: pd.DataFrame, architectures: Sequence[Architecture]) -> None:
    """Write the ledger anew: each architecture's trials and retrainings, then the transfers."""
    places = {architecture.name: place for place, architecture in enumerate(architectures)}
    is_transfer = rows["phase"] == "transfer"
    order = rows.assign(_place=rows["architecture"].map(places).where(~is_transfer), _phase=rows["phase"].map(_PHASES))
    order = order.sort_values(["_place", "_phase", *_KEY])  # missing values last, so transfers
    write_table(files.trainings, order[list(COLUMNS)].astype({"trial": "Int64", "seed": "Int64"}))
