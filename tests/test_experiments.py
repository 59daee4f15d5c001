"""What is trained once, what is trained again, and what is chosen."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from study import ARCHITECTURES, settings_of, tables

from mlp_lib.core.data import load_dataset
from mlp_lib.core.errors import RunDirectoryError, TrainingError
from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.evidence import summaries
from mlp_lib.run.files import ROOT, RunFiles, read_table, read_yaml, write_table, write_yaml
from mlp_lib.study import phases
from mlp_lib.study.phases import Study
from mlp_lib.study.sources import read_sources
from mlp_lib.workers import processes
from mlp_lib.workers.units import Result, Unit

VALUES = {
    "lr": 3e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 1e-4,
    "dropout": 0.1,
    "leaky_relu_alpha": 0.05,
}
FIXED = {name: {"distribution": "uniform", "low": value, "high": value} for name, value in VALUES.items()}


@pytest.fixture(autouse=True)
def _train_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in place of the worker processes, which take seconds to start."""
    monkeypatch.setattr(processes, "_make_executor", lambda number: ThreadPoolExecutor(1))


def study_of(run_dir: Path, phase: str, **changes: Any) -> Study:
    settings = settings_of(phase, **changes)
    dataset = load_dataset(settings, torch.device("cpu"), ROOT)
    architectures = settings_of("search", **changes).architectures.architectures
    return Study(settings, RunFiles(run_dir), architectures, dataset.train.images.shape[1], dataset.digest, ROOT)


def run_all(run_dir: Path, **changes: Any) -> pd.DataFrame:
    """Search, retraining, transfer; transfer_seed_losses.csv."""
    run_dir.mkdir(exist_ok=True)
    phases.search(study_of(run_dir, "search", **changes))
    phases.retrain(study_of(run_dir, "retrain", **changes))
    return phases.transfer(study_of(run_dir, "transfer", **changes), RunFiles(run_dir))


# --- equal trainings are one ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFiles]:
    """A run in which all architectures have one vector of hyperparameters, and one transfer seed is not retrained."""
    run_dir = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(processes, "_make_executor", lambda number: ThreadPoolExecutor(1))
        run_all(run_dir, search_space=FIXED, transfer_seeds=[1, 2, 3])
    return RunFiles(run_dir)


def test_sources_with_equal_hyperparameters_share_trainings(shared: RunFiles) -> None:
    trainings = read_table(shared.trainings)
    assert len(trainings) == 2  # two targets at the one seed that retraining does not have
    assert not trainings.duplicated(["target", "seed", *HYPERPARAMETERS]).any()
    assert set(trainings["target"]) == set(ARCHITECTURES)
    assert set(trainings["seed"]) == {3}


def test_the_regret_of_shared_trainings_is_exactly_none(shared: RunFiles) -> None:
    regret, relative = (read_table(path, index="target") for path in (shared.regret, shared.relative_regret))
    assert (regret.to_numpy() == 0).all()
    assert (relative.to_numpy() == 1).all()
    losses = read_table(shared.transfer_losses)
    assert len(losses) == 2 * 2 * 3
    assert (losses.groupby(["target", "seed"])["test_loss"].nunique() == 1).all()


def test_what_is_reused_is_said(shared: RunFiles) -> None:
    losses = read_table(shared.transfer_losses)
    assert losses["reused"].tolist() == [seed in (1, 2) for seed in losses["seed"]]


def test_equal_trials_give_equal_results_and_the_first_is_chosen(shared: RunFiles) -> None:
    for name in ARCHITECTURES:
        results = read_table(shared.search / name / "search_results.csv")
        assert len(results) == 3
        assert len(results.drop(columns="trial").drop_duplicates()) == 1
        best = read_yaml(shared.search / name / "best_hyperparameters.yaml")
        assert best["trial"] == 0
        assert best["hyperparameters"] == VALUES


def test_without_retrainings_each_distinct_training_is_done_once(shared: RunFiles, tmp_path: Path) -> None:
    study = study_of(tmp_path, "transfer", search_dir=str(shared.root), transfer_seeds=[1, 2, 3])
    losses = phases.transfer(study, shared)
    assert len(read_table(study.files.trainings)) == 2 * 3
    assert not losses["reused"].any()
    before = read_table(shared.transfer_losses)  # the reused ones are what training them gives, to the bit
    columns = ["target", "source", "seed", "status", "test_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(losses[columns], before[columns], check_exact=True, check_dtype=False)


def test_a_seeds_pairs_are_a_unit_and_on_cuda_a_targets(shared: RunFiles, tmp_path: Path, monkeypatch) -> None:
    study = study_of(tmp_path, "transfer", search_dir=str(shared.root), transfer_seeds=[1, 2, 3], workers=1)
    sources = read_sources(study, shared)

    def seeds_of_units() -> list[tuple[int, ...]]:
        nothing = phases._reusable_retrainings(study)
        return [unit.seeds for unit in phases.missing_pairs(study, sources, nothing)]

    assert seeds_of_units() == [(1,), (2,), (3,)] * 2
    monkeypatch.setattr("mlp_lib.study.study.resolve_device", lambda name: torch.device("cuda"))
    assert seeds_of_units() == [(1, 2, 3)] * 2


def test_retrainings_under_other_settings_are_not_reused(shared: RunFiles) -> None:
    study = study_of(shared.root, "transfer", transfer_seeds=[1, 2])
    assert len(phases._reusable_retrainings(study)) == 4
    for change in ({"batch_size": 64}, {"max_epochs": 7}, {"split_seed": 1}, {"deterministic": True}, {"patience": 3}):
        other = study_of(shared.root, "transfer", transfer_seeds=[1, 2], **change)
        assert phases._reusable_retrainings(other).empty


def test_a_transfer_without_search_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="01_search"):
        phases.transfer(study_of(tmp_path, "transfer"), RunFiles(tmp_path))


# --- the choice -----------------------------------------------------------------------------------------------------


def results_of(*losses: float) -> pd.DataFrame:
    return pd.DataFrame({"trial": range(len(losses)), "val_loss": losses})


def test_ties_go_to_the_lowest_number() -> None:
    assert summaries.best_trial(results_of(0.5, 0.3, 0.4, 0.3))["trial"] == 1
    assert summaries.best_trial(results_of(0.3, 0.3))["trial"] == 0
    shuffled = results_of(0.5, 0.3, 0.4, 0.3).iloc[[3, 2, 1, 0]]
    assert summaries.best_trial(shuffled)["trial"] == 1


def test_a_diverged_trial_is_never_chosen() -> None:
    assert summaries.best_trial(results_of(np.nan, 2.3, np.inf, -np.inf))["trial"] == 1
    assert summaries.best_trial(results_of(np.nan, np.inf)) is None


def diverged(unit: Unit) -> Result:
    size = len(unit.labels)
    rows = pd.DataFrame({"status": ["diverged"] * size, "best_epoch": pd.array([None] * size, dtype="Int64")})
    rows = rows.assign(epochs_trained=1)
    rows[["val_loss", "val_accuracy", "test_loss", "test_accuracy"]] = np.nan
    history = pd.DataFrame({"member": range(size), "epoch": 1, "train_loss": np.nan})
    return Result(rows, history.assign(val_loss=np.nan, val_accuracy=np.nan), None)


def diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training from now on diverges in its first epoch."""
    monkeypatch.setattr(
        "mlp_lib.study.study.train_units", lambda units, job: ((unit, diverged(unit)) for unit in units)
    )


def test_a_search_in_which_all_diverged_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch)
    study = study_of(tmp_path, "search")
    for _ in range(2):  # also when it is read from disk
        with pytest.raises(TrainingError, match="all 3 trials of mlp_4 diverged") as error:
            phases.search(study)
        assert "\n" not in str(error.value)
    results = read_table(tmp_path / "search" / "mlp_4" / "search_results.csv")
    assert set(results["status"]) == {"diverged"}
    assert results[["val_loss", "test_loss"]].isna().all(axis=None)


def test_one_diverged_trial_is_recorded_and_passed_over(tmp_path: Path) -> None:
    study = study_of(tmp_path, "search", num_trials=2)
    results = phases.search(study)
    path = tmp_path / "search" / "mlp_4" / "search_results.csv"
    table = read_table(path)
    best = table.loc[table["val_loss"].idxmin(), "trial"]
    table.loc[table["trial"] == best, ["val_loss", "test_loss"]] = np.nan
    write_table(path, table)
    phases.search(study)
    assert read_yaml(path.with_name("best_hyperparameters.yaml"))["trial"] == 1 - best
    assert len(results) == 4


# --- again ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def retrained(tmp_path: Path) -> RunFiles:
    """A run with search and retraining, of which mlp_4's choice is then another."""
    phases.search(study_of(tmp_path, "search"))
    phases.retrain(study_of(tmp_path, "retrain"))
    path = tmp_path / "search" / "mlp_4" / "best_hyperparameters.yaml"
    best = read_yaml(path)
    best["hyperparameters"]["lr"] = 0.0123
    write_yaml(path, best)
    return RunFiles(tmp_path)


def test_other_hyperparameters_are_retrained(retrained: RunFiles) -> None:
    study = study_of(retrained.root, "retrain")
    files = {a.name: retrained.architecture(a) for a in study.architectures}
    before = {path: path.read_bytes() for name in files for path in (files[name].config(1), files[name].model(1))}
    missing = phases.missing_seeds(study)
    assert {(unit.architecture.name, seed) for unit in missing for seed in unit.seeds} == {("mlp_4", 1), ("mlp_4", 2)}
    losses = phases.retrain(study)
    for path, content in before.items():
        assert (path.read_bytes() == content) == ("mlp_3x2" in str(path))
    config = read_yaml(files["mlp_4"].config(1))
    assert config["hyperparameters"]["lr"] == 0.0123
    row = losses[(losses["architecture"] == "mlp_4") & (losses["seed"] == 1)]
    assert row["test_loss"].item() == config["result"]["test_loss"]
    assert phases.missing_seeds(study) == []


def test_no_checkpoint_of_other_hyperparameters_stays(retrained: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge(monkeypatch)
    study = study_of(retrained.root, "retrain")
    phases.retrain(study)
    for architecture in study.architectures:
        files = retrained.architecture(architecture)
        config = read_yaml(files.config(1))
        assert (config["result"]["status"] == "diverged") == (architecture.name == "mlp_4")
        assert files.model(1).exists() == (config["result"]["status"] == "completed")


def test_nothing_is_trained_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(tmp_path)
    before = tables(tmp_path)

    def refuse(unit: Unit, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{unit} is on disk")

    monkeypatch.setattr(processes, "train_unit", refuse)
    run_all(tmp_path)
    assert tables(tmp_path) == before


def test_more_of_everything_equals_a_fresh_run(tmp_path: Path) -> None:
    """More trials change the choice, so that retrainings and transfers are done again."""
    more = {
        "num_trials": 6,
        "architectures": {"list": [[4], [3, 2], [2]]},
        "retrain_seeds": [1, 2, 3],
        "transfer_seeds": [1, 2, 3],
    }
    run_all(tmp_path / "grown", num_trials=1)
    run_all(tmp_path / "grown", **more)
    run_all(tmp_path / "fresh", **more)
    grown, fresh = tables(tmp_path / "grown"), tables(tmp_path / "fresh")
    chosen = [
        read_yaml(tmp_path / "fresh" / "search" / n / "best_hyperparameters.yaml")["trial"] for n in ARCHITECTURES
    ]
    assert any(trial >= 1 for trial in chosen)
    assert grown.keys() == fresh.keys()
    assert [name for name in fresh if grown[name] != fresh[name]] == []


def test_more_retrain_seeds_than_before_equal_a_fresh_run(tmp_path: Path) -> None:
    """The transfer trained the diagonal of a seed by itself that a retraining has now."""
    run_all(tmp_path / "grown", retrain_seeds=[1])
    run_all(tmp_path / "grown", retrain_seeds=[1, 2])
    run_all(tmp_path / "fresh", retrain_seeds=[1, 2])
    assert tables(tmp_path / "grown") == tables(tmp_path / "fresh")
