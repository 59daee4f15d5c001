"""What to do in practice: ways to come to a target's hyperparameters, by what they cost and yield over searches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlp_lib.evidence.intervals import count_text, half_width
from mlp_lib.evidence.pool import Pool, jackknife, logs, read_pool, weighted_mean, weights

FEW = 3  # of a search's best are judged again
ORDERS = 200  # random orders of the trials, of which halving is averaged over all searches of neighbours in the order
COLUMNS = ["n", "practice", "on_target", "elsewhere", "epochs", "quotient", "low", "high"]


class Way(NamedTuple):
    """A practice: how many trainings it takes on the target and elsewhere, and their epochs; what targets come to."""

    practice: str
    on_target: int
    elsewhere: int
    epochs: np.ndarray  # [A], of all those trainings
    losses: np.ndarray  # [A, 1 + T] logs, on all trials, then without each
    luck: float = 0.0  # the variance of their mean from run seed to run seed, where that of the target's own is no part


def practices(
    trials: pd.DataFrame,
    judged: pd.DataFrame,
    curves: pd.DataFrame,
    budget: int,
    parameters: Mapping[str, int],
    default: pd.DataFrame,
    rungs: Callable[[int], Sequence[int]],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The test loss that each practice yields, relative to a search of n trials on the target: a row an n and practice.

    Arguments as in over_searches, both tables with val_loss and epochs_trained; curves: architecture, trial, epoch,
    val_loss; parameters: of each architecture; default: target, seed, test_loss of trainings with torch's default
    hyperparameters, or none; rungs: of successive halving of so many trials, the epochs at their ends. n: the budget,
    and the least and the greatest that the contenders speak of. Columns: n, practice, on_target and elsewhere (how many
    trainings it takes, on the target and on other architectures), epochs (of all of them), quotient (a geometric mean
    over the targets), low, high (over searches, by a jackknife over trials; of the defaults also over run seeds).

    Among the best few, judged again at some of the run seeds, a target's lowest mean validation loss chooses, and the
    other run seeds tell what that yields. A choice that is no contender is left out.
    """
    table = _Table.read(trials, judged, curves, budget)
    pool, rows = table.pool, []
    count = np.array([parameters[name] for name in pool.architectures], float)
    for n in sorted({*pool.budgets[:1], *pool.budgets[-1:], budget} & {*pool.budgets}):
        own = pool.estimate(n).tuned
        for way in _ways(table, n, count, default, rungs(n)):
            cost = _mean(way.losses - own, ~pool.own_diverges[:, None], axis=0)
            half = half_width(np.sqrt(jackknife(cost) + way.luck), 2 * (len(cost) - 1) / n, 1 - confidence)
            ends = np.exp([cost[0], cost[0] - half, cost[0] + half])
            rows.append((n, way.practice, way.on_target, way.elsewhere, round(way.epochs.mean()), *ends))
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Table:
    """The pool with what else practices need."""

    pool: Pool
    again: np.ndarray  # [A, T, k] validation losses of the judged trainings, as the pool has test losses
    search: np.ndarray  # [A, T] validation losses of the search, infinite: diverged
    epochs: np.ndarray  # [A, T] of the search's trainings
    judged_epochs: Pool
    curves: pd.Series  # val_loss by architecture, trial and epoch

    @classmethod
    def read(cls, trials: pd.DataFrame, judged: pd.DataFrame, curves: pd.DataFrame, budget: int) -> "_Table":
        pool, again, epochs = (
            read_pool(trials, judged, budget, values)
            for values in (logs(judged["test_loss"]), logs(judged["val_loss"]), judged["epochs_trained"])
        )
        of_search = trials.pivot(index="architecture", columns="trial", values=["val_loss", "epochs_trained"])
        of_search = of_search.loc[pool.architectures]
        search = of_search["val_loss"].to_numpy(float)
        spent = of_search["epochs_trained"].to_numpy(float)
        found = (
            curves.set_index(["architecture", "trial", "epoch"])["val_loss"] if len(curves) else pd.Series(dtype=float)
        )
        return cls(pool, again.judged, np.where(np.isfinite(search), search, np.inf), spent, epochs, found)

    def without_each(self, find: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[A, 1 + T]: what is found with the positions of all trials, then without each."""
        every = np.arange(self.search.shape[1])
        return np.stack([find(every), *(find(np.delete(every, i)) for i in every)], axis=-1)


def _ways(table: _Table, n: int, count: np.ndarray, default: pd.DataFrame, rungs: Sequence[int]) -> Iterator[Way]:
    pool, a_trial = table.pool, table.epochs.mean(1)
    size, seeds, here = len(count), pool.judged.shape[2], pool.estimate(n)
    extra = FEW * (seeds // 2)
    yield Way("tune on the target", n, 0, n * a_trial, here.tuned)
    if n + extra in pool.budgets and extra:
        more = n + extra
        yield Way(f"tune on it with {extra} more", more, 0, more * a_trial, pool.estimate(more).tuned)
    if extra and n >= FEW:
        best = table.without_each(lambda kept: _judge_again(table, kept, n))
        epochs = n * a_trial + extra * table.judged_epochs.estimate(n).tuned[:, 0]
        yield Way(f"best {FEW} judged again at {count_text(seeds // 2, 'seed')}", n + extra, 0, epochs, best)
    if len(rungs) > 1 and len(table.curves):
        epochs, lost = _halve(table, n, rungs)
        yield Way("successive halving", n, 0, epochs, here.tuned + lost)
    if size > 1:
        others = ~np.eye(size, dtype=bool)
        mean = _mean(here.losses, others[..., None], axis=1)
        yield Way("tune on another architecture", 0, n, n * (others @ a_trial) / (size - 1), mean)
        fewest = np.where(others, count, np.inf).argmin(1)
        small = here.losses[np.arange(size), fewest]
        yield Way("tune on the smallest other", 0, n, n * a_trial[fewest], small)
        agreed = table.without_each(lambda kept: _agree(table, kept, n))
        every = n * (others @ a_trial)
        yield Way("best mean rank on all others", 0, n * (size - 1), every, agreed)
    if len(default):
        by_seed = pd.Series(logs(default["test_loss"]), default.index).groupby(default["seed"]).mean()
        losses = np.broadcast_to(by_seed.mean(), here.tuned.shape)
        yield Way("torch's defaults", 0, 0, np.zeros(size), losses, by_seed.var() / len(by_seed))


def _mean(values: np.ndarray, of: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the finite values `of` which it is."""
    return weighted_mean(np.moveaxis(np.broadcast_to(of, values.shape), axis, -1) * 1.0, np.moveaxis(values, axis, -1))


def _agree(table: _Table, kept: np.ndarray, n: int) -> np.ndarray:
    """[A] log losses with the best of n trials by mean rank, among all trials, on the other architectures."""
    pool, ranks = table.pool, table.search[:, kept].argsort(1, kind="stable").argsort(1)
    order = kept[(ranks.sum(0) - ranks).argsort(1, kind="stable")[:, : pool.best.shape[1]]]
    losses = weighted_mean(np.ones(pool.judged.shape[2]), pool.judged)
    return weighted_mean(weights(n, len(kept), order.shape[1]), np.take_along_axis(losses, order, axis=1))


def _judge_again(table: _Table, kept: np.ndarray, n: int) -> np.ndarray:
    """[A] log losses with that one of a search's best few whose validation loss is lowest at other run seeds."""
    order = kept[table.search[:, kept].argsort(1, kind="stable")]
    (number, trials), seeds = order.shape, range(table.again.shape[2])
    depth = min(trials, 8 * FEW)
    few = np.array([*itertools.combinations(range(depth), FEW)])  # ranks of the best few of those drawn
    chance = np.array([comb(trials - 1 - last, n - FEW) for last in range(depth)], float)[few[:, -1]] / comb(trials, n)
    sums, total = np.zeros(number), np.zeros(number)
    for split in itertools.combinations(seeds, len(seeds) // 2):
        rest = [seed for seed in seeds if seed not in split]
        judged, found = (
            np.take_along_axis(values[:, :, of].mean(2), order[:, :depth], axis=1)
            for values, of in ((table.again, list(split)), (table.pool.judged, rest))
        )
        judged = np.where(np.isfinite(judged) & np.isfinite(found), judged, np.inf)  # no contender: can't be chosen
        places = judged[:, few].argmin(2)
        values = np.take_along_axis(found, few[np.arange(len(few)), places], axis=1)
        there = np.isfinite(values)
        sums += (chance * np.where(there, values, 0)).sum(1)
        total += (chance * there).sum(1)
    with np.errstate(invalid="ignore"):
        return sums / total


def _halve(table: _Table, n: int, rungs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """([A] epochs, [A, 1 + T] the loss of log losses to the whole search) of halving n trials, over random searches."""
    pool, (size, trials) = table.pool, table.search.shape
    orders = np.random.default_rng(0).random((ORDERS, trials)).argsort(1)
    circle = (np.arange(trials)[:, None] + np.arange(n)) % trials  # so each trial is in as many searches as any other
    drawn = orders[:, circle].reshape(-1, n)
    there = (drawn[:, :, None] == np.arange(trials)).any(1)
    ways = np.vstack([np.ones(len(drawn)), ~there.T])  # all searches, then those without each trial
    losses, epochs = weighted_mean(np.ones(pool.judged.shape[2]), pool.judged), np.zeros(size)
    lost = []
    for place, name in enumerate(pool.architectures):
        left, before = drawn, 0
        for end in rungs:
            curve = table.curves.loc[name]
            best = curve[curve.index.get_level_values("epoch") <= end].groupby("trial").min()
            diverged = np.isinf(table.search[place]) & (table.epochs[place] <= end)
            best = np.where(diverged, np.inf, best.reindex(pool.numbers).fillna(np.inf))
            spent = np.clip(table.epochs[place], before, end) - before
            epochs[place] += spent[left].sum() / len(drawn)
            ranked = np.take_along_axis(left, best[left].argsort(1, kind="stable"), axis=1)
            left, before = ranked[:, : -(-left.shape[1] // 2)], end
        whole = drawn[np.arange(len(drawn)), table.search[place][drawn].argmin(1)]
        lost.append(weighted_mean(ways, losses[place][ranked[:, 0]] - losses[place][whole]))
    return epochs, np.stack(lost)
