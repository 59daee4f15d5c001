"""Both questions answered over the searches of n trials that chance could have brought.

The luck of the search and of the run seed are both in every interval: the first by a jackknife over trials, each left
out of all architectures and seeds, the second by the residual variance of run seeds. Losses are logarithms.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mlp_lib.evidence.intervals import adjust, half_width
from mlp_lib.evidence.pool import (
    Estimate,
    Pool,
    jackknife,
    logs,
    read_pool,
    residual_variance,
    weighted_mean,
    weights,
)

HARMLESS = 0.05  # the share of trainings that may diverge where hyperparameters are said to transfer
ROUNDING = 1e-12  # of logarithms of losses: what is below is 0
PAIRS = ("target", "source", "regret", "se", "p_beyond", "p_within", "diverged")
ARCHITECTURES = ("first", "second", "difference", "se", "low", "high", "verdict")
REGRETS = ("n", "regret", "se", "low", "high")
COMPONENTS = ("architecture", "transfer", "search", "run_seed")


@dataclass(frozen=True)
class OverSearches:
    """What `over_searches` found; logs are natural, of losses in nats an example."""

    budget: int  # n*, trials of a search
    trials: int  # T
    seeds: int  # k
    confidence: float
    margin: float
    m: int
    contenders: list[int]
    run_seed_variance: float  # s² at n*, of logs
    tuned: dict[str, float]  # log loss of each architecture at n*
    regret_by_budget: pd.DataFrame  # n, regret, se, low, high (logs)
    pairs: pd.DataFrame  # target, source, regret, se (logs), p_beyond, p_within, diverged (a share)
    architectures: pd.DataFrame  # first, second, difference, se, low, high (logs), verdict
    tuning_curves: pd.DataFrame  # architecture, n, loss, low, high (logs), share_best
    components: dict[str, float]  # variances of logs: architecture, transfer, search, run_seed
    answers: dict[str, str]  # the verdicts of hyperparameter_transfer and architecture_sensitivity
    own_diverges: list[str]  # the targets whose own choice diverges in more than half of the trainings


def over_searches(
    trials: pd.DataFrame, judged: pd.DataFrame, budget: int, confidence: float = 0.95, margin: float = 0.05
) -> OverSearches:
    """Do hyperparameters transfer, and does the architecture matter, over searches of `budget` trials?

    trials: architecture, trial, val_loss (nats), a row for each of T random trials on each of A architectures;
    judged: target, trial, seed, test_loss (nats), a row for each contender (see `contenders`) on each architecture at
    each of k run seeds. A loss that is not finite is of a training that diverged. SettingsError where the budget is
    not within 1 to T // 2, TrainingError where a row is missing.

    The estimates weigh each contender by the chance that a search of n trials chooses it (`weights`). Standard errors
    are of a jackknife over trials (Efron & Stein 1981), tests Student's, families of tests Holm's (1979), equivalence
    two one-sided tests at +-log(1 + margin) (Schuirmann 1987). With less than two trials the frames are empty.
    """
    pool = read_pool(trials, judged, budget, logs(judged["test_loss"]))
    estimates = [pool.estimate(n) for n in pool.budgets]
    here = next((estimate for estimate in estimates if estimate.n == budget), None)
    broken = (pool.diverged > 0.5) | pool.own_diverges[:, None]
    tested = ~broken & ~np.eye(len(broken), dtype=bool)
    mean = pd.DataFrame([_mean(estimate, tested, confidence) for estimate in estimates], columns=REGRETS)
    bound, alpha = math.log1p(margin), 1 - confidence
    pairs, architectures = pd.DataFrame(columns=PAIRS), pd.DataFrame(columns=ARCHITECTURES)
    answers = dict.fromkeys(("hyperparameter_transfer", "architecture_sensitivity"), "undetermined")
    if here is not None:
        pairs, architectures = _pairs(pool, here, broken, bound), _architectures(pool, here, bound, alpha)
        costly = broken[_off_diagonal(broken)] | (pairs["p_beyond"] <= alpha)
        of_budget = mean[mean["n"] == budget].iloc[0]
        if len(pairs) and np.isfinite(here.losses).any():
            if budget > 1:
                answers["hyperparameter_transfer"] = _transfer_verdict(pairs, costly, of_budget, bound, alpha)
            answers["architecture_sensitivity"] = _architecture_verdict(architectures["verdict"])
    return OverSearches(
        budget=budget,
        trials=len(pool.numbers),
        seeds=pool.judged.shape[2],
        confidence=confidence,
        margin=margin,
        m=pool.best.shape[1],
        contenders=pool.contenders,
        run_seed_variance=math.nan if here is None else here.run_seed,
        tuned={} if here is None else dict(zip(pool.architectures, here.tuned.tolist(), strict=True)),
        regret_by_budget=mean,
        pairs=pairs,
        architectures=architectures,
        tuning_curves=curves(pool, estimates, confidence),
        components=dict.fromkeys(COMPONENTS, math.nan) if here is None else _components(pool, here, tested),
        answers=answers,
        own_diverges=np.array(pool.architectures)[pool.own_diverges].tolist(),
    )


def curves(pool: Pool, estimates: list[Estimate], confidence: float) -> pd.DataFrame:
    """What each architecture comes to when tuned with n trials, in the pool's values, by n then architecture.

    Columns: architecture, n, loss, low, high, share_best (of the run seeds at which it is the lowest; ties: the first).
    """
    rows = []
    for estimate in estimates:
        half = interval_half(pool, estimate, estimate.tuned_left_out, confidence)
        finite = np.isfinite(estimate.by_seed)
        best = np.where(finite, estimate.by_seed, np.inf).argmin(0)
        share = ((best == np.arange(len(finite))[:, None]) & finite).mean(1)
        columns = (pool.architectures, estimate.tuned, estimate.tuned - half, estimate.tuned + half, share)
        rows += [(name, estimate.n, *values) for name, *values in zip(*columns, strict=True)]
    return pd.DataFrame(rows, columns=["architecture", "n", "loss", "low", "high", "share_best"])


def interval_half(pool: Pool, estimate: Estimate, left_out: np.ndarray, confidence: float) -> np.ndarray:
    """Half of the interval of what a target comes to: the search's luck [..., T] and the run seeds', 2T / n df."""
    se = np.sqrt(jackknife(left_out) + estimate.run_seed / pool.judged.shape[2])
    return half_width(se, 2 * len(pool.numbers) / estimate.n, 1 - confidence)


def _mean(estimate: Estimate, tested: np.ndarray, confidence: float) -> tuple[float, ...]:
    """(n, mean log regret of the pairs that are not broken, se, low, high)."""
    if not tested.any():
        return estimate.n, *(math.nan,) * 4
    left_out = estimate.regret_left_out[tested].mean(0)
    regret, se = estimate.regret[tested].mean(), np.sqrt(jackknife(left_out))
    half = half_width(se, 2 * left_out.size / estimate.n, 1 - confidence)
    return estimate.n, regret, se, regret - half, regret + half


def _pairs(pool: Pool, estimate: Estimate, broken: np.ndarray, bound: float) -> pd.DataFrame:
    """A row a target and another source: Holm's p of costing more than the bound, and of lying within it."""
    own = np.where(np.eye(len(broken), dtype=bool), np.nan, _rounded(np.sqrt(jackknife(estimate.regret_left_out))))
    known = np.isfinite(own)
    usual = np.sqrt(np.where(known, own, 0) ** 2 @ np.ones(len(own)) / np.maximum(known.sum(1), 1))
    off = _off_diagonal(broken)
    regret = _rounded(estimate.regret[off])
    se = np.maximum(own, usual[:, None] / 2)[off]
    tested = np.where(broken[off], np.nan, regret)
    df = len(pool.numbers) / 2
    within = np.maximum(p_above(bound - tested, se, df), p_above(tested + bound, se, df))
    target, source = (np.array(pool.architectures)[index] for index in off)
    columns = (target, source, regret, se, _holm(p_above(tested - bound, se, df)), _holm(within), pool.diverged[off])
    return pd.DataFrame(dict(zip(PAIRS, columns, strict=True)))


def _architectures(pool: Pool, estimate: Estimate, bound: float, alpha: float) -> pd.DataFrame:
    """A row a pair of tuned architectures: the difference of their log losses and what it is shown to be."""
    first, second = np.triu_indices(len(pool.architectures), 1)
    difference = _rounded(estimate.tuned[first] - estimate.tuned[second])
    variance = jackknife(estimate.tuned_left_out[first] - estimate.tuned_left_out[second])
    se = _rounded(np.sqrt(variance + 2 * estimate.run_seed / pool.judged.shape[2]))
    df, size = len(pool.numbers) / 2, np.abs(difference)
    half = half_width(se, df, alpha)
    verdict = np.select(
        [
            np.maximum(p_above(bound - size, se, df), p_above(bound + size, se, df)) <= alpha,
            _holm(p_above(size - bound, se, df)) <= alpha,
            _holm(np.minimum(2 * p_above(size, se, df), 1)) <= alpha,
        ],
        ["equivalent", "different_beyond_margin", "different"],
        "undetermined",
    )
    names = np.array(pool.architectures)
    columns = (names[first], names[second], difference, se, difference - half, difference + half, verdict)
    return pd.DataFrame(dict(zip(ARCHITECTURES, columns, strict=True)))


def _components(pool: Pool, estimate: Estimate, tested: np.ndarray) -> dict[str, float]:
    """Variances of log losses, never below 0: what architectures, transfer, the search and the run seed add."""
    seeds, (number, m) = pool.judged.shape[2], pool.best.shape
    chances = weights(estimate.n, len(pool.numbers), m)
    whole = [of_own[np.isfinite(of_own).all(1)] for of_own in pool.own]
    squares, df = np.sum([residual_variance(table) for table in whole], axis=0)
    spread = weighted_mean(chances, (pool.own_means - estimate.tuned[:, None]) ** 2).mean()
    error = squares / df if df else math.nan
    complete = np.isfinite(pool.own).all(2)
    of_seeds = np.where(complete, pool.own.var(2, ddof=1) if seeds > 1 else math.nan, math.nan)
    bands = jackknife(estimate.tuned_left_out) + estimate.run_seed / seeds
    regrets, luck = estimate.regret[tested], jackknife(estimate.regret_left_out)[tested]
    values = (
        (estimate.tuned.var(ddof=1) if number > 1 else math.nan) - bands.mean(),
        regrets.var(ddof=1) - luck.mean() if regrets.size > 1 else math.nan,
        spread - error / seeds,
        weighted_mean(chances, of_seeds).mean(),
    )
    return {name: float(np.maximum(value, 0)) for name, value in zip(COMPONENTS, values, strict=True)}


def _transfer_verdict(pairs: pd.DataFrame, costly: pd.Series, mean: pd.Series, bound: float, alpha: float) -> str:
    harmless = pairs["diverged"] < HARMLESS
    within = (pairs["p_within"] <= alpha) & harmless
    if costly.all():
        return "does_not_transfer"
    if costly.any() and (within.any() or mean["high"] < bound):
        return "depends_on_the_pair"
    if mean["low"] > bound:
        return "does_not_transfer"
    return "transfers" if mean["high"] < bound and not costly.any() and harmless.all() else "undetermined"


def _architecture_verdict(verdicts: pd.Series) -> str:
    if (verdicts == "equivalent").all():
        return "equivalent"
    found = [verdict for verdict in ("different_beyond_margin", "different") if (verdicts == verdict).any()]
    return found[0] if found else "undetermined"


def p_above(distance: np.ndarray, se: np.ndarray, df: float) -> np.ndarray:
    """One-sided p of Student's t test that a distance is above 0: without any spread 0 where it is, else 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf(distance / se, df)
    return np.where((se == 0) & np.isfinite(distance), np.where(distance > 0, 0.0, 1.0), p)


def _holm(p: np.ndarray) -> np.ndarray:
    """The p values that are not NaN adjusted by Holm's (1979) step-down procedure."""
    return adjust(p, 0.05, "holm")[0]


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < ROUNDING, 0.0, values)


def _off_diagonal(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(~np.eye(len(table), dtype=bool))
