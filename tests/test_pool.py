"""The pool of trainings is what the kept studies' tables say, no row more or less."""

import pandas as pd
import pytest
from write_pool import POOL, SETTINGS, TABLES, studies

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.run.files import read_table

KEYS = ["study", "phase", "architecture", "trial", "seed", *HYPERPARAMETERS]  # a run that grew has other choices too


@pytest.mark.parametrize("name", TABLES)
def test_the_kept_table_is_that_of_the_kept_studies(name: str) -> None:
    kept = pd.read_parquet(POOL / f"{name}.parquet")
    pd.testing.assert_frame_equal(kept, TABLES[name](), check_exact=True, check_dtype=False)  # else: make pool


def test_every_training_of_a_ledger_is_a_row_with_its_numbers() -> None:
    kept = pd.read_parquet(POOL / "trainings.parquet")
    assert not kept.duplicated(KEYS).any()
    assert kept[[*SETTINGS[2:], "dataset"]].notna().all(axis=None)
    for name, folder in studies():
        own = kept[kept["study"] == name].reset_index(drop=True)
        for column, values in read_table(folder / "trainings.csv").items():
            if column in own:
                pd.testing.assert_series_equal(own[column], values, check_dtype=False, check_exact=True)


def test_every_check_of_a_trial_is_there() -> None:
    kept = pd.read_parquet(POOL / "curves.parquet")
    for name, folder in studies():
        losses = [read_table(path)["val_loss"] for path in sorted(folder.glob("search/mlp_*/learning_curves.csv"))]
        own = kept.loc[kept["study"] == name, "val_loss"].reset_index(drop=True)
        pd.testing.assert_series_equal(own, pd.concat(losses, ignore_index=True), check_exact=True)
