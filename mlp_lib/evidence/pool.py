"""The pool of trainings from which everything over searches is read, and what becomes of it without a trial.

T trials, the same for A architectures, were each trained once in the search, which ranks them. The m best of every
architecture, the contenders, were trained anew on all architectures at k run seeds: the judged trainings.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from numbers import Integral

import numpy as np
import pandas as pd

from mlp_lib.core.errors import SettingsError, TrainingError
from mlp_lib.evidence.intervals import half_width, jackknife
from mlp_lib.evidence.verdicts import MOST

FORGOTTEN = 100  # a search of the budget chooses beyond the m best in at most one of so many
LEAST_KNOWN = 20  # a curve ends where a search chooses beyond the m best in more than one of so many


def find_budget(given: int | str, trials: int) -> int:
    """The search budget n*, a number of trials, as given, or what `auto` means: a third of the trials, at least 1."""
    return max(1, trials // 3) if given == "auto" else int(given)


def contenders(trials: pd.DataFrame, budget: int) -> tuple[int, list[int]]:
    """(m, numbers of the trials) that a search of `budget` trials could have chosen on some architecture.

    trials: architecture, trial, val_loss (nats; not finite: diverged), every architecture with the same trials. m is
    the smallest number of which C(T - m, budget) / C(T, budget) <= 1 %: the chance that none of the m best is among
    the drawn. SettingsError where the budget is not within 1 to T // 2, TrainingError where trials are missing.
    """
    _, numbers, best = _ranked(trials, budget)
    return best.shape[1], numbers[np.unique(best)].tolist()


def count_best(budget: int, trials: int) -> int:
    """m, of so many trials: see `contenders`."""
    return next(m for m in range(1, trials + 1) if FORGOTTEN * comb(trials - m, budget) <= comb(trials, budget))


def weights(n: int, trials: int, m: int) -> np.ndarray:
    """[m] chances that the trial of rank 0 .. m - 1 is the best of n drawn from `trials` without replacement.

    C(T - 1 - r, n - 1) / C(T, n): the expected best of n (Dodge et al. 2019, "Show Your Work") as a U-statistic, hence
    without its bias (Tang et al. 2020, "Showing Your Work Doesn't Always Work").
    """
    left = trials - np.arange(1, m)  # each chance is that of the rank before, of so many, times a quotient
    quotients = (left - n + 1).clip(0) / left.clip(1)
    return np.cumprod([n / trials if trials else 0.0, *quotients])


def weighted_mean(weights: np.ndarray | float, values: np.ndarray) -> np.ndarray:
    """The mean of the finite values along the last axis, their weights divided by their sum; NaN without any."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(finite, values, 0)).sum(-1) / (weights * finite).sum(-1)


def logs(losses: pd.Series) -> np.ndarray:
    """Logarithms of losses in nats; NaN where a training diverged."""
    with np.errstate(divide="ignore"):
        return np.log(losses.where(np.isfinite(losses)).to_numpy(float))


def residual_squares(table: np.ndarray) -> tuple[float, int]:
    """(residual sum of squares, degrees of freedom) of row + column, over the rows without NaN."""
    table = table[np.isfinite(table).all(1)]
    if not table.size:
        return 0.0, 0
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return float((residuals**2).sum()), (len(table) - 1) * (table.shape[1] - 1)


@dataclass(frozen=True)
class Estimate:
    """What targets come to with what a search of n trials chooses on sources: on all trials, then without each."""

    n: int
    losses: np.ndarray  # [target, source, 1 + T], in the pool's values: logs of nats, or shares of errors
    by_seed: np.ndarray  # [A, k] of the tuned architectures

    @property
    def tuned(self) -> np.ndarray:
        """[A, 1 + T]: each architecture with its own search."""
        return self.losses.diagonal().T

    @property
    def regret(self) -> np.ndarray:
        """[target, source, 1 + T]: less what the target comes to with its own search."""
        return self.losses - self.tuned[:, None]

    @property
    def run_seed(self) -> float:
        """s², the residual mean square of the tuned architectures by run seed."""
        squares, df = residual_squares(self.by_seed)
        return squares / df if df else np.nan

    def half(self, losses: np.ndarray, confidence: float) -> np.ndarray:
        """Half of the interval of what a target comes to [..., 1 + T]: by the luck of the search and of run seeds."""
        trials, seeds = losses.shape[-1] - 1, self.by_seed.shape[1]
        return half_width(np.sqrt(jackknife(losses) + self.run_seed / seeds), 2 * trials / self.n, 1 - confidence)


@dataclass(frozen=True)
class Pool:
    """The judged trainings by rank; made by `read_pool`."""

    architectures: list[str]
    numbers: np.ndarray  # [T] of the trials
    best: np.ndarray  # [A, m] positions of the best trials of each architecture in `numbers`
    judged: np.ndarray  # [A, T, k], NaN: diverged, or no contender
    budget: int

    @property
    def contenders(self) -> list[int]:
        return self.numbers[np.unique(self.best)].tolist()

    @cached_property
    def by_rank(self) -> np.ndarray:
        """[target, source, m]: a target's mean over the finite seeds with the source's best, next best, …"""
        return weighted_mean(1, self.judged)[:, self.best]

    @cached_property
    def own(self) -> np.ndarray:
        """[A, m, k]: each architecture's trainings with its own best."""
        return np.take_along_axis(self.judged, self.best[:, :, None], axis=1)

    @property
    def own_diverges(self) -> np.ndarray:
        """[A]: whether an architecture's own choice, over searches of the budget, diverges in most trainings."""
        return self.diverged.diagonal() > MOST

    @cached_property
    def diverged(self) -> np.ndarray:
        """[target, source]: the share of trainings, over searches of the budget, that diverge."""
        share = np.isnan(self.judged).mean(2)[:, self.best]
        return weighted_mean(weights(self.budget, len(self.numbers), self.best.shape[1]), share).round(12)

    @property
    def budgets(self) -> list[int]:
        """The n <= T // 2 about which the contenders say enough."""
        trials, m = len(self.numbers), self.best.shape[1]
        return [n for n in range(1, trials // 2 + 1) if LEAST_KNOWN * comb(trials - m, n) <= comb(trials, n)]

    def estimate(self, n: int) -> Estimate:
        """Averages over searches of n trials, and the same without each trial, which moves those after it up."""
        (number, m), trials = self.best.shape, len(self.numbers)
        whole, fewer = weights(n, trials, m), weights(n, trials - 1, m)
        without = (np.insert(fewer, rank, 0)[:m] for rank in range(m + 1))  # the last: without none of the best
        ways = itertools.chain([whole], without)
        by_way = np.stack([weighted_mean(way, self.by_rank) for way in ways], axis=-1)  # [target, source, m + 2]
        way = np.full((number, 1 + trials), m + 1)  # [source, 1 + T]
        way[:, 0] = 0
        np.put_along_axis(way, 1 + self.best, np.arange(1, m + 1)[None], axis=1)
        losses = by_way[:, np.arange(number)[:, None], way]
        return Estimate(n, losses, weighted_mean(whole, self.own.swapaxes(1, 2)))


def read_pool(trials: pd.DataFrame, judged: pd.DataFrame, budget: int, values: Sequence[float]) -> Pool:
    """The pool of `values`, one a row of judged, of which those that are not finite are of trainings that diverged.

    trials: see contenders. judged: target, trial, seed; trials that are no contenders are passed over. TrainingError
    where a target lacks a contender at a seed, or has it twice.
    """
    names, numbers, best = _ranked(trials, budget)
    table = pd.Series(np.asarray(values, float), pd.MultiIndex.from_frame(judged[["target", "trial", "seed"]]))
    chosen = np.unique(best)
    seeds = np.unique(judged["seed"][judged["target"].isin(names) & judged["trial"].isin(numbers[chosen])])
    wanted = pd.MultiIndex.from_product([names, numbers[chosen], seeds], names=table.index.names)
    found = table.index.isin(wanted)
    if not len(seeds):
        needs = f"it needs each on every architecture at every run seed, such as target {names[0]}, trial {numbers[0]}"
        raise TrainingError(f"judged has no contender: {needs}")
    if table.index[found].has_duplicates or found.sum() < len(wanted):
        odd = [*table.index[found & table.index.duplicated()], *wanted.difference(table.index, sort=False)]
        some = "; ".join(f"target {target}, trial {trial}, seed {seed}" for target, trial, seed in odd[:3])
        raise TrainingError(f"judged needs each contender once, on every architecture at every seed; not so: {some}")
    of_all = np.full((len(names), len(numbers), len(seeds)), np.nan)
    of_all[:, chosen] = table[found].reindex(wanted).to_numpy().reshape(len(names), len(chosen), len(seeds))
    return Pool(names, numbers, best, np.where(np.isfinite(of_all), of_all, np.nan), budget)


def _ranked(trials: pd.DataFrame, budget: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(architectures in order of appearance, trials' numbers [T], positions of the m best [A, m])."""
    names = trials["architecture"].unique().tolist()
    if trials.duplicated(["architecture", "trial"]).any() or len(trials) != len(names) * trials["trial"].nunique():
        raise TrainingError("trials needs the same trials of every architecture, each once")
    table = trials.pivot(index="architecture", columns="trial", values="val_loss").loc[names]
    losses, number = table.to_numpy(float), table.shape[1]
    if not isinstance(budget, Integral) or not 1 <= budget <= max(1, number // 2):
        allowed = f"1 to {max(1, number // 2)}, half of the {number} trials"
        raise SettingsError(f"search_budget {budget}: allowed is {allowed}; find_budget makes a number of auto")
    ranks = np.argsort(np.where(np.isfinite(losses), losses, np.inf), axis=1, kind="stable")
    return names, table.columns.to_numpy(), ranks[:, : count_best(budget, number)]
