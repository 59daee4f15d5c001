"""Pure functions of tables of test losses: summaries, regret, and the two answers.

A table has a row a training; losses are in nats an example, and one that is not finite is of a training that diverged.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def _finite(losses: pd.DataFrame) -> pd.DataFrame:
    """The rows of the trainings that did not diverge."""
    return losses[np.isfinite(losses["test_loss"])]


def _summary(group: pd.DataFrame) -> dict[str, float]:
    group = _finite(group)
    n = len(group)
    values = np.sort(group["test_loss"])  # sorted, so that the bits do not depend on the order of the rows
    return {
        "n": n,
        "mean": values.mean() if n else np.nan,
        "var": values.var(ddof=1) if n > 1 else np.nan,
        "min": values[0] if n else np.nan,
        "max": values[-1] if n else np.nan,
        "mean_accuracy": np.sort(group["test_accuracy"]).mean() if n else np.nan,
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


def answer_transfer(losses: pd.DataFrame, margin: float, confidence: float) -> dict:
    """Do hyperparameters transfer? A dict of plain values: verdict, effect, interval, confidence, margin, n, sentence.

    `losses` has the columns target, source, seed, test_loss. The effect is relative regret - 1, averaged over the
    pairs (target, another source) at each seed, then over the n seeds; the interval is Student's t over the seeds, so
    it speaks of these architectures and hyperparameters only. The verdict is `transfers` if the interval lies wholly
    below +margin, `does_not_transfer` if wholly above, else `undetermined`. A pair counts at the seeds where both
    losses are finite; if only the transferred training diverged, its cost is no number: then never `transfers`.
    """
    own = _finite(losses[losses["target"] == losses["source"]])[["target", "seed", "test_loss"]]
    tried = losses[losses["target"] != losses["source"]].merge(own, on=["target", "seed"], suffixes=("", "_own"))
    pairs = _finite(tried)
    by_seed = (pairs["test_loss"] / pairs["test_loss_own"] - 1).groupby(pairs["seed"]).mean()
    n, diverged = len(by_seed), len(tried) - len(pairs)
    effect, low, high = estimate = mean_interval(by_seed, confidence)
    bound = f"the {100 * margin:g}% margin"
    verdict, conclusion = "undetermined", f"the interval contains {bound}, so the question stays open."
    if n == 0:
        conclusion = "Whether hyperparameters transfer cannot be said: no target has finite test losses both ways."
    elif math.isnan(low):
        conclusion = "one seed gives no interval, so whether they transfer cannot be said."
    elif low > margin:
        verdict, conclusion = "does_not_transfer", f"above {bound}, so they do not transfer."
    elif high < margin and diverged:
        conclusion = f"below {bound}, but for the trainings that diverged, so the question stays open."
    elif high < margin:
        verdict, conclusion = "transfers", f"below {bound}, so they transfer."

    claim = f"Using another architecture's hyperparameters changes the test loss by {effect:+.2%} on average"
    basis = _basis(low, high, confidence, len(pairs[["target", "source"]].drop_duplicates()), n)
    sentence = f"{claim} {basis}: {conclusion}" if n else conclusion
    if diverged:
        sentence += f" Not counted: {diverged} of {len(tried)} trainings with transferred hyperparameters diverged."
    return _answer(verdict, estimate, confidence, margin, n, sentence)


def _paired_differences(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """A row a pair of the columns, the larger mean as `upper`: upper, lower, n, effect, low, high (Bonferroni)."""
    pairs = list(itertools.combinations(table.columns, 2))
    rows = []
    for upper, lower in pairs:
        difference = (table[upper] - table[lower]).dropna()  # over the seeds that both have
        if difference.mean() < 0:
            upper, lower, difference = lower, upper, -difference
        rows.append((upper, lower, len(difference), *mean_interval(difference, 1 - (1 - confidence) / len(pairs))))
    return pd.DataFrame(rows, columns=["upper", "lower", "n", "effect", "low", "high"])


def answer_architecture(losses: pd.DataFrame, margin: float, confidence: float) -> dict:
    """Does the architecture matter? A dict of plain values: verdict, effect, interval, confidence, margin, n, sentence.

    `losses` has the columns architecture, seed, test_loss. For each pair of architectures: the mean difference of
    test losses over the seeds that both have, relative to the grand mean (taken as known), with a t interval, paired
    by seed and Bonferroni over the pairs. The effect is the largest difference, with its pair's interval and n. The
    verdict is `equivalent` if all intervals lie within +-margin and no training diverged, `different` if any lies
    wholly outside, else `undetermined`. (`equivalent` is strict: two one-sided tests would need no Bonferroni.)
    """
    table = _finite(losses).pivot(index="seed", columns="architecture", values="test_loss")
    number, diverged = losses["architecture"].nunique(), len(losses) - len(_finite(losses))
    pairs = _paired_differences(table / table.mean().mean(), confidence)
    bound = f"the {100 * margin:g}% margin"
    verdict, conclusion = "undetermined", f"the intervals leave open on which side of {bound} the differences lie."
    if (pairs["low"] > margin).any():
        verdict, conclusion = "different", f"some interval lies wholly beyond {bound}, so the architecture matters."
    elif len(pairs) and not diverged and ((pairs["low"] >= -margin) & (pairs["high"] <= margin)).all():
        verdict, conclusion = "equivalent", f"all intervals lie within {bound}, so the architectures are equivalent."
    elif not pairs["n"].gt(1).any():
        conclusion = "one seed gives no interval, so whether the architecture matters cannot be said."

    estimate, n = [math.nan] * 3, 0
    sentence = "Whether the architecture matters cannot be said: no two architectures have finite losses at one seed."
    if pairs["n"].any():
        largest = pairs.loc[pairs["effect"].idxmax()]
        estimate, n = largest[["effect", "low", "high"]], largest["n"]
        names = " above ".join(largest[end].removeprefix("mlp_") for end in ("upper", "lower"))
        claim = f"The largest difference of test loss between two of {number} architectures, {names}, is"
        basis = _basis(*estimate[1:], confidence, len(pairs), n)
        sentence = f"{claim} {estimate.iloc[0]:.2%} of the mean {basis}: {conclusion}"
    if diverged:
        sentence += f" Not counted: {diverged} of {len(losses)} trainings diverged."
    return _answer(verdict, estimate, confidence, margin, n, sentence)


def _answer(verdict, estimate, confidence, margin, n, sentence) -> dict:
    """The answer as plain values; what is not a number becomes None, which YAML can say."""
    effect, *interval = (None if math.isnan(value) else float(value) for value in estimate)
    answer = {"verdict": verdict, "effect": effect, "interval": interval, "confidence": float(confidence)}
    return answer | {"margin": float(margin), "n": int(n), "sentence": sentence.replace("%", " %")}


def _basis(low: float, high: float, confidence: float, pairs: int, seeds: int) -> str:
    interval = "" if math.isnan(low) else f"{100 * confidence:g}% interval {low:+.2%} to {high:+.2%}, "
    return f"({interval}{pairs} pair{'' if pairs == 1 else 's'}, {seeds} seed{'' if seeds == 1 else 's'})"


def best_trial(results: pd.DataFrame) -> pd.Series | None:
    """The completed trial of lowest validation loss (ties: the lowest number), or None if all diverged.

    results: the columns of search_results.csv.
    """
    finite = results[np.isfinite(results["val_loss"].astype(float))].sort_values("trial")
    return None if finite.empty else finite.loc[finite["val_loss"].idxmin()]


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """The best trial of each architecture, a row each: search_results.csv's columns with `architecture` first."""
    best = [best_trial(group) for _, group in results.groupby("architecture", sort=False)]
    return pd.DataFrame([row for row in best if row is not None]).reset_index(drop=True)
