"""Pure functions of a run's tables: whether tuned architectures end at practically the same test loss.

Everything is blocked by run seed: architectures trained with one seed share its batches, and their losses correlate.
`confidence` 0.95 means tests at alpha = 1 - 0.95; `margin` 0.05 means that up to 5 % more loss is practically the same.
"""

import bisect
import itertools
import math

import numpy as np
import pandas as pd
import scipy

from mlp_lib.evidence.intervals import (
    as_quotients,
    basis_text,
    blocked_differences,
    by_own_spread,
    p_above,
    plain_answer,
)
from mlp_lib.evidence.summaries import mean_error, short_name
from mlp_lib.evidence.verdicts import (
    ONE_ARCHITECTURE,
    VERDICTS,
    architecture_end,
    architecture_verdict,
    deciding_half_width,
    difference_tests,
    difference_verdicts,
    interval_kind,
)

PAIRS = (
    *("upper", "lower", "n", "diverged", "difference", "relative", "low", "high", "p", "p_adjusted", "p_beyond"),
    *("p_equivalence", "sd", "pooled_sd", "df", "verdict"),
    *("upper_error", "lower_error"),
)
MAX_SEEDS = 10_000  # where the search for a number of seeds gives up


def losses_by_seed(losses: pd.DataFrame) -> pd.DataFrame:
    """[seeds x architectures] of test losses in nats, NaN where a training diverged; wholly diverged ones left out.

    losses: architecture, seed, test_loss.
    """
    table = losses.pivot(index="seed", columns="architecture", values="test_loss")[losses["architecture"].unique()]
    return table.where(np.isfinite(table)).dropna(how="all").dropna(how="all", axis=1)


def architecture_anova(losses: pd.DataFrame) -> pd.DataFrame:
    """The analysis of variance of test loss ~ architecture + seed: rows architecture, seed, residual.

    losses: architecture, seed, test_loss; only seeds at which no architecture (but wholly diverged ones) diverged, so
    that the two factors are orthogonal. Columns: df, sum_sq (nats^2), mean_sq, F, p (statsmodels' anova_lm); sd, the
    standard deviation (nats) that the factor adds to one loss by the method of moments,
    (mean_sq - residual mean_sq) / levels of the other factor, not below 0; share, its part of the sum of variances.
    NaN with less than two seeds or architectures.
    """
    table = losses_by_seed(losses).dropna()
    columns = ["df", "sum_sq", "mean_sq", "F", "p", "sd", "share"]
    anova = pd.DataFrame(np.nan, index=pd.Index(["architecture", "seed", "residual"], name="source"), columns=columns)
    if min(table.shape) < 2:
        return anova
    from statsmodels.formula.api import ols  # half a second, which only what shows it takes
    from statsmodels.stats.anova import anova_lm

    long = table.melt(ignore_index=False, value_name="test_loss").reset_index()
    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = anova_lm(ols("test_loss ~ C(architecture) + C(seed)", long).fit())
    anova[columns[:5]] = fitted[["df", "sum_sq", "mean_sq", "F", "PR(>F)"]].to_numpy()
    mean_sq = anova["mean_sq"]
    variance = ((mean_sq - mean_sq["residual"]) / [*table.shape, np.nan]).clip(lower=0)
    variance["residual"] = mean_sq["residual"]
    return anova.assign(sd=np.sqrt(variance), share=variance / variance.sum() if variance.sum() > 0 else np.nan)


def same_seed_correlation(anova: pd.DataFrame) -> float:
    """The correlation of two architectures' losses at one seed: seed variance / (seed + residual variance).

    The intraclass correlation ICC(3, 1) of Shrout & Fleiss (1979) with architectures as raters, not below 0; of
    architecture_anova's rows.
    """
    variance = anova["sd"] ** 2
    total = variance["seed"] + variance["residual"]
    return float(variance["seed"] / total) if total > 0 else math.nan


def architecture_pairs(losses: pd.DataFrame, margin: float, confidence: float) -> pd.DataFrame:
    """The differences of test loss between all pairs of architectures: a row a pair, the larger mean as `upper`.

    losses: architecture, seed, test_loss. Differences are of log losses, so that what far architectures do changes
    nothing between near ones, paired by seed, with the residual variance pooled over all architectures
    (`blocked_differences`) unless their spreads differ (`by_own_spread`).

    Columns: upper, lower, n (shared seeds), diverged (trainings of the two), difference (of means, nats), relative
    (upper / lower - 1, of geometric means); low and high, its interval by the test that gave the pair its verdict
    (`deciding_half_width`); p (Student's), p_adjusted (Holm 1979), p_beyond (of a difference beyond the margin; Holm);
    p_equivalence, of the two one-sided tests at the margin; of log losses sd, of the pair's own paired differences,
    beside pooled_sd; df. verdict: see `difference_tests`; `equivalent` only if nothing diverged. So a difference that
    is certain but certainly within the margin is equivalent. upper_error, lower_error: means of 1 - accuracy.
    """
    alpha, bound, table = 1 - confidence, math.log1p(margin), losses_by_seed(losses)
    logs = np.log(table)
    rows = by_own_spread(blocked_differences(logs, list(itertools.combinations(table.columns, 2))), [logs], alpha)
    log, se, df = rows["difference"], rows["se"], rows["df"]
    diverged = (~np.isfinite(losses["test_loss"])).groupby(losses["architecture"]).sum()
    rows["diverged"] = rows["first"].map(diverged) + rows["second"].map(diverged)

    rows["p"] = np.minimum(2 * p_above(log.abs(), se, df), 1)
    tests = difference_tests(log, bound, se, df)
    rows["p_equivalence"], rows["p_beyond"], rows["p_adjusted"] = tests.values()
    tests["equivalent"] = np.where(rows["diverged"] == 0, tests["equivalent"], np.nan)
    rows["verdict"] = difference_verdicts(tests, alpha)
    half = deciding_half_width(rows["verdict"], log, bound, se, df, alpha)
    rows = as_quotients(rows.assign(low=log - half, high=log + half))
    means, errors = table.mean(), mean_error(losses, ["architecture"])
    rows["difference"] = (rows["upper"].map(means) - rows["lower"].map(means)).where(log.notna())
    rows["upper_error"], rows["lower_error"] = rows["upper"].map(errors), rows["lower"].map(errors)
    return rows[list(PAIRS)]


def seeds_of_pairs(pairs: pd.DataFrame, architectures: int, margin: float, confidence: float) -> dict:
    """seeds_to_decide of the largest spread by which the pairs (of architecture_pairs) were tested."""
    own = bool((pairs["df"] == pairs["n"] - 1).all())
    return seeds_to_decide(pairs["sd" if own else "pooled_sd"].max(), architectures, margin, confidence, own)


def seeds_to_decide(
    sd: float, architectures: int, margin: float, confidence: float, own: bool = False, power: float = 0.8
) -> dict:
    """How many seeds would decide, as numbers of seeds; None where it is unknown or above 10,000.

    sd: of a paired difference of logs (architecture_pairs), pooled or a pair's own. Each number is the smallest n
    with the power, by Student's noncentral t with (architectures - 1)(n - 1) degrees of freedom, of its own n - 1:
    pair_equivalent: the two one-sided tests of a pair without difference succeed (a bound: 1 - 2 P(one fails));
    all_equivalent: they succeed for all pairs of equal architectures (the range of as many normal means, with the
    spread taken as known); different: a pair that differs by just the margin is found at Bonferroni's level.
    """
    alpha, pairs, a_seed = 1 - confidence, math.comb(architectures, 2), 1 if own else architectures - 1
    if not (sd > 0 and pairs):
        return {"pair_equivalent": None, "all_equivalent": None, "different": None}

    def distance(n: int) -> float:
        return math.log1p(margin) * math.sqrt(n) / sd  # the margin in standard errors of a difference

    def quantile(n: int, level: float) -> float:
        return scipy.stats.t.ppf(1 - level, a_seed * (n - 1))

    def pair_equivalent(n: int) -> float:
        return 1 - 2 * scipy.stats.nct.cdf(quantile(n, alpha), a_seed * (n - 1), distance(n))

    def all_equivalent(n: int) -> float:
        room = math.sqrt(2) * (distance(n) - quantile(n, alpha))
        return scipy.stats.studentized_range.cdf(room, architectures, np.inf) if room > 0 else 0.0

    def different(n: int) -> float:
        return scipy.stats.nct.sf(quantile(n, alpha / pairs / 2), a_seed * (n - 1), distance(n))

    chances = {"pair_equivalent": pair_equivalent, "all_equivalent": all_equivalent, "different": different}
    return {name: _smallest(chance, power) for name, chance in chances.items()}


def _smallest(chance, power: float) -> int | None:
    """The smallest number of seeds from 2 at which chance(n), which grows with n, reaches the power."""
    n = bisect.bisect_left(range(MAX_SEEDS + 1), power, lo=2, key=chance)
    return n if n <= MAX_SEEDS else None


def answer_architecture(losses: pd.DataFrame, margin: float, confidence: float) -> dict:
    """Does the architecture matter? Plain values: verdict, effect, interval, confidence, margin, n, sentence and more.

    losses: architecture, seed, test_loss. The rule is that of `architecture_verdict`, of the verdicts of all pairs
    (architecture_pairs); `equivalent` only if no training diverged.
    The effect is the quotient less 1 of one pair, `pair`: the clearest (lowest p) of those with the answer's verdict,
    of `equivalent` and `undetermined` the pair whose difference may be the largest; with the interval of its test, of
    which `interval_kind` tells the level. n is its number of seeds; `pairs` counts a verdict, `seeds_to_decide` how
    many seeds would (80 % power; see there).
    """
    number, diverged = losses["architecture"].nunique(), int((~np.isfinite(losses["test_loss"])).sum())
    pairs = architecture_pairs(losses, margin, confidence)
    counts = {name: int((pairs["verdict"] == name).sum()) for name in VERDICTS}
    verdict = architecture_verdict(pairs["verdict"])
    verdict = "undetermined" if verdict == "equivalent" and diverged else verdict
    seeds = seeds_of_pairs(pairs, number, margin, confidence)
    estimate, n, names, kind = (math.nan,) * 3, 0, None, None
    why = ONE_ARCHITECTURE if number == 1 else "No two architectures have finite losses at one seed"
    sentence = f"{why}, so whether the architecture matters cannot be said."
    compared = pairs[pairs["n"] > 0]
    if len(compared):
        shown = _shown(compared, verdict)
        estimate, n = tuple(shown[["relative", "low", "high"]].astype(float)), int(shown["n"])
        names = {"upper": shown["upper"], "lower": shown["lower"]}
        end = architecture_end(verdict, counts, margin)
        if math.isnan(estimate[1]):
            end = "one seed gives no interval, so whether the architecture matters cannot be said."
        else:
            kind = interval_kind(shown["verdict"], confidence)
        which = "the largest" if shown["relative"] == pairs["relative"].max() else "a"
        what = " above ".join(map(short_name, names.values()))
        claim = f"difference of test loss between two of {number} architectures, {what}, is {estimate[0]:.2%}"
        basis = basis_text(estimate[1:], kind, (len(pairs), "pair"), (n, "seed"))
        sentence = f"For these hyperparameters only: {which} {claim} {basis}: {end}"
    if verdict == "undetermined" and kind:
        sentence += _more_seeds(seeds, n, margin)
    if diverged:
        sentence += f" Not counted: {diverged} of {len(losses)} trainings diverged or were not trained."
    more = {"interval_kind": kind and kind.replace("%", " %"), "pair": names, "pairs": counts, "seeds_to_decide": seeds}
    return plain_answer(verdict, estimate, confidence, margin, n, sentence) | more


def _shown(pairs: pd.DataFrame, verdict: str) -> pd.Series:
    """The pair that an answer shows: the clearest that differs, else the one whose difference may be the largest."""
    if verdict.startswith("different"):
        p = {"different_beyond_margin": "p_beyond", "different": "p"}[verdict]
        among = pairs[pairs["verdict"] == verdict]
        return among.sort_values([p, "relative"], ascending=[True, False], kind="stable").iloc[0]
    return pairs.loc[pairs["high"].fillna(pairs["relative"]).idxmax()]


def _more_seeds(seeds: dict, n: int, margin: float) -> str:
    ends = {
        "all_equivalent": "equivalence if there is no difference",
        "different": f"a difference of {100 * margin:g}%",
    }
    wanted = [f"{seeds[name]} seeds would show {end}" for name, end in ends.items() if (seeds[name] or 0) > n]
    return f" With 80% power {', '.join(wanted)}." if wanted else ""
