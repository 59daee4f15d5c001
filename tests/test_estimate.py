"""What --dry-run says: how many trainings are new, and how many epochs they may take."""

import pandas as pd
import pytest
from study import settings_of

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.run.files import RunFiles, write_table
from mlp_lib.study import estimate
from mlp_lib.study.study import Study

HYPER = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "dropout": 0.1}
TYPICAL = estimate.Hyperparameters(**HYPER, leaky_relu_alpha=0.01)


@pytest.fixture
def study(tmp_path):
    settings = settings_of("search", num_trials=5, max_epochs=400)
    return Study(settings, RunFiles(tmp_path), settings.architectures.architectures, 64, "", tmp_path)


def test_epochs_fall_with_the_learning_rate_and_end_at_the_most(study):
    settings = study.settings
    epochs = [
        estimate.expected_epochs(TYPICAL.model_copy(update={"lr": lr}), settings, steps=20)
        for lr in (1e-7, 1e-4, 1e-3, 1e-2)
    ]
    assert epochs[0] == settings.max_epochs
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] > settings.patience * settings.val_interval


def test_more_steps_an_epoch_need_fewer_epochs(study):
    few, many = (estimate.expected_epochs(TYPICAL, study.settings, steps) for steps in (5, 50))
    assert many < few


def test_a_new_study_trains_everything_but_the_diagonal_twice(study):
    parsed = {phase: settings_of(phase).model_dump() for phase in ("retrain", "transfer")}
    plans = estimate.plan(("search", "retrain", "transfer", "analysis"), parsed, study, images=1000)
    counts = {(p.phase, p.architecture.name): (p.total, p.new) for p in plans}
    for architecture in study.architectures:
        assert counts["search", architecture.name] == (5, 5)
        assert counts["retrain", architecture.name] == (2, 2)
        assert counts["transfer", architecture.name] == (4, 2)  # two sources, two seeds; its own are retrainings
    assert all(p.epochs > 0 for p in plans)


def test_trials_on_disk_set_the_pace(study):
    """Two of five trials are there, which took half of what was expected."""
    parsed = {phase: settings_of(phase).model_dump() for phase in ("retrain", "transfer")}
    before = estimate.plan(("search",), parsed, study, images=1000)
    expected = estimate.expected_epochs(TYPICAL, study.settings, steps=-(-1000 // study.settings.batch_size))
    rows = pd.DataFrame([{"trial": i, **TYPICAL.model_dump(), "epochs_trained": round(expected / 2)} for i in (0, 1)])
    write_table(study.files.architecture(study.architectures[0]).results, rows)
    after = estimate.plan(("search",), parsed, study, images=1000)
    assert [p.new for p in after] == [3, 5]
    assert after[1].epochs == pytest.approx(before[1].epochs / 2, rel=0.02)
    assert set(HYPERPARAMETERS) <= set(rows)


def test_halving_trains_half_of_the_trials_on(study):
    """8 trials of up to 400 epochs: rungs end at 50, 100, 200, 400, for 8, 4, 2 and 1 of them."""
    settings = study.settings.model_copy(update={"num_trials": 8, "search_method": "successive_halving"})
    assert estimate._with_rungs(400, settings) == 50 + 50 / 2 + 100 / 4 + 200 / 8
    assert estimate._with_rungs(60, settings) == 50 + 10 / 2
    assert estimate._with_rungs(60, study.settings) == 60
