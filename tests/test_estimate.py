"""What --dry-run says: how many trainings are new, and how many epochs they may take."""

import pandas as pd
import pytest
from study import FIXED, parameters_of, study_of

from mlp_lib.core.values import Hyperparameters
from mlp_lib.run.files import write_table
from mlp_lib.run.ledger import RESULT, append_trainings
from mlp_lib.study import estimate, phases
from mlp_lib.workers.progress import seconds_text


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path, "search", num_trials=5, max_epochs=400)


def test_epochs_fall_with_the_learning_rate_and_end_at_the_most(study):
    settings = study.settings
    epochs = [estimate.expected_epochs(Hyperparameters(lr=lr), settings, steps=20) for lr in (1e-7, 1e-4, 1e-3, 1e-2)]
    assert epochs[0] == settings.max_epochs
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] > settings.patience * settings.val_interval


def test_more_steps_an_epoch_need_fewer_epochs(study):
    few, many = (estimate.expected_epochs(Hyperparameters(), study.settings, steps) for steps in (5, 50))
    assert many < few


def plan(study, **changes):
    """Trainings in all and new by phase."""
    plans = estimate.plan(("search", "retrain", "transfer", "analysis"), parameters_of(**changes), study)
    return {phase: (total, len(new)) for phase, (total, new) in plans.items()}


def test_a_new_study_trains_everything_but_the_diagonal_twice(study):
    chosen = {"contenders": "chosen"}
    assert plan(study, **chosen) == {"search": (10, 10), "retrain": (4, 4), "transfer": (8, 4), "analysis": (0, 0)}
    assert plan(study)["transfer"] == (20, 16)  # with five trials all may be contenders
    more = {"transfer_extra_sources": ["cheapest", "median", "consensus", "default"]}
    assert plan(study, **chosen, **more)["transfer"] == (16, 4 + 8)  # cheapest and median are the other's choice


def test_the_plan_is_what_is_then_trained(tmp_path):
    changes = {"search_space": FIXED, "transfer_seeds": [1, 2, 3]}
    study = study_of(tmp_path, "search", **changes)
    phases.search(study)
    assert plan(study, **changes) == {"search": (6, 0), "retrain": (4, 4), "transfer": (6, 2), "analysis": (0, 0)}
    phases.retrain(study_of(tmp_path, "retrain", **changes))
    assert plan(study, **changes)["retrain"] == (4, 0)
    assert plan(study, **changes)["transfer"] == (6, 2)  # both have one vector, at the seed that is not retrained
    phases.transfer(study_of(tmp_path, "transfer", **changes))
    assert plan(study, **changes)["transfer"] == (6, 0)


def test_trials_on_disk_set_the_pace(study):
    """Two of ten trials are there, which took half of what was expected."""
    steps = -(-1000 // study.settings.batch_size)
    assert estimate.find_pace(study, steps) == 1
    first, second, *_ = phases.wanted_trials(study)
    epochs = [
        round(estimate.expected_epochs(one.hyperparameters, study.settings, steps) / 2) for one in (first, second)
    ]
    rows = pd.DataFrame([("completed", 1, done, *[0.5] * 4) for done in epochs], columns=list(RESULT))
    append_trainings(study.files, "search", [first, second], rows, 310)
    files = study.files.architecture(first.architecture)
    for path in (files.curves, files.metrics):  # without which they would be trained again
        write_table(path, pd.DataFrame({"trial": [0, 1], "epoch": 1}))
    assert plan(study)["search"] == (10, 8)
    assert estimate.find_pace(study, steps) == pytest.approx(0.5, rel=0.02)


def test_the_time_is_that_of_the_epochs_shared_by_the_workers(study):
    text = estimate.describe(("search",), parameters_of(), study, 1000, lambda unit: 2.0)
    assert "search: 10 trainings, 10 new" in text
    assert f"at most {seconds_text(10 * 400 * 2.0 / 2 + 12)}, if all go on for 400 epochs" in text


def test_halving_trains_half_of_the_trials_on(study):
    """8 trials of up to 400 epochs: rungs end at 50, 100, 200, 400, for 8, 4, 2 and 1 of them."""
    settings = study.settings.model_copy(update={"num_trials": 8, "search_method": "successive_halving"})
    assert estimate._with_rungs(400, settings) == 50 + 50 / 2 + 100 / 4 + 200 / 8
    assert estimate._with_rungs(60, settings) == 50 + 10 / 2
    assert estimate._with_rungs(60, study.settings) == 60
