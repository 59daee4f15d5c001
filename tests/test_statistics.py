"""Summaries, regret and choices, on tables small enough to do by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from test_evidence import A, B, C, transfer

from mlp_lib.evidence.summaries import chosen, mean_loss_matrix, regret_matrix, relative_regret_matrix, summarize


def test_summary_by_hand():
    losses = pd.DataFrame({"architecture": [B, A, B, A, C, B], "seed": [1, 1, 2, 2, 1, 3]})
    losses["test_loss"] = [0.25, 0.5, 0.75, np.nan, np.nan, 0.5]
    losses["test_accuracy"] = [0.75, 0.5, 1.0, np.nan, np.nan, 0.5]
    summary = summarize(losses, ["architecture"])
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


def test_the_chosen_trials_begin_with_their_architecture() -> None:
    trials = pd.DataFrame({"trial": [0, 1, 0], "chosen": [False, True, True], "architecture": ["a", "a", "b"]})
    found = chosen(trials)
    assert found.to_dict("list") == {"architecture": ["a", "b"], "trial": [1, 0]}
    assert list(found) == ["architecture", "trial"]
