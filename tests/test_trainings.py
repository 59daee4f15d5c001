"""The ledger holds every training of a run once, and no recorded one is lost: the files of a run are views of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cluster_cost
import numpy as np
import pandas as pd
import pytest
from study import ARCHITECTURES, TRIALS, Doing, in_process, refusing, run_all, settings_of, study_of, tables

from mlp_lib.core.values import HYPERPARAMETERS, Architecture
from mlp_lib.run.files import RunFiles, read_table
from mlp_lib.run.ledger import RESULT, append_trainings, missing, read_trainings
from mlp_lib.run.recipe import Wanted
from mlp_lib.study import phases
from mlp_lib.workers.jobs import Result, Unit

STUDY = {
    "contenders": "chosen",
    "max_epochs": 30,  # so that every training comes below guessing
    "same_trials_for_all_architectures": True,
    "search_seed": 7,
    "transfer_seeds": [1, 5],
    "transfer_extra_sources": ["cheapest", "default"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    files = RunFiles(tmp_path_factory.mktemp("whole"))
    run_all(files.root, **STUDY)
    return files


def test_every_training_is_there_once(whole: RunFiles) -> None:
    """3 trials, 2 retrain seeds on each; at seed 1 of the transfer 2 are not retrained,
    at seed 5 all 3 vectors are new; the cheapest is one of them.
    """
    table = pd.read_csv(whole.trainings)
    counts = table.groupby(["architecture", "phase"]).size().unstack()
    for name in ARCHITECTURES:
        assert counts.loc[name].to_dict() == {"search": 3, "retrain": 2, "transfer": 2 + 3}
    assert not table.duplicated(["architecture", "seed", *HYPERPARAMETERS]).any()
    assert table["parameters"].groupby(table["architecture"]).first().to_dict() == {"mlp_4": 310, "mlp_3x2": 233}
    assert table.drop(columns=["source", "trial", "test_loss", "test_accuracy"]).notna().all(axis=None)


def test_the_numbers_are_those_of_the_single_files(whole: RunFiles) -> None:
    table = read_table(whole.trainings)
    for name in ARCHITECTURES:
        own = table[table["architecture"] == name]
        trials = read_table(whole.search / name / "search_results.csv")
        columns = ["trial", *HYPERPARAMETERS, *RESULT]
        found = own[own["phase"] == "search"][columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, trials[columns], check_exact=True, check_dtype=False)
        assert (own.loc[own["phase"] == "search", "seed"] == 0).all()
        losses = read_table(whole.search / name / "retrain" / "seed_losses.csv")
        retrained = own[own["phase"] == "retrain"]
        assert retrained["seed"].tolist() == losses["seed"].tolist()
        assert retrained["test_loss"].tolist() == losses["test_loss"].tolist()


def test_a_transferred_training_names_all_its_sources(whole: RunFiles) -> None:
    table = read_table(whole.trainings)
    fresh = table[(table["phase"] == "transfer") & (table["seed"] == 5)]
    losses = read_table(whole.transfer_losses)
    for row in fresh.itertuples():
        for source in row.source.split():
            same = (losses["target"] == row.architecture) & (losses["source"] == source) & (losses["seed"] == 5)
            assert losses.loc[same, "test_loss"].item() == row.test_loss
    for name in ARCHITECTURES:
        sources = fresh.loc[fresh["architecture"] == name, "source"].tolist()
        assert sorted(" ".join(sources).split()) == sorted([*ARCHITECTURES, "cheapest", "default"])


def test_the_ledger_is_in_order_when_a_phase_ends(whole: RunFiles) -> None:
    table = read_table(whole.trainings)
    places = [
        (ARCHITECTURES.index(name), phase) for name, phase in zip(table["architecture"], table["phase"], strict=True)
    ]
    assert places[:10] == [(0, "search")] * 3 + [(0, "retrain")] * 2 + [(1, "search")] * 3 + [(1, "retrain")] * 2
    last = table[10:]
    assert set(last["phase"]) == {"transfer"}
    key = ["architecture", "seed", *HYPERPARAMETERS]
    pd.testing.assert_frame_equal(last, last.sort_values(key), check_exact=True)


# --- what is missing ------------------------------------------------------------------------------------------------

ARCHITECTURE = Architecture((4,))


def record(files: RunFiles, phase: str, *trainings: Wanted) -> None:
    results = pd.DataFrame([("completed", 2, 6, 0.5, 0.9, 0.6, 0.8)] * len(trainings), columns=list(RESULT))
    append_trainings(files, phase, trainings, results, 310)


def test_missing_is_wanted_less_done(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    one, other, again = (Wanted(ARCHITECTURE, TRIALS[i], seed) for i, seed in [(0, 1), (1, 1), (0, 1)])
    assert missing([one, other, again], read_trainings(files)) == [one, other]
    record(files, "transfer", one)
    assert missing([one, other], read_trainings(files, "transfer")) == [other]
    assert missing([one, other], read_trainings(files, "retrain")) == [one, other]
    trial = Wanted(ARCHITECTURE, TRIALS[0], 1, trial=0)  # a trial stands for itself, whatever its hyperparameters
    assert missing([trial], read_trainings(files)) == [trial]


def test_of_a_training_recorded_twice_the_last_row_counts(tmp_path: Path) -> None:
    files, one = RunFiles(tmp_path), Wanted(ARCHITECTURE, TRIALS[0], 1)
    record(files, "transfer", one)
    results = pd.DataFrame([("diverged", None, 3, *[np.nan] * 4)], columns=list(RESULT))
    append_trainings(files, "transfer", [one], results, 310)
    assert read_trainings(files)["epochs_trained"].tolist() == [3]


def test_a_training_is_recorded_without_reading_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, read = RunFiles(tmp_path), []
    record(files, "search", Wanted(ARCHITECTURE, TRIALS[0], 0, 0))
    monkeypatch.setattr(pd, "read_csv", lambda *_, **__: read.append("all"))
    monkeypatch.setattr(Path, "read_bytes", lambda *_: read.append("all"))
    record(files, "search", Wanted(ARCHITECTURE, TRIALS[1], 0, 1))
    monkeypatch.undo()
    assert not read
    assert len(read_trainings(files)) == 2


# --- stopped at any instant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["search", "retrain", "transfer"])
def test_a_torn_last_line_is_trained_again_and_no_other(whole: RunFiles, tmp_path: Path, phase: str) -> None:
    """Of each phase the last row is cut; the curves of a trial that is not in the ledger are cut too."""
    run_all(tmp_path, **STUDY)
    assert tables(tmp_path) == tables(whole.root)
    files = RunFiles(tmp_path)
    lines = files.trainings.read_bytes().splitlines(keepends=True)
    cut = next(line for line in reversed(lines) if line.startswith(phase.encode()))
    files.trainings.write_bytes(b"".join([*(line for line in lines if line is not cut), cut[:-9]]))
    if phase == "search":
        curves = files.search / ARCHITECTURES[1] / "learning_curves.csv"
        curves.write_bytes(curves.read_bytes()[:-9])
    units: list[Unit] = []

    def train(unit: Unit) -> Result:
        units.append(unit)
        (_, result), *_ = in_process(settings_of("search", **STUDY)).train([unit], jobs[0])
        return result

    workers, jobs = Doing(train), []
    within = workers.train
    workers.train = lambda parts, job: jobs.append(job) or within(parts, job)
    getattr(phases, phase)(study_of(tmp_path, phase, workers, **STUDY))
    assert [len(unit.members) for unit in units] == [1]
    run_all(tmp_path, refusing(), **STUDY)
    assert tables(tmp_path) == tables(whole.root)


def test_the_measurement_of_what_a_unit_costs_runs() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert cluster_cost.measure(100, cluster_cost.Idle(cluster_cost.APPENDED, pool)).startswith("100 on record: ")
