"""The pool of contenders: what phase 03 trains beside the chosen, what 02 keeps of each image, what 04 says of both."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from study import ARCHITECTURES, evidence_of, refusing, run_all, settings_of, study_of

from mlp_lib.core.errors import SettingsError
from mlp_lib.evidence import contenders
from mlp_lib.run.files import RunFiles, read_image_losses, read_table
from mlp_lib.run.parsing import check_all, merge, no_pool
from mlp_lib.study import estimate, phases
from mlp_lib.study.sources import read_trials

SIX = {"num_trials": 6}


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of six trials that all architectures share."""
    run_dir = tmp_path_factory.mktemp("pooled")
    run_all(run_dir, **SIX)
    return run_dir


def test_every_contender_is_judged_on_every_architecture_at_every_seed(pooled: Path) -> None:
    files, architectures = RunFiles(pooled), settings_of("search", **SIX).architectures.architectures
    trials = read_trials(files, architectures)
    _, numbers = contenders(trials, 2)
    pool, judged = read_table(files.contenders), read_table(files.contender_losses)
    assert pool["trial"].tolist() == numbers
    for name in ARCHITECTURES:
        ranked = trials[trials["architecture"] == name].sort_values(["val_loss", "trial"])["trial"].tolist()
        assert pool[name].tolist() == [ranked.index(trial) for trial in numbers]
    wanted = {(t, i, s) for t in ARCHITECTURES for i in numbers for s in (1, 2)}
    assert set(judged[["target", "trial", "seed"]].itertuples(index=False, name=None)) == wanted
    assert len(judged) == len(wanted)


def test_the_chosen_are_a_part_of_the_pool_and_trained_once(pooled: Path) -> None:
    files = RunFiles(pooled)
    pool, judged, ledger = (read_table(path) for path in (files.contenders, files.contender_losses, files.trainings))
    matrix = read_table(files.transfer_losses)
    for source in ARCHITECTURES:
        best = pool.loc[pool[source] == 0, "trial"].item()
        own = judged[judged["trial"] == best].set_index(["target", "seed"])["test_loss"]
        row = matrix[matrix["source"] == source].set_index(["target", "seed"])["test_loss"]
        assert own.sort_index().equals(row.sort_index())
    again = ledger[ledger["phase"] != "search"]
    assert not again.duplicated(["architecture", "seed", "lr", "dropout"]).any()
    left = phases.transfer(study_of(pooled, "transfer", refusing(), **SIX), files)
    assert len(left) == len(matrix)


def test_the_losses_of_each_image_are_those_of_the_retrainings(pooled: Path) -> None:
    for name in ARCHITECTURES:
        path = pooled / "search" / name / "retrain"
        kept, losses = read_image_losses(path / "image_losses.npz"), read_table(path / "seed_losses.csv")
        assert list(kept) == losses["seed"].tolist() == [1, 2]
        assert [row.shape for row in kept.values()] == [(360,)] * 2
        assert np.allclose([row.mean() for row in kept.values()], losses["test_loss"], rtol=1e-5)


def test_the_answers_are_over_searches_and_say_so(pooled: Path) -> None:
    evidence = evidence_of(pooled, **SIX)
    answers = evidence.answers()
    assert all("over searches of 2 trials" in answer["sentence"] for answer in answers.values())
    assert all(answer["for_these_hyperparameters"]["verdict"] for answer in answers.values())
    assert yaml.safe_load(RunFiles(pooled).answers.read_text()) == answers
    components = evidence.variance_components().set_index("component")["variance"]
    assert list(components.index) == ["architecture", "transfer", "search", "run_seed", "images"]
    assert components["images"] > 0
    costs = evidence.tuning_cost()
    assert (costs["operations"] > 0).all()
    assert costs["n"].unique().tolist() == evidence.regret_by_budget()["n"].tolist()


def test_chosen_alone_is_the_study_without_a_pool(pooled: Path, tmp_path: Path) -> None:
    run_all(tmp_path, **SIX, contenders="chosen")
    for name in ("transfer_seed_losses.csv", "regret_matrix.csv", "sources.csv"):
        assert (tmp_path / "transfer" / name).read_bytes() == (pooled / "transfer" / name).read_bytes()
    assert not RunFiles(tmp_path).contenders.exists()
    answers = evidence_of(tmp_path, **SIX, contenders="chosen").answers()
    assert all("not over searches: no contenders were trained" in answer["sentence"] for answer in answers.values())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"same_trials_for_all_architectures": False}, "draws of its own"),
        ({"search_method": "sobol"}, "no independent draws"),
        ({"num_trials": 1}, "one trial is no search"),
    ],
)
def test_without_shared_random_trials_the_report_says_why(tmp_path: Path, changes: dict, why: str) -> None:
    run_all(tmp_path, **changes)
    assert why in no_pool(settings_of("search", **changes).model_dump(mode="json"))
    assert not RunFiles(tmp_path).contender_losses.exists()
    assert all(why in answer["sentence"] for answer in evidence_of(tmp_path, **changes).answers().values())


def test_a_budget_beyond_half_of_the_trials_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"-p search_budget: .* = 4: .* at most half of num_trials \(6\)"):
        check_all(merge(None, [], [("num_trials", "6"), ("search_budget", "4")]))
    check_all(merge(None, [], [("num_trials", "6"), ("search_budget", "3")]))


def test_the_plan_counts_the_contenders(pooled: Path, tmp_path: Path) -> None:
    """Of a study that has yet to search as many as there can be, of one that has searched those that there are."""
    parsed = {phase: settings_of(phase, **SIX).model_dump(mode="json") for phase in ("search", "retrain", "transfer")}
    done = estimate.plan(("transfer",), parsed, study_of(pooled, "search", **SIX))["transfer"]
    fresh = estimate.plan(("transfer",), parsed, study_of(tmp_path, "search", **SIX))["transfer"]
    assert done.new == []
    judged = pd.read_csv(RunFiles(pooled).contender_losses)
    assert len(fresh.new) >= len(judged)
