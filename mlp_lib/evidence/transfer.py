"""Pure functions of a run's tables: what hyperparameters cost on an architecture that they were not tuned on.

`confidence` 0.95 means tests at alpha = 1 - 0.95; `margin` 0.05 means that 5 % more loss is practically the same.
"""

import math
from collections.abc import Hashable

import numpy as np
import pandas as pd

from mlp_lib.evidence.intervals import (
    basis_text,
    benjamini_hochberg,
    blocked_differences,
    by_own_spread,
    count_text,
    half_width,
    holm,
    jackknife,
    mean_interval,
    p_above,
    plain_answer,
)
from mlp_lib.evidence.summaries import log_costs, mean_error, mean_loss_matrix, trial_ranks
from mlp_lib.evidence.verdicts import HARMLESS, MOST, ONE_ARCHITECTURE, p_within, transfer_end, transfer_verdict

EFFECTS = (
    *("target", "source", "same_as", "identical", "counted", "n", "diverged"),
    *("mean", "own_mean", "regret", "oracle_regret"),
    *("quotient", "low", "high", "p", "p_adjusted", "p_beyond", "p_within", "sd", "pooled_sd", "df"),
    *("excludes_zero", "beyond_margin", "within_margin", "broken", "error", "own_error"),
)
FLAGS = ("identical", "counted", "excludes_zero", "beyond_margin", "within_margin", "broken")


def _first_equal(table: pd.DataFrame, target: Hashable) -> dict[Hashable, Hashable]:
    """Of each source the first one with the same hyperparameters, the target itself before all others.

    They are the same where the losses are equal at all seeds: equal trainings are one training.
    """
    columns = zip(table, np.nan_to_num(table.to_numpy()).T, strict=True)
    keys = {name: tuple(losses) if losses.any() else name for name, losses in columns}
    first: dict[Hashable, Hashable] = {keys[target]: target}
    return {name: first.setdefault(key, name) for name, key in keys.items()}


def _target_effects(table: pd.DataFrame, target: Hashable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row a source of one target: same_as, and blocked_differences to its own; the log losses that they are of).

    table: [seeds x sources] of losses.
    """
    same_as = _first_equal(table, target)
    logs = np.log(table[list(dict.fromkeys(same_as.values()))])
    fitted = blocked_differences(logs, [(name, target) for name in logs]).set_index("first")
    rows = fitted.loc[list(same_as.values())].reset_index(names="same_as").drop(columns="second")
    return rows.assign(target=target, source=list(same_as)), logs


def _all_effects(losses: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """The rows of _target_effects for all off-diagonal pairs of `losses`, diverged, and broken."""
    usable = np.isfinite(losses["test_loss"]) & (losses["test_loss"] > 0)
    wide = losses.assign(usable=losses["test_loss"].where(usable))
    wide = wide.pivot(index=["target", "seed"], columns="source", values="usable")
    wide = wide.reindex(columns=pd.unique(pd.concat([losses["source"], losses["target"]])))
    sources = losses.groupby("target", sort=False)["source"].unique()
    parts = [
        _target_effects(wide.loc[target][list(dict.fromkeys([*tried, target]))], target)
        for target, tried in sources.items()
    ]
    rows = pd.concat([rows for rows, _ in parts], ignore_index=True).query("target != source").reset_index(drop=True)
    rows = by_own_spread(rows, [logs.dropna(axis=1, how="all") for _, logs in parts], alpha)
    own = pd.MultiIndex.from_frame(losses.loc[usable & (losses["target"] == losses["source"]), ["target", "seed"]])
    alone = ~usable & pd.MultiIndex.from_frame(losses[["target", "seed"]]).isin(own)
    diverged = np.nan_to_num(_of_pairs(losses[alone].groupby(["target", "source"]).size(), rows, "source")).astype(int)
    rows["diverged"] = np.where(rows["same_as"] == rows["target"], 0, diverged)
    share = (~usable).groupby([losses["target"], losses["source"]]).mean()
    rows["broken"] = (_of_pairs(share, rows, "source") > MOST) | (_of_pairs(share, rows, "target") > MOST)
    return rows


def _of_pairs(values: pd.Series, rows: pd.DataFrame, source: str) -> np.ndarray:
    """The values, by target and source, of the rows' targets with what their column `source` names; NaN: none."""
    return values.reindex(pd.MultiIndex.from_frame(rows[["target", source]])).to_numpy()


def transfer_effects(losses: pd.DataFrame, margin: float, confidence: float) -> pd.DataFrame:
    """What each source's hyperparameters cost on each target: a row an off-diagonal pair (target, source).

    losses: target, source, seed, test_loss. Sources whose losses on a target are equal at all seeds share their
    hyperparameters there.

    Differences are of log losses, paired by seed, with one residual variance of all sources of a target unless their
    spreads differ (see `blocked_differences`, `by_own_spread`). Equal hyperparameters are tested once a target, and the
    target's own not at all: their quotient is exactly 1.

    In nats: mean, own_mean, regret, oracle_regret (above the target's best source). quotient: of geometric means over
    the n shared seeds, low and high its t interval. Of log losses: sd (of the pair's own paired differences) beside
    pooled_sd (the model's), df. p is Student's, of a difference, p_adjusted Benjamini & Hochberg's (1995); p_beyond (of
    costing more than the margin) and p_within (two one-sided tests) are of tests at the margin, each Holm's (1979).
    same_as: the first source with these hyperparameters, the target before all others; identical: that is the target;
    counted: that is this row, so one row a test; diverged: seeds at which the transferred training alone diverged;
    broken: most trainings diverge, or most of the target's own, so that nothing is tested.
    excludes_zero: p_adjusted at most alpha; beyond_margin: broken, p_beyond at most alpha, or the like for a gain;
    within_margin: p_within at most alpha and less than 5 % diverged, or identical. error, own_error: means of
    1 - accuracy. What can't be said is NaN, or False.
    """
    if losses.empty:
        return pd.DataFrame(columns=list(EFFECTS)).astype(dict.fromkeys(FLAGS, bool))
    alpha, bound = 1 - confidence, math.log1p(margin)
    rows = _all_effects(losses, alpha)
    rows["identical"], rows["counted"] = rows["same_as"] == rows["target"], rows["same_as"] == rows["source"]
    means = mean_loss_matrix(losses)
    errors = mean_error(losses, ["target", "source"])
    for name, values in (("mean", means.stack(future_stack=True)), ("error", errors)):
        rows[name], rows[f"own_{name}"] = (_of_pairs(values, rows, end) for end in ("source", "target"))
    rows["regret"] = rows["mean"] - rows["own_mean"]
    rows["oracle_regret"] = rows["mean"] - means.min(axis=1).reindex(rows["target"]).to_numpy()

    log, se, df, identical = rows["difference"], rows["se"], rows["df"], rows["identical"]
    tested = log.where(rows["counted"] & ~rows["broken"])
    rows["p"] = np.where(identical, np.nan, np.minimum(2 * p_above(log.abs(), se, df), 1))
    rows["p_adjusted"] = benjamini_hochberg(rows["p"].where(tested.notna()))
    rows["p_beyond"] = holm(p_above(tested - bound, se, df))
    rows["p_within"] = holm(p_within(tested, bound, se, df))
    rows["p_gain"] = holm(p_above(-tested - bound, se, df))
    of_tested = rows.groupby(["target", "same_as"], sort=False)  # repeats share the result of the pair that was tested
    for name in ("p_adjusted", "p_beyond", "p_within", "p_gain"):
        rows[name] = of_tested[name].transform("max")

    rows["quotient"] = np.exp(log)
    half = np.where(identical & log.notna(), 0.0, half_width(se, df, alpha))
    rows["low"], rows["high"] = np.exp(log - half), np.exp(log + half)
    rows["excludes_zero"] = rows["p_adjusted"] <= alpha
    rows["beyond_margin"] = rows["broken"] | (rows["p_beyond"] <= alpha) | (rows["p_gain"] <= alpha)
    harmless = rows["diverged"] < HARMLESS * losses["seed"].nunique()
    rows["within_margin"] = ((rows["p_within"] <= alpha) & harmless) | (identical & log.notna())
    return rows[list(EFFECTS)]


def transfer_summary(effects: pd.DataFrame) -> dict:
    """Numbers of pairs, from the rows of transfer_effects, as plain values.

    pairs (counted ones: one a target and distinct vector of hyperparameters), and of these diverged, broken,
    excludes_zero, costs_beyond_margin, gains_beyond_margin, within_margin; beside them repeated and identical.
    share_within_margin: of the pairs with an interval or a diverged training, None without any.
    """
    counted = effects[effects["counted"]]
    known, within = counted["low"].notna() | (counted["diverged"] > 0), counted["within_margin"]
    return {
        "pairs": len(counted),
        "diverged": int((counted["diverged"] > 0).sum()),
        "broken": int(counted["broken"].sum()),
        "excludes_zero": int(counted["excludes_zero"].sum()),
        "costs_beyond_margin": int(_costly(counted).sum()),
        "gains_beyond_margin": int((counted["beyond_margin"] & ~_costly(counted)).sum()),
        "within_margin": int(within.sum()),
        "share_within_margin": float(within[known].mean()) if known.any() else None,
        "repeated": int((~effects["counted"] & ~effects["identical"]).sum()),
        "identical": int(effects["identical"].sum()),
    }


def _costly(effects: pd.DataFrame) -> pd.Series:
    """The pairs that are broken or shown to cost more than the margin."""
    return effects["beyond_margin"] & (effects["broken"] | (effects["quotient"] > 1))


def trial_rank_correlation(trials: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of the trials' validation losses between architectures, a square frame of names.

    It asks whether good hyperparameters are good everywhere, so trial i must have the same ones on all
    (`same_trials_for_all_architectures`): otherwise the frame is empty. See trial_ranks; below two trials NaN.
    """
    ranks = trial_ranks(trials)
    return ranks if ranks.columns.empty else ranks.corr().rename_axis(index="architecture", columns=None)


def _over_architectures(costs: pd.DataFrame, confidence: float) -> tuple[float, float, float]:
    """(mean, low, high) of the costs by a jackknife over architectures, each left out as target and as source."""
    names = costs[["target", "source"]]
    left = [costs.loc[names.ne(name).all(axis=1), "cost"].mean() for name in pd.unique(names.to_numpy().ravel())]
    mean = costs["cost"].mean()
    half = half_width(math.sqrt(jackknife(np.array([mean, *left]))), len(left) - 1, 1 - confidence)
    return mean, mean - half, mean + half


def answer_transfer(losses: pd.DataFrame, margin: float, confidence: float, own_draws: bool = False) -> dict:
    """Do these hyperparameters transfer? Plain values: verdict, effect, interval, n, sentence, pairs and more.

    losses: target, source, seed, test_loss. The effect is the geometric mean of the quotients transferred / own, less
    1: of log quotients, the mean over the counted pairs that are not broken at each seed, then over the n seeds, where
    both losses are finite. The interval is Student's t over the seeds, so it speaks of these architectures and
    hyperparameters only; where each architecture had `own_draws`, so a search by itself, and there are three or more,
    that of a jackknife over architectures, which holds the luck of their searches. The rule is that of
    `transfer_verdict`, of the pairs that transfer_effects shows to cost more than the margin or to lie within it;
    architectures that share their hyperparameters lose nothing, and with less than two seeds all is undetermined.
    `pairs` are transfer_summary's numbers. What can't be said is None.
    """
    effects = transfer_effects(losses, margin, confidence)
    pairs, judged = transfer_summary(effects), effects[effects["counted"] | effects["identical"]]
    counted = effects.loc[effects["counted"] & ~effects["broken"], ["target", "source"]]
    known = log_costs(losses).dropna(subset="own")
    costs = known.merge(counted, on=["target", "source"])
    by_seed = costs["cost"].groupby(costs["seed"]).mean().dropna()
    n, kind, logs = len(by_seed), f"{100 * confidence:g}% interval", mean_interval(by_seed, confidence)
    if own_draws and n > 1 and math.isfinite((over := _over_architectures(costs, confidence))[1]):
        kind, logs = f"{kind} by a jackknife over architectures", over
    estimate = tuple(map(math.expm1, logs))
    identical, costly = effects.loc[effects["identical"], "n"], _costly(judged)
    if not pairs["pairs"] and identical.any():
        n, estimate = int(identical.max()), (0.0, 0.0, 0.0)
        verdict, end = "transfers", "All architectures share their hyperparameters, so nothing is lost."
    elif n == 0 and not (len(known) and costly.any()):
        verdict = "undetermined"
        why = ONE_ARCHITECTURE if losses["target"].nunique() == 1 else "No target has losses to compare"
        end = f"{why}, so whether hyperparameters transfer cannot be said."
    elif n == 1 or losses["seed"].nunique() == 1:
        verdict, end = "undetermined", "one seed gives no interval, so whether they transfer cannot be said."
    else:
        harmless = (judged["diverged"] < HARMLESS * losses["seed"].nunique()).all()
        low, high, bound = *np.log1p(estimate[1:]), math.log1p(margin)
        verdict = transfer_verdict(costly, judged["within_margin"], harmless, low, high, bound)
        end = transfer_end(verdict, costly, judged["within_margin"], bool(judged["broken"].any()), estimate[2], margin)
    claim, broken = "", n == 0 and verdict != "undetermined"  # all pairs
    if n and len(counted):
        basis = basis_text(estimate[1:], kind, (len(counted), "pair"), (n, "seed"))
        claim = f"using another architecture's hyperparameters changes the test loss by {estimate[0]:+.2%} on average"
        claim += f" {basis}: "
    sentence = f"For these hyperparameters only: {claim}{end}" if claim or broken else end[0].upper() + end[1:]
    sentence += _asides(effects, pairs, n, verdict)
    return plain_answer(verdict, estimate, confidence, margin, n, sentence) | {"pairs": pairs}


def _asides(effects: pd.DataFrame, pairs: dict, n: int, verdict: str) -> str:
    """What the answer's sentence has at its end on numbers of pairs, and on what is not counted."""
    said = ""
    if n > 1 and pairs["pairs"] and verdict != "depends_on_the_pair":  # whose end has the numbers
        shown = f"{pairs['costs_beyond_margin']} of these pairs cost more than the margin, {pairs['within_margin']} lie"
        said += f" After correction for their number {shown} within it."
    if n > 1 and pairs["pairs"] and not effects["counted"].all():
        said += " Sources of equal hyperparameters are counted once, and not where they are the target's own."
    if diverged := int(effects.loc[effects["counted"], "diverged"].sum()):
        trainings = count_text(diverged, "training")
        said += f" Not counted: {trainings} with transferred hyperparameters that diverged or did not train."
    return said
