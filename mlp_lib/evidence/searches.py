"""Both questions answered over the searches of n trials that chance could have brought.

The luck of the search and of the run seed are both in every interval: the first by a jackknife over trials, each left
out of all architectures and seeds, the second by the residual variance of run seeds. Losses are logarithms.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlp_lib.core.errors import SettingsError
from mlp_lib.evidence.intervals import half_width, holm, jackknife, p_above
from mlp_lib.evidence.pool import Estimate, Pool, logs, read_pool, residual_squares, weighted_mean, weights
from mlp_lib.evidence.summaries import untrained
from mlp_lib.evidence.verdicts import (
    HARMLESS,
    MOST,
    architecture_verdict,
    deciding_half_width,
    difference_tests,
    difference_verdicts,
    p_within,
    transfer_verdict,
)

ROUNDING = 1e-12  # of logarithms of losses: what is below is 0
PAIRS = ("target", "source", "regret", "se", "p_beyond", "p_within", "diverged")
SHOWN = ("first", "second", "difference", "se", "low", "high", "verdict")
CURVES = ("architecture", "n", "loss", "low", "high", "share_best")
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
    own_diverges: list[str]  # the targets whose own choice diverges in more than half of the trainings
    untrained: list[str]  # the architectures of which no trial was trained: what a search chooses there is not known

    @property
    def broken(self) -> pd.Series:
        """The pairs of which most trainings diverge, over searches, or most with the target's own search."""
        return (self.pairs["diverged"] > MOST) | self.pairs["target"].isin(self.own_diverges)

    @property
    def costly(self) -> pd.Series:
        """The pairs that are broken or shown to cost more than the margin."""
        return self.broken | (self.pairs["p_beyond"] <= 1 - self.confidence)

    @property
    def within(self) -> pd.Series:
        """The pairs shown to lie within the margin, and of which hardly a training diverges."""
        return (self.pairs["p_within"] <= 1 - self.confidence) & (self.pairs["diverged"] < HARMLESS)

    @property
    def decided(self) -> pd.DataFrame:
        """`architectures` with low and high of the test that gave each pair its verdict, in place of the unadjusted."""
        pairs, alpha = self.architectures, 1 - self.confidence
        half = deciding_half_width(
            pairs["verdict"], pairs["difference"], math.log1p(self.margin), pairs["se"], self.trials / 2, alpha
        )
        return pairs.assign(low=pairs["difference"] - half, high=pairs["difference"] + half)

    @property
    def answers(self) -> dict[str, str]:
        """The verdicts of hyperparameter_transfer and architecture_sensitivity."""
        said = len(self.pairs) > 0 and np.isfinite([*self.tuned.values()]).any() and not self.untrained
        differ = architecture_verdict(self.architectures["verdict"])
        known = said and not (differ == "equivalent" and self.own_diverges)  # what doesn't train is like no other
        return {
            "hyperparameter_transfer": self._transfer() if said and self.budget > 1 else "undetermined",
            "architecture_sensitivity": differ if known else "undetermined",
        }

    def _transfer(self) -> str:
        (mean,) = self.regret_by_budget[self.regret_by_budget["n"] == self.budget].itertuples()
        harmless = (self.pairs["diverged"] < HARMLESS).all()
        return transfer_verdict(self.costly, self.within, harmless, mean.low, mean.high, math.log1p(self.margin))


def over_searches(
    trials: pd.DataFrame, judged: pd.DataFrame, budget: int, confidence: float = 0.95, margin: float = 0.05
) -> OverSearches:
    """Do hyperparameters transfer, and does the architecture matter, over searches of `budget` trials?

    trials: architecture, trial, val_loss (nats), a row for each of T random trials on each of A architectures;
    judged: target, trial, seed, test_loss (nats), a row for each contender (see `contenders`) on each architecture at
    each of k run seeds. A loss that is not finite is of a training that diverged, or was not trained.
    SettingsError where the budget is not within 1 to T // 2, the confidence not between 0 and 1, or the
    margin below 0; TrainingError where a row is missing.

    The estimates weigh each contender by the chance that a search of n trials chooses it (`weights`). Standard errors
    are of a jackknife over trials (Efron & Stein 1981), tests Student's, families of tests Holm's (1979), equivalence
    two one-sided tests at +-log(1 + margin) (Schuirmann 1987). With less than two trials the frames are empty.
    """
    if not (0 < confidence < 1 and margin >= 0):
        raise SettingsError(f"confidence {confidence}, margin {margin}: allowed are between 0 and 1, and 0 or more")
    pool = read_pool(trials, judged, budget, logs(judged["test_loss"]))
    broken = (pool.diverged > MOST) | pool.own_diverges[:, None]
    tested = ~broken & ~np.eye(len(broken), dtype=bool)
    bound = math.log1p(margin)
    here, means, curves = None, [], []
    for estimate in map(pool.estimate, pool.budgets):  # one at a time: each holds T values a pair
        here = estimate if estimate.n == budget else here
        means.append(_mean(estimate, tested, confidence))
        curves += curve(pool, estimate, confidence)
    empty = pd.DataFrame()
    return OverSearches(
        budget=budget,
        trials=len(pool.numbers),
        seeds=pool.judged.shape[2],
        confidence=confidence,
        margin=margin,
        m=pool.best.shape[1],
        contenders=pool.contenders,
        run_seed_variance=here.run_seed if here else math.nan,
        tuned=dict(zip(pool.architectures, here.tuned[:, 0].tolist(), strict=True)) if here else {},
        regret_by_budget=pd.DataFrame(means, columns=REGRETS),
        pairs=(_pairs(pool, here, broken, bound) if here else empty).reindex(columns=PAIRS),
        architectures=(_architectures(pool, here, bound, 1 - confidence) if here else empty).reindex(columns=SHOWN),
        tuning_curves=pd.DataFrame(curves, columns=CURVES),
        components=_components(pool, here, tested) if here else dict.fromkeys(COMPONENTS, math.nan),
        own_diverges=np.array(pool.architectures)[pool.own_diverges].tolist(),
        untrained=untrained(trials),
    )


def curve(pool: Pool, estimate: Estimate, confidence: float) -> list[tuple]:
    """What each architecture comes to when tuned with n trials, in the pool's values: a row of CURVES each.

    share_best: of the run seeds at which it is the lowest (ties: the first).
    """
    loss, half = estimate.tuned[:, 0], estimate.half(estimate.tuned, confidence)
    finite = np.isfinite(estimate.by_seed)
    best = np.where(finite, estimate.by_seed, np.inf).argmin(0)
    share = ((best == np.arange(len(finite))[:, None]) & finite).mean(1)
    columns = (pool.architectures, loss, loss - half, loss + half, share)
    return [(name, estimate.n, *values) for name, *values in zip(*columns, strict=True)]


def _mean(estimate: Estimate, tested: np.ndarray, confidence: float) -> tuple[float, ...]:
    """(n, mean log regret of the pairs that are not broken, se, low, high)."""
    if not tested.any():
        return estimate.n, *(math.nan,) * 4
    means = estimate.regret[tested].mean(0)
    mean, se = _rounded(np.array([means[0], np.sqrt(jackknife(means))]))
    half = half_width(se, 2 * (len(means) - 1) / estimate.n, 1 - confidence)
    return estimate.n, mean, se, mean - half, mean + half


def _pairs(pool: Pool, estimate: Estimate, broken: np.ndarray, bound: float) -> pd.DataFrame:
    """A row a target and another source: Holm's p of costing more than the bound, and of lying within it."""
    others = ~np.eye(len(broken), dtype=bool)
    own = np.where(others, _rounded(np.sqrt(jackknife(estimate.regret))), np.nan)
    usual = np.sqrt(weighted_mean(1, own**2))
    se = np.maximum(own, usual[:, None] / 2)[others]
    regret, df = _rounded(estimate.regret[others, 0]), len(pool.numbers) / 2
    tested = np.where(broken[others], np.nan, regret)
    names = (np.array(pool.architectures)[index] for index in np.nonzero(others))
    p_beyond, within = holm(p_above(tested - bound, se, df)), holm(p_within(tested, bound, se, df))
    columns = (*names, regret, se, p_beyond, within, pool.diverged[others])
    return pd.DataFrame(dict(zip(PAIRS, columns, strict=True)))


def _architectures(pool: Pool, estimate: Estimate, bound: float, alpha: float) -> pd.DataFrame:
    """A row a pair of tuned architectures: the difference of their log losses and what it is shown to be."""
    first, second = np.triu_indices(len(pool.architectures), 1)
    differences = estimate.tuned[first] - estimate.tuned[second]
    se = _rounded(np.sqrt(jackknife(differences) + 2 * estimate.run_seed / pool.judged.shape[2]))
    difference, df = _rounded(differences[:, 0]), len(pool.numbers) / 2
    half = half_width(se, df, alpha)
    verdict = difference_verdicts(difference_tests(difference, bound, se, df), alpha)
    names = np.array(pool.architectures)
    columns = (names[first], names[second], difference, se, difference - half, difference + half, verdict)
    return pd.DataFrame(dict(zip(SHOWN, columns, strict=True)))


def _components(pool: Pool, estimate: Estimate, tested: np.ndarray) -> dict[str, float]:
    """Variances of log losses, never below 0: what architectures, transfer, the search and the run seed add."""
    seeds, m = pool.judged.shape[2], pool.best.shape[1]
    chances, tuned = weights(estimate.n, len(pool.numbers), m), estimate.tuned[:, 0]
    luck = jackknife(estimate.tuned) + estimate.run_seed / seeds
    squares, df = np.sum([residual_squares(of_own) for of_own in pool.own], axis=0)
    spread = weighted_mean(chances, (pool.by_rank.diagonal().T - tuned[:, None]) ** 2)
    regrets = estimate.regret[tested]
    values = (
        _variance(tuned) - weighted_mean(1, luck),
        _variance(regrets[:, 0]) - weighted_mean(1, jackknife(regrets)),
        weighted_mean(1, spread) - (squares / df if df else math.nan) / seeds,
        weighted_mean(1, weighted_mean(chances, _variance(pool.own))),
    )
    return {name: float(np.maximum(value, 0)) for name, value in zip(COMPONENTS, values, strict=True)}


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < ROUNDING, 0.0, values)


def _variance(values: np.ndarray) -> np.ndarray:
    """The sample variance along the last axis; NaN of less than two values, or where one is."""
    return values.var(axis=-1, ddof=1) if values.shape[-1] > 1 else np.full(values.shape[:-1], np.nan)
