"""How good a search was and what mattered, on tables small enough to do by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study import peak

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.evidence.search import (
    expected_best,
    fixed,
    importance,
    lr_envelope,
    lr_sensitivity,
    range_position,
    search_warnings,
    unshared_seed_spread,
    winner_instability,
)
from mlp_lib.run.parameters import Range, SearchSpace

NAN = np.nan
A, B = "mlp_8", "mlp_4x4"


def space(**fixed):
    """lr from 1e-5 to 1e-1 on the log scale, the others uniform from 0.1 to 0.9, but those `fixed`."""
    ranges = {name: {"distribution": "uniform", "low": 0.1, "high": 0.9} for name in HYPERPARAMETERS}
    ranges["lr"] = {"distribution": "log_uniform", "low": 1e-5, "high": 1e-1}
    ranges |= {name: {"distribution": "uniform", "low": value, "high": value} for name, value in fixed.items()}
    return SearchSpace(**ranges)


def trials(losses, architecture=A, **columns):
    """A trial a loss, all in the middle of `space` but for `columns`; test losses are the validation losses."""
    table = pd.DataFrame({"architecture": architecture, "trial": range(len(losses)), "val_loss": losses})
    table = table.assign(**dict.fromkeys(HYPERPARAMETERS, 0.5) | {"lr": 1e-3, "test_loss": table["val_loss"]})
    return table.assign(epochs_trained=10).assign(**columns)


def drawn(number, loss, architecture=A, seed=0):
    """`number` draws, lr log-uniform, the validation loss a function of them."""
    rng = np.random.default_rng(seed)
    values = {name: rng.uniform(0.1, 0.9, number) for name in HYPERPARAMETERS}
    table = trials([1.0] * number, architecture).assign(**values)
    table["lr"] = 10 ** rng.uniform(-5, -1, number)
    return table.assign(val_loss=loss(table, rng))


def test_expected_best_is_the_mean_over_all_subsets():
    losses = [0.5, 0.1, 0.9, 0.4, 0.2, 0.7]
    table = expected_best(trials(losses))
    subsets = [np.mean([min(s) for s in itertools.combinations(losses, n)]) for n in range(1, 7)]
    assert list(table["n"]) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(table["expected"], subsets)


def test_the_band_is_the_quantiles_of_the_best_of_fresh_draws():
    losses = [0.1, 0.2, 0.3, 0.4]
    table = expected_best(trials(losses), confidence=0.8)
    for row in table.itertuples():
        best = [min(draw) for draw in itertools.product(losses, repeat=row.n)]
        band = np.quantile(best, [0.1, 0.9], method="inverted_cdf")
        np.testing.assert_allclose([row.low, row.high], band)


def test_many_trials_do_not_overflow():
    losses = np.random.default_rng(0).uniform(size=2000)
    table = expected_best(trials(losses))
    assert table["expected"].is_monotonic_decreasing
    assert table["expected"].iloc[0] == pytest.approx(losses.mean())


@pytest.mark.parametrize("call", [expected_best, lambda table: winner_instability(table, {A: 0.03})])
def test_memory_grows_no_faster_than_the_trials(call):
    table = trials(np.random.default_rng(0).uniform(size=4000))
    assert peak(call, table) < 2 * peak(call, table[:2000]) < 100e6


def test_a_diverged_trial_counts_as_the_worst_finite_loss():
    table = expected_best(trials([0.1, NAN, 0.3, np.inf]))
    pd.testing.assert_frame_equal(table, expected_best(trials([0.1, 0.3, 0.3, 0.3])))
    assert expected_best(trials([NAN, NAN]))[["expected", "low", "high"]].isna().all(axis=None)


def test_the_winner_changes_as_often_as_two_normals_cross():
    spread, gap = 0.05, 0.04
    table = winner_instability(trials([0.1 * (1 + gap), 0.1]), {A: spread}).iloc[0]
    crossing = stats.norm.cdf(-np.log1p(gap) / np.sqrt(2 * np.log1p(spread**2)))
    assert table["change_probability"] == pytest.approx(crossing)
    assert (table["trial"], table["val_loss"], table["seed_spread"]) == (1, 0.1, spread)
    assert table["gap_2nd"] == pytest.approx(gap)
    assert table["spreads_2nd"] == pytest.approx(gap / spread)
    assert np.isnan(table["gap_5th"])
    alike = winner_instability(trials([0.1, 0.1, 0.1]), {A: spread})["change_probability"]
    assert alike.tolist() == [pytest.approx(2 / 3)]


def test_gaps_by_hand():
    table = winner_instability(trials([0.15, 0.1, 0.11, 0.14, 0.13, 0.2]), {A: 0.1}).iloc[0]
    assert table["gap_2nd"] == pytest.approx(0.1)
    assert table["spreads_5th"] == pytest.approx(5)


def test_the_unshared_spread_is_without_what_a_seed_does_to_all():
    rng, choices = np.random.default_rng(0), 40  # no two share a value: a product of them would fit no memory
    rows = []
    for architecture in (A, B):
        logs = rng.normal(0, 0.02, (choices, 8)) + rng.normal(0, 0.05, 8) + rng.normal(0, 0.3, (choices, 1))
        for (choice, seed), log in np.ndenumerate(logs):
            rows.append((architecture, 0.01 * (choice + 1), seed, np.exp(log)))
    table = pd.DataFrame(rows, columns=["architecture", "lr", "seed", "val_loss"])
    table = table.assign(**dict.fromkeys(HYPERPARAMETERS[1:], table["lr"]))
    found = unshared_seed_spread(table)
    assert list(found.index) == [A, B]
    assert found[A] == found[B] == pytest.approx(0.02, rel=0.15)
    more = table[table["lr"] == 0.01].assign(seed=table["seed"] + 100)  # one choice at more seeds tells nothing of it
    assert unshared_seed_spread(pd.concat([table, more])).tolist() == found.tolist()
    assert unshared_seed_spread(table[table["lr"] == 0.01]).isna().all()


@pytest.mark.parametrize(("losses", "spread"), [([0.1], 0.1), ([0.1, NAN], 0.1), ([NAN, NAN], 0.1), ([1, 2], NAN)])
def test_without_a_rival_or_a_spread_the_instability_is_unknown(losses, spread):
    assert np.isnan(winner_instability(trials(losses), {A: spread})["change_probability"].iloc[0])
    assert np.isnan(winner_instability(trials(losses), {})["change_probability"].iloc[0])


def test_position_in_a_range():
    values = pd.Series([1e-4, 1e-3, 1e-2])
    log = Range(distribution="log_uniform", low=1e-4, high=1e-2)
    np.testing.assert_allclose(range_position(values, log), [0, 0.5, 1])
    uniform = Range(distribution="uniform", low=0, high=1e-2)
    np.testing.assert_allclose(range_position(values, uniform), [0.01, 0.1, 1])
    assert range_position(values, Range(distribution="uniform", low=1, high=1)).isna().all()


def test_warnings_name_the_edge_the_cap_and_the_share_of_epochs():
    table = pd.concat(
        [
            trials([0.1, 0.2], lr=[9e-2, 1e-3], epochs_trained=[100, 50]),
            trials([0.1, 0.2], B, beta1=[0.12, 0.5], epochs_trained=[25, 25]),
        ]
    )
    assert search_warnings(table, space(), 100) == [
        "The best lr of 1 of 2 architectures lies in the upper 5 % of its range, 1e-05 to 0.1 (8): better values may"
        " lie beyond (chance alone would put 0.1 there).",
        "The best beta1 of 1 of 2 architectures lies in the lower 5 % of its range, 0.1 to 0.9 (4x4): better values"
        " may lie beyond (chance alone would put 0.1 there).",
        "The best trial of 1 of 2 architectures trained until max_epochs (100; 8): longer training may have improved"
        " it.",
        "50 % of all epochs went to trials that hit max_epochs (1 of 4 trials).",
    ]


def test_nothing_to_warn_of():
    assert search_warnings(trials([0.1, 0.2]), space(), 100) == []
    assert search_warnings(trials([0.1], beta1=0.5), space(beta1=0.5), 100) == []  # a fixed value has no edge


def test_an_architecture_that_no_trial_trained_is_told():
    table = pd.concat([trials([NAN, NAN], lr=1e-5), trials([0.1, NAN], B)])
    (warning,) = search_warnings(table, space(), 100)
    assert warning.startswith("No trial of 8 came below guessing (a loss of ln 10 = 2.303 nats an example): the best")


def test_the_hyperparameter_that_alone_matters_comes_out_first():
    table = drawn(80, lambda t, rng: np.exp((np.log10(t["lr"]) + 3) ** 2 + rng.normal(0, 0.01, len(t))))
    found = importance(table)
    assert list(found["hyperparameter"]) == list(HYPERPARAMETERS)
    assert found["importance"].idxmax() == 0
    assert found["importance"][0] > 0.4 > 0.05 > found["importance"][1:].max()
    assert found["importance"][0] > 3 * found["error"][0]
    assert (found["r2"] > 0.5).all()
    assert (found["trials"] == 40).all()  # the better half
    assert not found["pooled"].any()
    pd.testing.assert_frame_equal(found, importance(table.sample(frac=1, random_state=1)))


def test_trials_that_architectures_share_give_nothing_away():
    one = drawn(50, lambda t, rng: np.exp(rng.normal(0, 0.5, len(t))))  # luck, the same on all
    found = importance(pd.concat([one.assign(architecture=name) for name in ("mlp_8", "mlp_9", "mlp_10")]))
    assert found["pooled"].all()
    assert (found["r2"] < 0.1).all()


def test_noise_has_no_importance():
    found = importance(drawn(80, lambda t, rng: np.exp(rng.normal(0, 0.1, len(t)))))
    assert found["r2"][0] < 0.1
    assert (found["importance"] < 3 * found["error"] + 0.1).all()


def test_architectures_with_few_trials_share_a_forest_on_centred_losses():
    def loss(level):
        return lambda t, rng: level * np.exp((t["dropout"] - 0.5) ** 2 * 8)

    few = [drawn(30, loss(level), name, seed) for seed, (name, level) in enumerate({A: 1, B: 100}.items())]
    many = drawn(60, loss(1), "mlp_32", 3)
    found = importance(pd.concat([*few, many]))
    assert list(found["architecture"].unique()) == ["mlp_32", "pooled"]
    shared = found[found["pooled"]].set_index("hyperparameter")
    assert (shared["architectures"] == 2).all()
    assert (shared["trials"] == 30).all()
    assert shared["importance"].idxmax() == "dropout"
    assert (shared["r2"] > 0.1).all()  # the levels, a factor of 100 apart, are not what is explained


def test_a_fixed_hyperparameter_has_no_importance_and_a_fixed_lr_no_range():
    table = drawn(80, lambda t, rng: t["dropout"] + rng.normal(0, 0.01, len(t))).assign(lr=3e-3)
    assert fixed(table) == ["lr"]
    assert fixed(table[:1]) == []
    found = importance(table).set_index("hyperparameter")[["importance", "error"]]
    assert found.index[found.isna().all(axis=1)].tolist() == ["lr"]
    assert np.isnan(lr_sensitivity(table)["decades"].item())


@pytest.mark.parametrize("losses", [[0.1, 0.2], [0.1, NAN, NAN], [NAN, NAN], [0.1] * 70])
def test_too_few_or_equal_trials_have_no_importance(losses):
    found = importance(trials(losses))
    assert len(found) == 7
    assert found[["importance", "error", "r2"]].isna().all(axis=None)


def test_the_envelope_falls_to_the_best_and_rises_after_it():
    table = trials([5, 3, 4, 1, 2.5, 2, 6], lr=[1e-5, 1e-4, 2e-4, 1e-3, 2e-3, 1e-2, 1e-1])
    assert list(lr_envelope(table)["val_loss"]) == [5, 3, 1, 2, 6]


def test_lr_sensitivity_by_hand():
    table = trials([0.1, 0.105, 0.2, 0.109, 0.3, NAN], lr=[1e-3, 1e-4, 3e-4, 1e-2, 1e-1, 1e-5])
    row = lr_sensitivity(table, within=0.1).iloc[0]
    assert list(row) == [A, 1e-3, 1e-4, 1e-2, pytest.approx(2), 3]
    lone = lr_sensitivity(trials([0.1, 0.2], lr=[1e-3, 1e-2])).iloc[0]
    assert (lone["low"], lone["trials"]) == (1e-3, 1)
    assert np.isnan(lone["decades"])
    assert lr_sensitivity(trials([NAN]))[["best_lr", "low", "high", "decades"]].isna().all(axis=None)


def test_an_empty_table_gives_empty_tables():
    empty = trials([])
    assert search_warnings(empty, space(), 10) == []
    for table in (
        expected_best(empty),
        winner_instability(empty, {}),
        importance(empty),
        lr_envelope(empty),
        lr_sensitivity(empty),
    ):
        assert table.empty
        assert "architecture" in table
