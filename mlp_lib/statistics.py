"""Pure functions of tables of losses: summaries, regret, intervals and tests.

A table has a row a training; losses are in nats an example, and one that is not finite is of a training that diverged.
"""

import math
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mlp_lib.settings import HYPERPARAMETERS


def _summary(group: pd.DataFrame) -> dict[str, float]:
    losses, accuracies = group["test_loss"].to_numpy(float), group["test_accuracy"].to_numpy(float)
    finite = np.isfinite(losses)
    values = np.sort(losses[finite])  # sorted, so that the bits do not depend on the order of the rows
    n = len(values)
    return {
        "n": n,
        "mean": values.mean() if n else np.nan,
        "var": values.var(ddof=1) if n > 1 else np.nan,
        "min": values[0] if n else np.nan,
        "max": values[-1] if n else np.nan,
        "mean_accuracy": np.sort(accuracies[finite]).mean() if n else np.nan,
    }


def summarize(losses: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """A row a group, in order of first appearance: `by`, n, mean, var, min, max, mean_accuracy.

    `losses` has the columns `by`, test_loss and test_accuracy. n counts the finite losses, and everything else is over
    these; var is the sample variance (n - 1), NaN for n = 1; a group without a finite loss has n = 0 and NaN.
    """
    by = [by] if isinstance(by, str) else list(by)
    groups = losses.groupby(by, sort=False)
    rows = [dict(zip(by, key, strict=True)) | _summary(group) for key, group in groups]
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "var", "min", "max", "mean_accuracy"])


def mean_loss_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """Mean test loss over the finite seeds: rows are targets, columns sources; NaN where there is none.

    `losses` has the columns target, source, seed, test_loss. Targets come in order of first appearance, sources in the
    same order, and after them those that are no target.
    """
    targets, sources = losses["target"].unique(), losses["source"].unique()
    columns = [t for t in targets if t in sources] + [s for s in sources if s not in targets]
    summary = summarize(losses.assign(test_accuracy=np.nan), ["target", "source"])
    return summary.pivot(index="target", columns="source", values="mean").reindex(index=targets, columns=columns)


def regret_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """Mean test loss(target with the source's hyperparameters) - mean test loss(target with its own), in nats.

    Rows are targets, columns sources, the diagonal is exactly 0; the row of a target without an own result is NaN.
    """
    means, own = _means_and_own(losses)
    return means.sub(own, axis=0)


def relative_regret_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """The quotient of the same two means, transferred / own; the diagonal is exactly 1."""
    means, own = _means_and_own(losses)
    return means.div(own, axis=0)


def _means_and_own(losses: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    means = mean_loss_matrix(losses)
    return means, pd.Series({t: means.at[t, t] if t in means.columns else np.nan for t in means.index}, dtype=float)


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t interval of the finite values' mean; low and high are NaN below two values."""
    values = np.array([value for value in values if math.isfinite(value)], dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, math.nan
    mean = float(values.mean())
    # not stats.t.interval: that is NaN when the values are equal
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def p_value(difference: np.ndarray, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p of Student's t test of difference 0; without residual variance it is 1 at 0, else 0."""
    return 2 * p_beyond(np.abs(difference), 0.0, se, df)


def p_beyond(difference: np.ndarray, bound: float, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """One-sided p of Student's t test of difference <= bound against difference > bound."""
    distance = np.asarray(difference, dtype=float) - bound
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((np.asarray(se) == 0) & (distance == 0), 0.0, distance / np.asarray(se))
    return stats.t.sf(t, df)


def half_width(se: np.ndarray, df: np.ndarray, alpha: float) -> np.ndarray:
    """Half of Student's t interval of level 1 - alpha."""
    return stats.t.ppf(1 - alpha / 2, df) * np.asarray(se)


def adjust(p: np.ndarray, alpha: float, method: str) -> tuple[np.ndarray, np.ndarray]:
    """(adjusted p, rejected) of statsmodels' multipletests over the p values that are not NaN."""
    p = np.asarray(p, dtype=float)
    adjusted, rejected, tested = np.full(len(p), np.nan), np.zeros(len(p), dtype=bool), np.isfinite(p)
    if tested.any():
        rejected[tested], adjusted[tested], *_ = multipletests(p[tested], alpha, method)
    return adjusted, rejected


def blocked_differences(table: pd.DataFrame, pairs: Sequence[tuple[Hashable, Hashable]]) -> pd.DataFrame:
    """Differences of pairs of columns, blocked by row, with one residual variance pooled over all columns.

    The additive model value = column + row + error is fitted by least squares to the finite values: the randomized
    complete block design (Montgomery, Design and Analysis of Experiments, chapter 4). Complete columns of n rows give
    the mean paired difference, standard error sqrt(2 s2 / n) and (columns - 1)(n - 1) degrees of freedom.

    A row a pair: first, second, n (rows where both are finite), difference (first - second), se, df, and for
    comparison sd, the spread of the pair's own paired differences, beside the model's pooled_sd = sqrt(2 s2). All in
    the table's unit, of which 1 is a usual size: what is below 1e-12 is rounding and becomes 0. NaN: the difference of
    a pair that shares no row, se without degrees of freedom, sd of a single row.
    """
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
            fit = sm.OLS(values[finite], design).fit()
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


def best_trial(results: pd.DataFrame) -> pd.Series | None:
    """The completed trial of lowest validation loss (ties: the lowest number), or None if all diverged.

    results: the columns of search_results.csv.
    """
    finite = results[np.isfinite(results["val_loss"].astype(float))].sort_values("trial")
    return None if finite.empty else finite.loc[finite["val_loss"].idxmin()]


def consensus_trial(trials: pd.DataFrame) -> int | None:
    """The trial of best mean rank of validation loss over the architectures (ties: the lowest number).

    trials: architecture, and the columns of search_results.csv; a diverged trial shares the last rank; only the trials
    that all architectures have count. None without any, or where a trial's hyperparameters are not the same on all.
    """
    if (trials.groupby("trial")[list(HYPERPARAMETERS)].nunique() > 1).any(axis=None):
        return None
    losses = trials["val_loss"].astype(float)
    table = trials.assign(loss=losses.where(np.isfinite(losses), np.inf))
    ranks = table.pivot(index="trial", columns="architecture", values="loss").dropna().rank()
    return None if ranks.empty else int(ranks.mean(axis=1).idxmin())


def chosen(trials: pd.DataFrame) -> pd.DataFrame:
    """The trial that the search chose on each architecture, a row each.

    trials: architecture, the columns of search_results.csv, and `chosen` (whether it is that one).
    """
    return trials[trials["chosen"]].drop(columns="chosen").reset_index(drop=True)
