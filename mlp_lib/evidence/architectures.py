"""Pure functions of a run's tables: whether tuned architectures end at practically the same test loss.

Everything is blocked by run seed: architectures trained with one seed share its batches, and their losses correlate.
`confidence` 0.95 means tests at alpha = 1 - 0.95; `margin` 0.05 means that up to 5 % of the grand mean is practically
the same.
"""

import bisect
import itertools
import math

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from mlp_lib.evidence.intervals import (
    adjust,
    basis_text,
    blocked_differences,
    half_width,
    p_beyond,
    p_value,
    plain_answer,
)

PAIRS = (
    *("upper", "lower", "n", "diverged", "difference", "relative", "low", "high", "p", "p_adjusted"),
    *("equivalence_low", "equivalence_high", "p_equivalence", "sd", "pooled_sd", "df", "verdict"),
)
MAX_SEEDS = 10_000  # where the search for a number of seeds gives up


def losses_by_seed(losses: pd.DataFrame) -> pd.DataFrame:
    """[seeds x architectures] of test losses in nats, NaN where a training diverged; wholly diverged ones left out.

    losses: architecture, seed, test_loss.
    """
    table = losses.pivot(index="seed", columns="architecture", values="test_loss")[losses["architecture"].unique()]
    return table.where(np.isfinite(table)).dropna(how="all").dropna(how="all", axis=1)


def grand_mean(losses: pd.DataFrame) -> float:
    """The mean of the architectures' mean test losses, in nats; NaN without any."""
    return float(losses_by_seed(losses).mean().mean())


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

    losses: architecture, seed, test_loss. Differences are paired by seed, with the residual variance pooled over all
    architectures (`blocked_differences`), and stated as parts of the grand mean, which is taken as known.

    Columns: upper, lower, n (shared seeds), diverged (trainings of the two), difference (nats), relative; low and high,
    the simultaneous interval of relative (Bonferroni over the pairs); p (Student's), p_adjusted (Holm 1979);
    equivalence_low and equivalence_high, the interval of level 1 - 2 alpha, and p_equivalence, of the two one-sided
    tests at +-margin (TOST, Schuirmann 1987: p <= alpha where the interval lies within the margin); sd, of the pair's
    own paired differences, beside pooled_sd, df.
    verdict: `equivalent` if p_equivalence <= alpha and nothing diverged; else `different` if p_adjusted <= alpha; else
    `undetermined`. So a difference that is certain but certainly within the margin is equivalent.
    """
    alpha, table, mean = 1 - confidence, losses_by_seed(losses), grand_mean(losses)
    rows = blocked_differences(table / mean, list(itertools.combinations(table.columns, 2)))
    swap = rows["difference"] < 0
    rows["upper"], rows["lower"] = rows["first"].mask(swap, rows["second"]), rows["second"].mask(swap, rows["first"])
    rows["relative"], se, df = rows["difference"].abs(), rows["se"], rows["df"]
    rows["difference"] = rows["relative"] * mean
    diverged = (~np.isfinite(losses["test_loss"])).groupby(losses["architecture"]).sum()
    rows["diverged"] = rows["upper"].map(diverged) + rows["lower"].map(diverged)

    rows["p"] = p_value(rows["relative"], se, df)
    rows["p_adjusted"], _ = adjust(rows["p"], alpha, "holm")
    below, above = p_beyond(rows["relative"], -margin, se, df), p_beyond(-rows["relative"], -margin, se, df)
    rows["p_equivalence"] = np.maximum(below, above)
    for name, level in (("", alpha / max(rows["p"].notna().sum(), 1)), ("equivalence_", min(2 * alpha, 1))):
        half = half_width(se, df, level)
        rows[f"{name}low"], rows[f"{name}high"] = rows["relative"] - half, rows["relative"] + half
    equivalent = (rows["p_equivalence"] <= alpha) & (rows["diverged"] == 0)
    verdicts = np.where(rows["p_adjusted"] <= alpha, "different", "undetermined")
    rows["verdict"] = np.where(equivalent, "equivalent", verdicts)
    return rows[list(PAIRS)]


def seeds_to_decide(pooled_sd: float, architectures: int, margin: float, confidence: float, power: float = 0.8) -> dict:
    """How many seeds would decide, as numbers of seeds; None where it is unknown or above 10,000.

    pooled_sd: of a paired difference, as a part of the grand mean (architecture_pairs). Each number is the smallest n
    with the power, by Student's noncentral t with (architectures - 1)(n - 1) degrees of freedom:
    pair_equivalent: the two one-sided tests of a pair without difference succeed (a bound: 1 - 2 P(one fails));
    all_equivalent: they succeed for all pairs of equal architectures (the range of as many normal means, with the
    spread taken as known); different: a pair that differs by just the margin is found at Bonferroni's level.
    """
    alpha, pairs = 1 - confidence, math.comb(architectures, 2)
    if not (pooled_sd > 0 and pairs):
        return {"pair_equivalent": None, "all_equivalent": None, "different": None}

    def distance(n: int) -> float:
        return margin * math.sqrt(n) / pooled_sd  # the margin in standard errors of a difference

    def quantile(n: int, level: float) -> float:
        return stats.t.ppf(1 - level, (architectures - 1) * (n - 1))

    def pair_equivalent(n: int) -> float:
        return 1 - 2 * stats.nct.cdf(quantile(n, alpha), (architectures - 1) * (n - 1), distance(n))

    def all_equivalent(n: int) -> float:
        room = math.sqrt(2) * (distance(n) - quantile(n, alpha))
        return stats.studentized_range.cdf(room, architectures, np.inf) if room > 0 else 0.0

    def different(n: int) -> float:
        return stats.nct.sf(quantile(n, alpha / pairs / 2), (architectures - 1) * (n - 1), distance(n))

    chances = {"pair_equivalent": pair_equivalent, "all_equivalent": all_equivalent, "different": different}
    return {name: _smallest(chance, power) for name, chance in chances.items()}


def _smallest(chance, power: float) -> int | None:
    """The smallest number of seeds from 2 at which chance(n), which grows with n, reaches the power."""
    n = bisect.bisect_left(range(MAX_SEEDS + 1), power, lo=2, key=chance)
    return n if n <= MAX_SEEDS else None


def answer_architecture(losses: pd.DataFrame, margin: float, confidence: float) -> dict:
    """Does the architecture matter? Plain values: verdict, effect, interval, confidence, margin, n, sentence and more.

    losses: architecture, seed, test_loss. From architecture_pairs, with alpha = 1 - confidence, the first that holds:
    `equivalent`: every pair passes the two one-sided tests at +-margin, and no training diverged. All must pass, so
    each is tested at alpha (an intersection-union test: Berger 1982), by its interval of level 1 - 2 alpha;
    `different`: a pair that doesn't pass has a simultaneous interval (Bonferroni, level 1 - alpha) that excludes 0;
    `undetermined`: otherwise, and always with less than two seeds or architectures.
    The effect is the difference of one pair as a part of the grand mean, the interval the one that the verdict rests
    on, and `interval_kind` says which: for `different` that pair (the clearest), else the pair whose difference may be
    the largest; without missing losses both are the pair of the largest difference. n is its number of seeds, `pair`
    its names, `pairs` the number of pairs a verdict, `seeds_to_decide` how many seeds would (80 % power; see there).
    """
    number, diverged = losses["architecture"].nunique(), int((~np.isfinite(losses["test_loss"])).sum())
    pairs = architecture_pairs(losses, margin, confidence)
    verdict, shown, within = _architecture_rule(pairs, diverged, confidence)
    seeds = seeds_to_decide(pairs["pooled_sd"].max(), number, margin, confidence)
    estimate, n, names, kind = (math.nan,) * 3, 0, None, None
    sentence = "Whether the architecture matters cannot be said: no two architectures have finite losses at one seed."
    if shown is not None:
        ends = ["equivalence_low", "equivalence_high"] if within else ["low", "high"]
        estimate, n = tuple(shown[["relative", *ends]].astype(float)), int(shown["n"])
        names = {"upper": shown["upper"], "lower": shown["lower"]}
        if not math.isnan(estimate[1]):
            level = max(2 * confidence - 1, 0) if within else confidence
            kind = f"{'' if within else 'simultaneous '}{100 * level:g}% interval"
        which = "The largest" if shown["relative"] == pairs["relative"].max() else "A"
        what = " above ".join(name.removeprefix("mlp_") for name in names.values())
        claim = f"{which} difference of test loss between two of {number} architectures, {what}, is {estimate[0]:.2%}"
        conclusion = _architecture_end(verdict, estimate, within, margin)
        sentence = f"{claim} of the mean {basis_text(estimate[1:], kind, len(pairs), n)}: {conclusion}"
    if verdict == "undetermined" and kind:
        sentence += _more_seeds(seeds, n, margin)
    if diverged:
        sentence += f" Not counted: {diverged} of {len(losses)} trainings diverged."
    counts = {name: int((pairs["verdict"] == name).sum()) for name in ("equivalent", "different", "undetermined")}
    more = {"interval_kind": kind and kind.replace("%", " %"), "pair": names, "pairs": counts, "seeds_to_decide": seeds}
    return plain_answer(verdict, estimate, confidence, margin, n, sentence) | more


def _architecture_rule(pairs: pd.DataFrame, diverged: int, confidence: float) -> tuple[str, pd.Series | None, bool]:
    """(verdict, the pair that it rests on, whether on the equivalence intervals), by answer_architecture's rule."""
    within = bool((pairs["p_equivalence"] <= 1 - confidence).all())
    differ = pairs[(pairs["verdict"] == "different") & (pairs["low"] > 0)]
    compared = pairs[pairs["n"] > 0]
    if compared.empty:
        return "undetermined", None, False
    if len(differ) and (diverged or not within):
        clearest = differ.sort_values(["p", "relative"], ascending=[True, False], kind="stable").iloc[0]
        return "different", clearest, False
    widest = compared.loc[compared["equivalence_high"].fillna(compared["relative"]).idxmax()]
    return "equivalent" if within and not diverged else "undetermined", widest, within


def _architecture_end(verdict: str, estimate: tuple[float, ...], within: bool, margin: float) -> str:
    (_, low, high), bound = estimate, f"the {100 * margin:g}% margin"
    if math.isnan(low):
        return "one seed gives no interval, so whether the architecture matters cannot be said."
    if verdict == "equivalent":
        return f"all intervals lie within {bound}, so the architectures are equivalent."
    if verdict == "different" and low > margin:
        return f"it lies wholly beyond {bound}, so the architecture matters."
    if verdict == "different":
        reach = f" and reaches beyond {bound}" if high > margin else ""
        return f"it excludes 0{reach}, so the architectures differ, if perhaps by less than the margin."
    if within:
        return f"all intervals lie within {bound}, but for the trainings that diverged, so the question stays open."
    if low <= 0 and high > margin:
        return f"it contains 0 and reaches beyond {bound}, so the question stays open."
    return f"not every pair is shown to lie within {bound}, so the question stays open."


def _more_seeds(seeds: dict, n: int, margin: float) -> str:
    ends = {
        "all_equivalent": "equivalence if there is no difference",
        "different": f"a difference of {100 * margin:g}%",
    }
    wanted = [f"{seeds[name]} seeds would show {end}" for name, end in ends.items() if (seeds[name] or 0) > n]
    return f" With 80% power {', '.join(wanted)}." if wanted else ""
