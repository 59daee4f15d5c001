"""What is trained once, what is trained again, and what is chosen."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study import (
    ARCHITECTURES,
    FIXED,
    MORE,
    VALUES,
    diverging,
    evidence_of,
    grown_as_fresh,
    refusing,
    run_all,
    study_of,
    tables,
)

from mlp_lib.core.errors import TrainingError
from mlp_lib.core.values import GUESSING, NOT_TRAINED, Architecture
from mlp_lib.evidence import summaries
from mlp_lib.lab.run_explorer import Choice, RunViews, explorer
from mlp_lib.run.files import (
    RunDirectoryError,
    RunFiles,
    read_image_losses,
    read_table,
    read_yaml,
    write_table,
    write_yaml,
)
from mlp_lib.run.ledger import read_trainings
from mlp_lib.study import phases

# --- equal trainings are one ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """A run in which all architectures have one vector of hyperparameters, and one transfer seed is not retrained."""
    run_dir = tmp_path_factory.mktemp("shared")
    run_all(run_dir, search_space=FIXED, transfer_seeds=[1, 2, 3])
    return RunFiles(run_dir)


def test_sources_with_equal_hyperparameters_share_trainings(shared: RunFiles) -> None:
    trainings = read_trainings(shared, "transfer")
    assert len(trainings) == 2  # two targets at the one seed that retraining does not have
    assert set(trainings["architecture"]) == set(ARCHITECTURES)
    assert set(trainings["seed"]) == {3}
    assert set(trainings["source"]) == {" ".join([*ARCHITECTURES, "trial_0", "trial_1", "trial_2"])}


def test_the_regret_of_shared_trainings_is_exactly_none(shared: RunFiles) -> None:
    regret, relative = (read_table(path, index="target") for path in (shared.regret, shared.relative_regret))
    assert (regret.to_numpy() == 0).all()
    assert (relative.to_numpy() == 1).all()
    losses = read_table(shared.transfer_losses)
    assert len(losses) == 2 * 2 * 3
    assert (losses.groupby(["target", "seed"])["test_loss"].nunique(dropna=False) == 1).all()
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
    losses = phases.transfer(study)
    assert len(read_trainings(study.files)) == 2 * 3
    assert not losses["reused"].any()
    before = read_table(shared.transfer_losses)  # the reused ones are what training them gives, to the bit
    columns = ["target", "source", "seed", "status", "test_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(losses[columns], before[columns], check_exact=True, check_dtype=False)


def test_retrainings_under_other_settings_are_not_reused(shared: RunFiles, tmp_path: Path) -> None:
    study = study_of(shared.root, "transfer", transfer_seeds=[1, 2])
    assert len(phases.reusable(study)) == 4
    for change in ({"batch_size": 64}, {"max_epochs": 7}, {"split_seed": 1}, {"deterministic": True}, {"patience": 3}):
        other = study_of(shared.root, "transfer", transfer_seeds=[1, 2], **change)
        assert phases.reusable(other).empty
    elsewhere = shutil.copytree(shared.root, tmp_path / "run")
    for config in elsewhere.glob("search/*/retrain/*/config.yaml"):
        write_yaml(config, read_yaml(config) | {"device": "cuda", "torch": "2.0.0"})
    assert phases.reusable(study_of(elsewhere, "transfer")).empty
    assert len(phases.reusable(study_of(elsewhere, "transfer", mixed_devices=True))) == 4


def test_a_transfer_without_search_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="01_search"):
        phases.transfer(study_of(tmp_path, "transfer"))


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


def test_a_search_in_which_all_diverged_is_an_error_that_says_so(tmp_path: Path) -> None:
    study = study_of(tmp_path, "search", diverging())
    for _ in range(2):  # also when it is read from disk
        with pytest.raises(TrainingError, match="all 3 trials of mlp_4 diverged") as error:
            phases.search(study)
        assert "\n" not in str(error.value)
    results = read_table(tmp_path / "search" / "mlp_4" / "search_results.csv")
    assert set(results["status"]) == {"diverged"}
    assert results[["val_loss", "test_loss", "best_epoch"]].isna().all(axis=None)


def test_one_diverged_trial_is_recorded_and_passed_over(tmp_path: Path) -> None:
    study = study_of(tmp_path, "search", num_trials=2)
    results = phases.search(study)
    table = read_table(study.files.trainings)
    own = table[table["architecture"] == "mlp_4"]
    best = own.loc[own["val_loss"].idxmin(), "trial"]
    table.loc[own.index[own["trial"] == best], ["val_loss", "test_loss"]] = np.nan
    write_table(study.files.trainings, table)
    phases.search(study)
    assert read_yaml(tmp_path / "search" / "mlp_4" / "best_hyperparameters.yaml")["trial"] == 1 - best
    assert len(results) == 4


HALF = {"architectures": {"list": [[16], [2] * 6]}, "max_epochs": 8}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """A run of which one architecture learns in a few epochs, and a deep and narrow one nothing."""
    files = RunFiles(tmp_path_factory.mktemp("half"))
    run_all(files.root, **HALF)
    return files


def test_what_is_not_trained_has_no_losses(half: RunFiles) -> None:
    """In no table, so that nobody can count it; it has no checkpoint either."""
    ledger = read_table(half.trainings)
    has_none = ledger[["val_loss", "val_accuracy", "test_loss", "test_accuracy"]].isna()
    assert has_none.nunique(axis=1).eq(1).all()
    assert (has_none["val_loss"] == (ledger["status"] == NOT_TRAINED)).all()
    assert (ledger["val_loss"].dropna() < GUESSING).all()
    stats = read_table(half.stats)
    assert stats["n"].tolist() == [2, 0]
    deep = half.architecture(Architecture((2,) * 6))
    assert all(np.isnan(losses).all() for losses in read_image_losses(deep.image_losses).values())
    assert not deep.model(1).exists()
    assert read_yaml(deep.config(1))["result"]["status"] == NOT_TRAINED


def test_where_none_is_trained_the_best_is_chosen_and_both_questions_stay_open(half: RunFiles) -> None:
    deep = half.architecture(Architecture((2,) * 6))
    losses = read_table(deep.curves).groupby("trial")["val_loss"].min()
    best = read_yaml(deep.best)
    assert (best["trial"], best["val_loss"], best["test_loss"]) == (losses.idxmin(), losses.min(), None)
    assert read_table(deep.metrics)["val_loss"].min() == losses.min() >= GUESSING
    for contenders in ("auto", "chosen"):
        evidence = evidence_of(half.root, contenders=contenders, **HALF)
        if contenders == "chosen":
            evidence.judged = evidence.judged[:0]
        for answer in evidence.answers().values():
            for said in (answer, answer.get("for_these_hyperparameters", answer)):
                assert (said["verdict"], said["effect"]) == ("undetermined", None)
                assert said["sentence"].startswith("No trial of 2x2x2x2x2x2 came below guessing")


def test_metrics_of_the_best_that_are_gone_are_trained_again_and_nothing_else(half: RunFiles, tmp_path: Path) -> None:
    again = RunFiles(shutil.copytree(half.root, tmp_path / "again"))
    again.architecture(Architecture((2,) * 6)).metrics.unlink()
    phases.search(study_of(again.root, "search", **HALF))
    run_all(again.root, refusing(), **HALF)
    assert tables(again.root) == tables(half.root)


def test_what_is_not_trained_is_shown_as_that(half: RunFiles) -> None:
    views, deep = RunViews(evidence_of(half.root, **HALF)), "mlp_2x2x2x2x2x2"
    assert views.seeds(deep) == [1, 2]
    assert "mlp_16 has no losses" not in views.regret(Choice(deep, source=deep, target="mlp_16"))
    assert views.regret(Choice(deep, source="mlp_16", target=deep)).startswith(f"{deep} has no losses to compare")
    assert "no losses to compare" in views.regret(Choice(deep, source="mlp_9", target="mlp_16"))  # not trained yet
    architecture, trial, _ = explorer(views).children[0].children
    architecture.value = deep
    assert {label.split(": ")[1] for label, _ in trial.options} == {NOT_TRAINED}


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
    losses = phases.retrain(study)
    for path, content in before.items():
        assert (path.read_bytes() == content) == ("mlp_3x2" in str(path))
    config = read_yaml(files["mlp_4"].config(1))
    assert config["hyperparameters"]["lr"] == 0.0123
    row = losses[(losses["architecture"] == "mlp_4") & (losses["seed"] == 1)]
    assert row["test_loss"].item() == config["result"]["test_loss"]
    phases.retrain(study_of(retrained.root, "retrain", refusing()))


def test_no_checkpoint_of_other_hyperparameters_stays(retrained: RunFiles) -> None:
    study = study_of(retrained.root, "retrain", diverging())
    phases.retrain(study)
    for architecture in study.architectures:
        files = retrained.architecture(architecture)
        config = read_yaml(files.config(1))
        assert (config["result"]["status"] == "diverged") == (architecture.name == "mlp_4")
        assert files.model(1).exists() == (config["result"]["status"] == "completed")


def test_a_retraining_without_its_config_is_done_again(retrained: RunFiles) -> None:
    phases.retrain(study_of(retrained.root, "retrain"))
    before = tables(retrained.root)
    own = retrained.architecture(study_of(retrained.root, "retrain").architectures[0])
    own.config(2).unlink()
    own.model(2).unlink()
    phases.retrain(study_of(retrained.root, "retrain"))
    assert tables(retrained.root) == before
    assert own.model(2).exists()


def test_more_of_everything_equals_a_fresh_run(tmp_path: Path) -> None:
    """More trials change the choice, so that retrainings and transfers are done again."""
    more = MORE | {"num_trials": 6}
    run_all(tmp_path / "grown", num_trials=1)
    run_all(tmp_path / "grown", **more)
    run_all(tmp_path / "fresh", **more)
    best = (tmp_path / "fresh" / "search" / name / "best_hyperparameters.yaml" for name in ARCHITECTURES)
    assert any(read_yaml(path)["trial"] >= 1 for path in best)
    assert grown_as_fresh(tmp_path / "grown", tmp_path / "fresh")


def test_more_retrain_seeds_than_before_equal_a_fresh_run(tmp_path: Path) -> None:
    """The transfer trained the diagonal of a seed by itself that a retraining has now."""
    run_all(tmp_path / "grown", retrain_seeds=[1])
    run_all(tmp_path / "grown", retrain_seeds=[1, 2])
    run_all(tmp_path / "fresh", retrain_seeds=[1, 2])
    assert grown_as_fresh(tmp_path / "grown", tmp_path / "fresh")
