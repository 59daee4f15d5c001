"""trainings.csv holds every training of a run once, with the numbers of the files that it comes from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from evidence import evidence_of
from study import ARCHITECTURES
from test_experiments import run_all, study_of

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.run.files import RunFiles, read_table, write_yaml
from mlp_lib.run.ledger import write_trainings
from mlp_lib.run.meta import read_meta
from mlp_lib.study import phases
from mlp_lib.workers import processes

STUDY = {
    "same_trials_for_all_architectures": True,
    "search_seed": 3,
    "transfer_seeds": [1, 5],
    "transfer_extra_sources": ["cheapest", "default"],
}
RESULT = ["status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    files = RunFiles(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(processes, "_make_executor", lambda number: ThreadPoolExecutor(1))
        run_all(files.root, **STUDY)
    evidence_of(files.root, **STUDY)  # stores the parameters
    write_trainings(files)
    return files


def test_every_training_is_there_once(whole: RunFiles) -> None:
    """3 trials, 2 retrain seeds on each; at seed 1 of the transfer 2 are not retrained,
    at seed 5 all 3 vectors are new; the cheapest is one of them.
    """
    table = pd.read_csv(whole.all_trainings)
    counts = table.groupby(["architecture", "phase"]).size().unstack()
    for name in ARCHITECTURES:
        assert counts.loc[name].to_dict() == {"search": 3, "retrain": 2, "transfer": 2 + 3}
    assert not table.duplicated(["architecture", "seed", *HYPERPARAMETERS]).any()
    assert table["parameters"].groupby(table["architecture"]).first().to_dict() == {"mlp_4": 310, "mlp_3x2": 233}
    assert table.drop(columns=["source", "trial", "test_loss", "test_accuracy"]).notna().all(axis=None)


def test_the_numbers_are_those_of_the_single_files(whole: RunFiles) -> None:
    table = read_table(whole.all_trainings)
    for name in ARCHITECTURES:
        own = table[table["architecture"] == name]
        trials = read_table(whole.search / name / "search_results.csv")
        columns = ["trial", *HYPERPARAMETERS, *RESULT, "test_loss", "test_accuracy"]
        found = own[own["phase"] == "search"][columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, trials[columns], check_exact=True, check_dtype=False)
        assert (own.loc[own["phase"] == "search", "seed"] == 0).all()
        losses = read_table(whole.search / name / "retrain" / "seed_losses.csv")
        retrained = own[own["phase"] == "retrain"]
        assert retrained["seed"].tolist() == losses["seed"].tolist()
        assert retrained["test_loss"].tolist() == losses["test_loss"].tolist()


def test_a_transferred_training_names_all_its_sources(whole: RunFiles) -> None:
    table = pd.read_csv(whole.all_trainings)
    fresh = table[(table["phase"] == "transfer") & (table["seed"] == 5)]
    losses = read_table(whole.transfer_losses)
    for row in fresh.itertuples():
        for source in row.source.split():
            same = (losses["target"] == row.architecture) & (losses["source"] == source) & (losses["seed"] == 5)
            assert losses.loc[same, "test_loss"].item() == row.test_loss
    for name in ARCHITECTURES:
        sources = fresh.loc[fresh["architecture"] == name, "source"].tolist()
        assert sorted(" ".join(sources).split()) == sorted([*ARCHITECTURES, "cheapest", "default"])


def test_a_run_that_has_the_search_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_make_executor", lambda number: ThreadPoolExecutor(1))
    phases.search(study_of(tmp_path, "search"))
    evidence_of(tmp_path)
    files = RunFiles(tmp_path)
    write_trainings(files)
    assert len(pd.read_csv(files.all_trainings)) == 2 * 3


def test_without_any_training_there_is_no_table(tmp_path: Path, whole: RunFiles) -> None:
    files = RunFiles(tmp_path)
    write_yaml(files.meta, read_meta(whole))
    write_trainings(files)
    assert not files.all_trainings.exists()
