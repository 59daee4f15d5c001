"""The statistics, on tables small enough to do by hand, and against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from mlp_lib.statistics import (
    answer_architecture,
    answer_transfer,
    mean_interval,
    mean_loss_matrix,
    regret_matrix,
    relative_regret_matrix,
    summarize,
)

A, B, C = "mlp_32", "mlp_256x128", "mlp_8x8x8"
ANSWER = ["verdict", "effect", "interval", "confidence", "margin", "n", "sentence"]


def transfer(**losses):
    """A transfer table from target_source = [loss of seed 1, loss of seed 2, …], letters for the names."""
    names = {"A": A, "B": B, "C": C}
    rows = [
        (names[pair[0]], names[pair[1]], seed, loss) for pair, row in losses.items() for seed, loss in enumerate(row, 1)
    ]
    return pd.DataFrame(rows, columns=["target", "source", "seed", "test_loss"])


def retrained(**losses):
    table = transfer(**{name * 2: row for name, row in losses.items()})
    return table.rename(columns={"target": "architecture"}).drop(columns="source").assign(test_accuracy=0.9)


def test_summary_by_hand():
    losses = pd.DataFrame(
        {
            "architecture": [B, A, B, A, C, B],
            "seed": [1, 1, 2, 2, 1, 3],
            "test_loss": [0.25, 0.5, 0.75, np.nan, np.nan, 0.5],
            "test_accuracy": [0.75, 0.5, 1.0, np.nan, np.nan, 0.5],
        }
    )
    summary = summarize(losses, "architecture")
    assert summary.columns.tolist() == ["architecture", "n", "mean", "var", "min", "max", "mean_accuracy"]
    assert summary["architecture"].tolist() == [B, A, C]
    assert summary["n"].tolist() == [3, 1, 0]
    assert summary.iloc[0, 2:].tolist() == [0.5, 0.0625, 0.25, 0.75, 0.75]
    assert summary.loc[1, ["mean", "min", "max", "mean_accuracy"]].tolist() == [0.5] * 4
    assert math.isnan(summary.loc[1, "var"])
    assert summary.loc[2, ["mean", "var", "min", "max", "mean_accuracy"]].isna().all()


def test_summary_does_not_depend_on_the_order_of_the_rows():
    draws = np.random.default_rng(0).lognormal(size=50)
    losses = pd.DataFrame({"architecture": A, "source": B, "test_loss": draws, "test_accuracy": draws / 9})
    one, other = (summarize(table, ["architecture", "source"]) for table in (losses, losses[::-1]))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert one.loc[0, "mean"] == pytest.approx(draws.mean())
    assert one.loc[0, "var"] == pytest.approx(draws.var(ddof=1))


def test_matrices_by_hand():
    losses = transfer(BB=[1, 3], BA=[3, 3], AB=[6, 4], AA=[4, 4], BC=[2, np.nan], AC=[np.nan, np.nan])
    means = mean_loss_matrix(losses)
    assert means.index.tolist() == [B, A]
    assert means.columns.tolist() == [B, A, C]
    assert (means.index.name, means.columns.name) == ("target", "source")
    np.testing.assert_array_equal(means, [[2, 3, 2], [5, 4, np.nan]])
    np.testing.assert_array_equal(regret_matrix(losses), [[0, 1, 0], [1, 0, np.nan]])
    np.testing.assert_array_equal(relative_regret_matrix(losses), [[1, 1.5, 1], [1.25, 1, np.nan]])
    assert regret_matrix(losses).index.name == relative_regret_matrix(losses).index.name == "target"
    assert regret_matrix(losses).columns.name == relative_regret_matrix(losses).columns.name == "source"


def test_foreign_sources_have_no_regret():
    losses = transfer(BA=[1], CA=[2])
    assert mean_loss_matrix(losses).columns.tolist() == [A]
    assert regret_matrix(losses).isna().all(axis=None)
    assert relative_regret_matrix(losses).shape == (2, 1)
    assert answer_transfer(losses, 0.05, 0.95)["verdict"] == "undetermined"


def test_diagonal_is_exact_and_equal_sources_give_equal_columns():
    draws = np.random.default_rng(1)
    rows = {}
    for target in "ABC":
        rows[f"{target}A"] = draws.uniform(0.05, 0.1, 7)
        rows[f"{target}B"] = draws.uniform(0.05, 0.1, 7)
        rows[f"{target}C"] = rows[f"{target}A"]  # C's search chose A's hyperparameters
    for matrix, centre in ((regret_matrix(transfer(**rows)), 0), (relative_regret_matrix(transfer(**rows)), 1)):
        assert (np.diag(matrix) == centre).all()
        assert matrix[A].equals(matrix[C])
        assert matrix.at[A, C] == matrix.at[C, A] == centre


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_is_scipys(confidence):
    values = np.random.default_rng(2).normal(size=6)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean_interval([*values, np.nan], confidence) == pytest.approx((values.mean(), expected.low, expected.high))


def test_interval_of_few_or_equal_values():
    assert mean_interval([2, 2, 2], 0.95) == (2, 2, 2)
    np.testing.assert_equal(mean_interval([3], 0.95), (3, np.nan, np.nan))
    np.testing.assert_equal(mean_interval([np.nan], 0.95), (np.nan,) * 3)


def test_transfer_effect_by_hand():
    losses = transfer(AA=[1, 1, 2], AB=[1.1, 1.2, 2.2], BB=[2, 1, 1], BA=[2.2, 1.1, 1.3])
    answer = answer_transfer(losses, margin=0.05, confidence=0.95)
    assert list(answer) == ANSWER
    assert (answer["verdict"], answer["n"], answer["margin"]) == ("undetermined", 3, 0.05)
    assert [answer["effect"], *answer["interval"]] == pytest.approx(mean_interval([0.1, 0.15, 0.2], 0.95))
    assert "+15.00 % on average (95 % interval +2.58 % to +27.42 %, 2 pairs, 3 seeds)" in answer["sentence"]
    assert answer_transfer(losses, margin=0.3, confidence=0.95)["verdict"] == "transfers"
    assert answer_transfer(losses, margin=0.01, confidence=0.95)["verdict"] == "does_not_transfer"
    assert yaml.safe_load(yaml.safe_dump(answer)) == answer


def test_equal_hyperparameters_transfer():
    answer = answer_transfer(transfer(AA=[0.3, 0.1], AB=[0.3, 0.1], BB=[0.2, 0.3], BA=[0.2, 0.3]), 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["interval"]) == ("transfers", 0, [0, 0])


def test_transfer_does_not_hide_what_diverged():
    losses = transfer(AA=[1, 1], AB=[1, np.nan], BB=[1, np.nan], BA=[1, np.nan], AC=[1, 1])
    answer = answer_transfer(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["n"]) == ("undetermined", 0, 2)
    assert "1 of 5 trainings with transferred hyperparameters diverged" in answer["sentence"]


@pytest.mark.parametrize(
    ("losses", "n"),
    [
        (transfer(AA=[1], AB=[1.1], BB=[1], BA=[1]), 1),
        (transfer(AA=[1, 2]), 0),
        (transfer(AA=[np.nan] * 2, AB=[np.nan] * 2), 0),
        (transfer(AA=[np.nan] * 2, AB=[1, 1]), 0),
    ],
    ids=["one seed", "one architecture", "all diverged", "own diverged"],
)
def test_transfer_says_what_cannot_be_said(losses, n):
    answer = answer_transfer(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["interval"], answer["n"]) == ("undetermined", [None, None], n)
    assert answer["effect"] == (pytest.approx(0.05) if n else None)
    assert "cannot be said" in answer["sentence"]
    assert "nan" not in answer["sentence"]


def test_architecture_effect_by_hand():
    losses = retrained(A=[1.0, 1.1, 0.9], B=[1.3, 1.5, 1.2], C=[1.1, 1.0, 1.2])
    grand_mean = (1 + 4 / 3 + 1.1) / 3
    answer = answer_architecture(losses, margin=0.5, confidence=0.95)
    assert list(answer) == ANSWER
    largest = mean_interval(np.array([0.3, 0.4, 0.3]) / grand_mean, 1 - 0.05 / 3)
    assert [answer["effect"], *answer["interval"]] == pytest.approx(largest)
    assert (answer["verdict"], answer["n"]) == ("undetermined", 3)
    assert "256x128 above 32, is 29.13 % of the mean (95 % interval" in answer["sentence"]
    assert answer_architecture(losses, margin=2, confidence=0.95)["verdict"] == "equivalent"
    assert answer_architecture(losses, margin=0.04, confidence=0.95)["verdict"] == "different"
    assert yaml.safe_load(yaml.safe_dump(answer)) == answer


def test_architecture_order_does_not_matter():
    one = answer_architecture(retrained(A=[1.0, 1.1], B=[2.0, 2.3]), 0.05, 0.9)
    other = answer_architecture(retrained(B=[2.0, 2.3], A=[1.0, 1.1]), 0.05, 0.9)
    assert one == other


def test_divergence_forbids_equivalence():
    losses = retrained(A=[1, 1, np.nan], B=[1, 1, 1])
    answer = answer_architecture(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["n"]) == ("undetermined", 0, 2)
    assert "1 of 6 trainings diverged" in answer["sentence"]
    assert answer_architecture(losses[losses["seed"] < 3], 0.05, 0.95)["verdict"] == "equivalent"


@pytest.mark.parametrize(
    ("losses", "effect"),
    [
        (retrained(A=[1], B=[3]), 1),
        (retrained(A=[1, 2]), None),
        (retrained(A=[np.nan] * 2, B=[np.nan] * 2), None),
        (retrained(A=[np.nan] * 2, B=[1, 2]), None),
    ],
    ids=["one seed", "one architecture", "all diverged", "one left"],
)
def test_architecture_says_what_cannot_be_said(losses, effect):
    answer = answer_architecture(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["interval"]) == ("undetermined", effect, [None, None])
    assert "cannot be said" in answer["sentence"]
    assert "nan" not in answer["sentence"]
