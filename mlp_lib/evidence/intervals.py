"""Intervals and tests of differences, on which the answers stand."""

import itertools
import math
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import scipy


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t interval of the finite values' mean; low and high are NaN below two values."""
    values = np.array([value for value in values if math.isfinite(value)], dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, math.nan
    mean = float(values.mean())
    # not scipy.stats.t.interval: that is NaN when the values are equal
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def p_above(distance: np.ndarray, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """One-sided p of Student's t test that a distance is above 0: without any spread 0 where it is, else 1."""
    distance, se = np.asarray(distance, dtype=float), np.asarray(se, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = scipy.stats.t.sf(distance / se, df)
    return np.where((se == 0) & np.isfinite(distance), np.where(distance > 0, 0.0, 1.0), p)


def half_width(se: np.ndarray, df: np.ndarray, alpha: float) -> np.ndarray:
    """Half of Student's t interval of level 1 - alpha."""
    return scipy.stats.t.ppf(1 - alpha / 2, df) * np.asarray(se)


def satterthwaite(variances: np.ndarray, df: np.ndarray) -> float:
    """The degrees of freedom of a sum of independent variances, each of so many (Satterthwaite 1946)."""
    total = variances.sum()
    return total**2 / (variances**2 / df).sum() if total > 0 else df.min()


def jackknife(values: np.ndarray) -> np.ndarray:
    """The variance of estimates [..., 1 + T]: on all of T, then without each of them.

    (T - 1) / T times the sum of squares of the latter around their mean (Efron & Stein 1981, "The jackknife estimate
    of variance").
    """
    return (values.shape[-1] - 2) * values[..., 1:].var(axis=-1)


def holm(p: np.ndarray) -> np.ndarray:
    """The p values that are not NaN adjusted by Holm's (1979) step-down procedure.

    statsmodels' does the same and collects garbage at each call, which takes longer than everything else here.
    """
    return np.minimum(_stepped(p), 1)


def holm_level(p: np.ndarray, alpha: float) -> np.ndarray:
    """The level at which each p is significant alone just where `holm` calls it significant at alpha."""
    p, stepped = np.asarray(p, dtype=float), _stepped(p)
    return alpha * np.divide(p, stepped, out=np.full(len(p), 1 / max(len(p), 1)), where=stepped != 0)


def _stepped(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values before 1 limits them; NaN stays NaN."""
    p = np.asarray(p, dtype=float)
    adjusted, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """The p values that are not NaN adjusted by Benjamini & Hochberg (1995)."""
    p = np.asarray(p, dtype=float)
    adjusted, tested = np.full(len(p), np.nan), ~np.isnan(p)
    adjusted[tested] = scipy.stats.false_discovery_control(p[tested]) if tested.any() else []
    return adjusted


def blocked_differences(table: pd.DataFrame, pairs: Sequence[tuple[Hashable, Hashable]]) -> pd.DataFrame:
    """Differences of pairs of columns, blocked by row, with one residual variance pooled over all columns.

    The additive model value = column + row + error is fitted by least squares to the finite values: the randomized
    complete block design (Montgomery, Design and Analysis of Experiments, chapter 4). Complete columns of n rows give
    the mean paired difference, standard error sqrt(2 s2 / n) and (columns - 1)(n - 1) degrees of freedom.

    A row a pair: first, second, n (rows where both are finite), difference (first - second), se, df, and for
    comparison sd, the spread of the pair's own paired differences, beside the model's pooled_sd = sqrt(2 s2). All in
    the table's unit, of which 1 is a usual size: what is below 1e-12 is rounding and becomes 0. NaN: the difference of
    a pair that shares no row, se without degrees of freedom, sd of a single row. Whether one variance serves all,
    `spread_statistic` tests.
    """
    from statsmodels.regression.linear_model import OLS  # half a second, which only what shows it takes

    values = np.where(np.isfinite(table), table, np.nan)
    finite = np.isfinite(values)
    first, second = (table.columns.get_indexer([pair[end] for pair in pairs]) for end in (0, 1))
    n = (finite[:, first] & finite[:, second]).sum(axis=0)
    numbers = np.full((5, len(pairs)), np.nan)
    if n.any():
        row, column = np.nonzero(finite)
        design = np.hstack([np.eye(values.shape[1])[column], np.eye(values.shape[0])[row][:, 1:]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty column makes it singular; what shares a row is still unique
            fit = OLS(values[finite], design).fit()
        mean, cov, df = fit.params, fit.normalized_cov_params, fit.df_resid
        s2 = fit.ssr / df if df > 0 else np.nan
        numbers[0] = mean[first] - mean[second]
        numbers[1] = np.sqrt(s2 * (cov[first, first] + cov[second, second] - 2 * cov[first, second]))
        numbers[2], numbers[4] = df, np.sqrt(2 * s2)
        numbers[3, n > 1] = np.nanstd((values[:, first] - values[:, second])[:, n > 1], axis=0, ddof=1)
        numbers = np.where(np.abs(numbers) < 1e-12, 0.0, numbers)
        numbers[:, n == 0] = np.nan
    names = {"first": [pair[0] for pair in pairs], "second": [pair[1] for pair in pairs]}
    return pd.DataFrame(
        names | {"n": n} | dict(zip(("difference", "se", "df", "sd", "pooled_sd"), numbers, strict=True))
    )


def spread_statistic(table: pd.DataFrame) -> tuple[float, int]:
    """(Bartlett's statistic, degrees of freedom) of equal spreads of the columns, blocked by row; (0, 0): untested.

    Of the residuals of column + row, over the rows without missing values: those of two columns are the same.
    """
    values = table.where(np.isfinite(table)).dropna().to_numpy(float)
    if min(values.shape) < 3:
        return 0.0, 0
    residuals = values - values.mean(axis=1, keepdims=True)
    residuals -= residuals.mean(axis=0)
    if (np.abs(residuals).max(axis=0) < 1e-12).any():
        return 0.0, 0
    return float(scipy.stats.bartlett(*residuals.T).statistic), values.shape[1] - 1


def by_own_spread(rows: pd.DataFrame, tables: Sequence[pd.DataFrame], alpha: float) -> pd.DataFrame:
    """Rows of blocked_differences with the pooled variance where the tables' spreads may be equal, else each its own.

    Where Bartlett's test, over all tables together, rejects equal spreads at alpha, a pair's se is that of its own
    paired differences, with n - 1 degrees of freedom.
    """
    statistic, df = np.sum([spread_statistic(table) for table in tables], axis=0)
    if not df or scipy.stats.chi2.sf(statistic, df) > alpha:
        return rows
    n = rows["n"].where(rows["n"] > 1)
    return rows.assign(se=rows["sd"] / np.sqrt(n), df=n - 1)


def greater_first(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs (first, second, difference of logs, low, high) so turned that no difference is negative: upper, lower."""
    swap, ends = pairs["difference"] < 0, pairs[["difference", "low", "high"]]
    turned = -ends.rename(columns={"low": "high", "high": "low"})
    upper, lower = pairs["first"].mask(swap, pairs["second"]), pairs["second"].mask(swap, pairs["first"])
    return pairs.assign(upper=upper, lower=lower, **ends.mask(swap, turned[ends.columns]))


def as_quotients(pairs: pd.DataFrame) -> pd.DataFrame:
    """Those of `greater_first` with the quotients less 1: relative, low, high."""
    turned = greater_first(pairs)
    relative, low, high = (np.expm1(turned[name]) for name in ("difference", "low", "high"))
    return turned.assign(relative=relative, low=low, high=high)


def basis_text(interval: tuple[float, ...], kind: str | None, *counted: tuple[int, str]) -> str:
    """What an effect stands on: its interval, of that kind, if it has one, and (number, noun) of what it is over."""
    low, high = interval
    told = [] if math.isnan(low) else [f"{kind} {low:+.2%} to {high:+.2%}"]
    return f"({', '.join([*told, *itertools.starmap(count_text, counted)])})"


def count_text(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def plain_answer(
    verdict: str, estimate: tuple[float, ...], confidence: float, margin: float, n: int, sentence: str
) -> dict:
    """The answer as plain values; what is not a number becomes None, which YAML can say."""
    effect, *interval = (None if math.isnan(value) else float(value) for value in estimate)
    answer = {"verdict": verdict, "effect": effect, "interval": interval, "confidence": float(confidence)}
    return answer | {"margin": float(margin), "n": int(n), "sentence": sentence.replace("%", " %")}
