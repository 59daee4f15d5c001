"""The answers to the two questions: each a verdict by a written rule, with one sentence on the numbers it rests on."""

import math

import numpy as np
import pandas as pd

from mlp_lib.architecture_statistics import architecture_pairs, seeds_to_decide
from mlp_lib.inference import half_width, mean_interval
from mlp_lib.transfer_statistics import transfer_effects, transfer_summary


def answer_transfer(
    losses: pd.DataFrame,
    margin: float,
    confidence: float,
    vectors: pd.Series | None = None,
    drawn: bool = False,
) -> dict:
    """Do hyperparameters transfer? Plain values: verdict, effect, interval, confidence, margin, n, sentence, pairs.

    losses: target, source, seed, test_loss; vectors: source -> id of its hyperparameters (see transfer_effects). The
    effect is the geometric mean of the quotients transferred / own, less 1: of log quotients, the mean over the counted
    pairs at each seed, then over the n seeds, where both losses are finite. The interval is Student's t over the
    seeds, so it speaks of these architectures and hyperparameters only. Where some pairs are missing and the others
    were `drawn` at random, it speaks of all pairs: the variance of the mean of a sample of pairs is added (see
    _with_sampling); else of those trained alone. The verdict is the first that holds:
    `does_not_transfer`: the interval lies wholly above +margin;
    `depends_on_the_pair`: a pair's cost lies beyond the margin, with an interval adjusted for the number of pairs;
    `transfers`: the interval lies wholly below +margin and no transferred training diverged, or all architectures
    share their hyperparameters, so that nothing can be lost;
    `undetermined`: otherwise, and always with less than two seeds.
    `pairs` are transfer_summary's numbers and extremes. What can't be said is None.
    """
    effects = transfer_effects(losses, margin, confidence, vectors)
    pairs = transfer_summary(effects)
    quotients = _log_quotients(losses, effects)
    by_seed = quotients["log_quotient"].groupby(quotients["seed"]).mean().dropna()
    n, diverged = len(by_seed), int(quotients["log_quotient"].isna().sum())
    missing = _count_missing(losses)
    interval = mean_interval(by_seed, confidence)
    if missing and drawn:
        by_pair = quotients.groupby(["target", "source"])["log_quotient"].mean().dropna()
        interval = _with_sampling(by_seed, by_pair, missing, confidence)
    estimate = tuple(math.expm1(value) for value in interval)
    identical = effects.loc[effects["identical"], "n"]
    if not pairs["pairs"] and identical.any():
        n, estimate = int(identical.max()), (0.0, 0.0, 0.0)
        verdict, sentence = "transfers", "All architectures share their hyperparameters, so nothing is lost."
    else:
        verdict, conclusion = _transfer_rule(estimate, n, diverged, pairs["costs_beyond_margin"], margin)
        sentence = conclusion
    if n and pairs["pairs"]:
        basis = _basis(estimate[1:], f"{100 * confidence:g}% interval", pairs["pairs"], n)
        claim = f"Using another architecture's hyperparameters changes the test loss by {estimate[0]:+.2%} on average"
        sentence = f"{claim} {basis}: {conclusion}"
    if n > 1 and pairs["pairs"]:
        sentence += (
            f" Of these pairs, after correction for their number, {pairs['excludes_zero']} differ from 0 and"
            f" {pairs['costs_beyond_margin']} cost more than the margin; {pairs['within_margin']} lie within it."
        )
    if missing:
        asked = "drawn at random, which the interval allows for" if drawn else "so the answer is about these alone"
        sentence += f" Of {missing + len(effects)} pairs {len(effects)} were trained, {asked}."
    if diverged:
        sentence += f" Not counted: {diverged} of {len(quotients)} trainings with transferred hyperparameters diverged."
    return _answer(verdict, estimate, confidence, margin, n, sentence) | {"pairs": pairs}


def _count_missing(losses: pd.DataFrame) -> int:
    """How many pairs of a target and another architecture have no row."""
    names = {*losses["target"], *losses["source"]}
    pairs = losses.loc[losses["target"] != losses["source"], ["target", "source"]].drop_duplicates()
    return losses["target"].nunique() * (len(names) - 1) - len(pairs)


def _with_sampling(by_seed: pd.Series, by_pair: pd.Series, missing: int, confidence: float) -> tuple[float, ...]:
    """(mean, low, high) of the mean over all pairs, from the means by seed and by pair of a random sample of pairs.

    The variances of both means are added, that of the pairs with the correction for a finite population (Cochran,
    Sampling Techniques, chapter 2); degrees of freedom by Welch and Satterthwaite. The pairs' spread holds some of the
    seeds' too, so the interval is a little too wide.
    """
    mean, seeds, pairs = float(by_seed.mean()), len(by_seed), len(by_pair)
    if seeds < 2 or pairs < 2:
        return mean, math.nan, math.nan
    parts = by_seed.var() / seeds, by_pair.var() / pairs * missing / (missing + pairs)
    variance = sum(parts)
    df = variance**2 / (parts[0] ** 2 / (seeds - 1) + parts[1] ** 2 / (pairs - 1)) if variance else 1.0
    half = half_width(math.sqrt(variance), df, 1 - confidence)
    return mean, mean - float(half), mean + float(half)


def _log_quotients(losses: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """target, source, seed, log_quotient of the counted pairs where the target's own loss is finite; NaN: diverged."""
    losses = losses.assign(log=np.log(losses["test_loss"].where(np.isfinite(losses["test_loss"]))))
    own = losses.loc[losses["target"] == losses["source"], ["target", "seed", "log"]].dropna()
    counted = effects.loc[effects["counted"], ["target", "source"]]
    pairs = losses.merge(counted, on=["target", "source"]).merge(own, on=["target", "seed"], suffixes=("", "_own"))
    return pairs.assign(log_quotient=pairs["log"] - pairs["log_own"])


def _transfer_rule(estimate: tuple[float, ...], n: int, diverged: int, costly: int, margin: float) -> tuple[str, str]:
    """(verdict, the end of the sentence), by answer_transfer's rule."""
    (_, low, high), bound = estimate, f"the {100 * margin:g}% margin"
    side = "below" if high < margin else "around"
    if n == 0:
        return "undetermined", "Whether hyperparameters transfer cannot be said: no target has losses to compare."
    if n == 1:
        return "undetermined", "one seed gives no interval, so whether they transfer cannot be said."
    if low > margin:
        return "does_not_transfer", f"above {bound}, so they do not transfer."
    if costly:
        return "depends_on_the_pair", f"{side} {bound}, but some pairs cost more, so it depends on the pair."
    if high < margin and diverged:
        return "undetermined", f"below {bound}, but for the trainings that diverged, so the question stays open."
    if high < margin:
        return "transfers", f"below {bound}, so they transfer."
    return "undetermined", f"the interval contains {bound}, so the question stays open."


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
        sentence = f"{claim} of the mean {_basis(estimate[1:], kind, len(pairs), n)}: {conclusion}"
    if verdict == "undetermined" and kind:
        sentence += _more_seeds(seeds, n, margin)
    if diverged:
        sentence += f" Not counted: {diverged} of {len(losses)} trainings diverged."
    counts = {name: int((pairs["verdict"] == name).sum()) for name in ("equivalent", "different", "undetermined")}
    more = {"interval_kind": kind and kind.replace("%", " %"), "pair": names, "pairs": counts, "seeds_to_decide": seeds}
    return _answer(verdict, estimate, confidence, margin, n, sentence) | more


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


def _basis(interval: tuple[float, ...], kind: str | None, pairs: int, seeds: int) -> str:
    low, high = interval
    text = "" if math.isnan(low) else f"{kind} {low:+.2%} to {high:+.2%}, "
    return f"({text}{pairs} pair{'' if pairs == 1 else 's'}, {seeds} seed{'' if seeds == 1 else 's'})"


def _answer(verdict: str, estimate: tuple[float, ...], confidence: float, margin: float, n: int, sentence: str) -> dict:
    """The answer as plain values; what is not a number becomes None, which YAML can say."""
    effect, *interval = (None if math.isnan(value) else float(value) for value in estimate)
    answer = {"verdict": verdict, "effect": effect, "interval": interval, "confidence": float(confidence)}
    return answer | {"margin": float(margin), "n": int(n), "sentence": sentence.replace("%", " %")}
