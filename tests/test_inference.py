"""Intervals and tests of differences, on tables small enough to do by hand, and against scipy and statsmodels."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from mlp_lib.evidence.intervals import (
    benjamini_hochberg,
    blocked_differences,
    by_own_spread,
    holm,
    mean_interval,
    p_above,
    spread_statistic,
)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_is_scipys(confidence):
    values = np.random.default_rng(2).normal(size=6)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean_interval([*values, np.nan], confidence) == pytest.approx((values.mean(), expected.low, expected.high))


def test_interval_of_few_or_equal_values():
    assert mean_interval([2, 2, 2], 0.95) == (2, 2, 2)
    np.testing.assert_equal(mean_interval([3], 0.95), (3, np.nan, np.nan))
    np.testing.assert_equal(mean_interval([np.nan], 0.95), (np.nan,) * 3)


def test_missing_values_are_statsmodels():
    table = pd.DataFrame(np.random.default_rng(4).normal(1, 0.1, (5, 4)), columns=list("wxyz"))
    table.iloc[0, 1] = table.iloc[1, 1] = table.iloc[2, 3] = np.inf
    rows = blocked_differences(table, [("x", "w"), ("x", "z")])
    long = table.set_axis(list("01234")).melt(ignore_index=False).reset_index(names="row")
    fit = smf.ols("value ~ variable + row", long[np.isfinite(long["value"])]).fit()  # against column w
    for row, contrast in zip(rows.itertuples(), ({"x": 1}, {"x": 1, "z": -1}), strict=True):
        names = [name.partition("[T.")[2].rstrip("]") if "variable" in name else "" for name in fit.params.index]
        test = fit.t_test(np.array([contrast.get(name, 0) for name in names]))
        assert (row.difference, row.se) == pytest.approx((test.effect.item(), test.sd.item()))
        assert row.df == test.df_denom == 17 - 8
    assert rows["n"].tolist() == [3, 2]


def test_differences_that_cannot_be_said():
    one_row = blocked_differences(pd.DataFrame({"x": [1.0], "y": [3.0]}), [("y", "x")]).iloc[0]
    assert one_row["difference"] == pytest.approx(2)
    assert one_row[["se", "sd", "pooled_sd"]].isna().all()
    disjoint = blocked_differences(pd.DataFrame({"x": [1, np.nan], "y": [np.nan, 2]}), [("x", "y")]).iloc[0]
    assert disjoint["n"] == 0
    assert disjoint[["difference", "se", "df"]].isna().all()
    assert blocked_differences(pd.DataFrame({"x": [1.0]}), []).empty


def test_p_without_variance():
    np.testing.assert_array_equal(p_above([0.0, 1.0, 1.0], [0.0, 0.0, np.nan], 4), [1, 0, np.nan])


def test_adjusted_p_by_hand():
    p = [0.01, np.nan, 0.04, 0.03, 0.5]
    np.testing.assert_allclose(holm(p), [0.04, np.nan, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5])
    assert np.isnan(holm([np.nan])).all()
    assert np.isnan(benjamini_hochberg([np.nan])).all()


def test_pairs_are_tested_by_their_own_spread_where_spreads_differ():
    noise = np.random.default_rng(5).normal(0, 0.03, (8, 4))
    even = pd.DataFrame(noise, columns=list("wxyz"))
    uneven = even.assign(w=10 * even["w"])
    pairs = [("w", "x"), ("y", "z")]
    pooled, own = (by_own_spread(blocked_differences(t, pairs), [t], 0.05) for t in (even, uneven))
    assert pooled["df"].tolist() == [21, 21]
    assert own["df"].tolist() == [7, 7]
    for row, (first, second) in zip(own.itertuples(), pairs, strict=True):
        test = stats.ttest_rel(uneven[first], uneven[second])
        assert row.difference / row.se == pytest.approx(test.statistic)
    residuals = even.sub(even.mean(axis=1), axis=0)
    statistic, df = spread_statistic(even + np.arange(8)[:, None])  # what is common to a row is no spread
    assert (statistic, df) == (pytest.approx(stats.bartlett(*(residuals - residuals.mean()).T.to_numpy())[0]), 3)
    assert spread_statistic(even[["w", "x"]]) == (0, 0)
