"""The trainings of all kept studies as one data set: executed/pool/trainings.parquet and curves.parquet.

`make pool` runs this file; a test holds that the two tables are those of the studies. docs/data.md tells the columns.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mlp_lib.core.values import HYPERPARAMETERS, TrainingSettings
from mlp_lib.run.files import ROOT, read_table, read_yaml

POOL = ROOT / "executed" / "pool"
SETTINGS = ["dataset", "validation_size", "split_seed", *TrainingSettings.model_fields]


def studies() -> Iterator[tuple[str, Path]]:
    """The name of each kept study, its folder below executed/, and the folder."""
    for ledger in sorted((ROOT / "executed").rglob("trainings.csv")):
        if (ledger.parent / "search" / "search_meta.yaml").exists():
            yield ledger.parent.relative_to(ROOT / "executed").as_posix(), ledger.parent


def trainings() -> pd.DataFrame:
    """A row a training of a kept study: the ledger's columns after those of the study and its settings."""
    tables = []
    for name, folder in studies():
        parameters = read_yaml(folder / "search" / "search_meta.yaml")["parameters"]
        table = read_table(folder / "trainings.csv").drop(columns="machine", errors="ignore")
        for place, setting in enumerate(SETTINGS):
            table.insert(place, setting, parameters[setting])
        tables.append(table.assign(study=name))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "study", table.pop("study"))
    integers = ["validation_size", "parameters", "seed", "best_epoch", "epochs_trained"]
    return table.astype(
        {"trial": "Int64", **dict.fromkeys(integers, "Int64"), **dict.fromkeys(HYPERPARAMETERS, "float64")}
    )


def curves() -> pd.DataFrame:
    """A row a check of a trial's training and validation loss; seed is that of the trial where it has only one."""
    tables = []
    for name, folder in studies():
        seed = read_yaml(folder / "search" / "search_meta.yaml")["parameters"]["training_seed"]
        for path in sorted(folder.glob("search/mlp_*/learning_curves.csv")):
            table = read_table(path)
            table = table if "seed" in table else table.assign(seed=seed)
            tables.append(table.assign(study=name, architecture=path.parent.name))
    return pd.concat(tables, ignore_index=True)[
        ["study", "architecture", "trial", "seed", "epoch", "train_loss", "val_loss"]
    ]


TABLES = {"trainings": trainings, "curves": curves}

if __name__ == "__main__":
    POOL.mkdir(exist_ok=True)
    for name, make in TABLES.items():
        table = make()
        table.to_parquet(POOL / f"{name}.parquet", index=False, compression="zstd")
        print(f"{name}: {len(table):,} rows, {(POOL / f'{name}.parquet').stat().st_size / 1e6:.1f} MB")
