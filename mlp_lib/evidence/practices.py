"""What to do in practice: ways to come to a target's hyperparameters, by what they cost and yield over searches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from mlp_lib.evidence.intervals import count_text, half_width, jackknife, satterthwaite
from mlp_lib.evidence.pool import Pool, logs, read_pool, weighted_mean, weights

FEW = 3  # of a search's best are judged again
ORDERS = 200  # random orders of the trials, of which halving is averaged over all searches of neighbours in the order
COLUMNS = ["n", "practice", "on_target", "elsewhere", "epochs", "quotient", "low", "high", "diverged"]

# of the positions of some trials [t]: the chance, over searches among them, that a target trains with each, and at
# which of the run seeds that is judged [A, t, k], or [A, t, 1] where at all alike
Choice = Callable[[np.ndarray], np.ndarray]


class Way(NamedTuple):
    """A practice: how many trainings it takes on the target and elsewhere, and their epochs; what targets come to."""

    practice: str
    on_target: int
    elsewhere: int
    epochs: np.ndarray  # [A], of all those trainings
    losses: np.ndarray  # [A, 1 + T] logs, on all trials, then without each
    diverged: np.ndarray  # [A] share of the trainings that are judged
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

    Arguments as in over_searches, trials with epochs_trained and test_loss, judged with val_loss; curves: architecture,
    trial, epoch, val_loss; parameters: of each architecture; default: target, seed, test_loss of trainings with torch's
    default hyperparameters, or none; rungs: of successive halving of so many trials, the epochs at their ends. n: the
    budget, and the least and the greatest that the contenders speak of. Columns: n, practice, on_target and elsewhere
    (how many trainings it takes, on the target and on other architectures), epochs (of all of them), quotient (a
    geometric mean over the targets whose own search ends in what mostly trains), low, high (over searches, by a
    jackknife over trials; of the defaults also over run seeds, see satterthwaite), diverged (the share of the trainings
    that tell this, which the quotient leaves out).

    Among the best few, judged again at half of the run seeds, a target's lowest mean validation loss chooses, and the
    other run seeds tell what that yields. A choice that is no contender is told by its training in the search, or left
    out where trials has no test_loss.
    """
    table = _Table.read(trials, judged, curves, budget)
    pool, rows = table.pool, []
    seeds = pool.judged.shape[2]
    count, known = np.array([parameters[name] for name in pool.architectures], float), 1.0 - pool.own_diverges
    for n in sorted({*pool.budgets[:1], *pool.budgets[-1:], budget} & {*pool.budgets}):
        own, *others = _ways(table, n, count, default, rungs(n))
        for way in (own, *others):
            cost = weighted_mean(known, (way.losses - own.losses).T)
            parts = np.array([jackknife(cost), way.luck]), np.array([2 * (len(cost) - 1) / n, max(seeds - 1, 1)])
            half = half_width(np.sqrt(parts[0].sum()), satterthwaite(*parts), 1 - confidence)
            means = (*np.exp([cost[0], cost[0] - half, cost[0] + half]), weighted_mean(known, way.diverged))
            rows.append((n, way.practice, way.on_target, way.elsewhere, way.epochs.mean().round(), *means))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"epochs": "Int64"})


@dataclass(frozen=True)
class _Table:
    """All trainings as practices see them: those of contenders as they were judged, of other trials the search's."""

    pool: Pool
    search: np.ndarray  # [A, T] validation losses of the search, infinite: diverged
    epochs: np.ndarray  # [A, T] of the search's trainings
    test: np.ndarray  # [A, T, k] log test losses, at a seed that diverged the mean of the others; NaN: none
    validation: np.ndarray  # [A, T, k] the same of log validation losses
    diverged: np.ndarray  # [A, T, k]
    curves: pd.Series  # val_loss by architecture, trial and epoch; empty unless they are all there

    @classmethod
    def read(cls, trials: pd.DataFrame, judged: pd.DataFrame, curves: pd.DataFrame, budget: int) -> "_Table":
        pool, again = (read_pool(trials, judged, budget, logs(judged[name])) for name in ("test_loss", "val_loss"))
        of_trials = trials.pivot(index="architecture", columns="trial").loc[pool.architectures]
        contender, seeds = np.isin(pool.numbers, pool.contenders), np.ones(pool.judged.shape[2])
        filled = []
        for judged_again, name in ((pool.judged, "test_loss"), (again.judged, "val_loss")):
            of_search = logs(of_trials[name]) if "test_loss" in trials else np.full(contender.shape, np.nan)
            means = np.where(contender, weighted_mean(seeds, judged_again), of_search)
            filled.append(np.where(np.isnan(judged_again), means[..., None], judged_again))
        search, epochs = (of_trials[name].to_numpy(float) for name in ("val_loss", "epochs_trained"))
        search = np.where(np.isfinite(search), search, np.inf)
        diverged = np.where(contender[:, None], np.isnan(pool.judged), np.isinf(search)[..., None])
        return cls(pool, search, epochs, *filled, diverged, _whole(curves, trials))

    def told(self, choose: Choice) -> tuple[np.ndarray, np.ndarray]:
        """([A, 1 + T] log losses of what is chosen of all trials, then without each; [A] the share that diverges)."""
        every, losses = np.arange(self.search.shape[1]), []
        for kept in [every, *(np.delete(every, i) for i in every)]:
            test = self.test[:, kept]
            chance = np.broadcast_to(choose(kept), test.shape)
            losses.append(weighted_mean(chance.reshape(len(test), -1), test.reshape(len(test), -1)))
        chance = np.broadcast_to(choose(every), self.test.shape)
        return np.stack(losses, -1), (chance * self.diverged).sum((1, 2)) / chance.sum((1, 2))

    def best(self, n: int, kept: np.ndarray) -> np.ndarray:
        """That a trial is the best of a search of n on the target."""
        return _best_of(n, self.search[:, kept])

    def elsewhere(self, n: int, sources: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """That it is the best of a search on one of the sources, whose chances [target, source] are given."""
        return np.tensordot(sources, self.best(n, kept), 1)

    def agreed(self, n: int, kept: np.ndarray) -> np.ndarray:
        """That it has the best mean rank, among all trials, on the other architectures."""
        ranks = _ranks(self.search[:, kept])
        return _best_of(n, ranks.sum(0) - ranks)

    def again(self, n: int, kept: np.ndarray) -> np.ndarray:
        """That of a search's best few its validation loss is lowest at half of the seeds; the others judge it."""
        order = self.search[:, kept].argsort(1, kind="stable")
        seeds, number = np.arange(self.test.shape[2]), len(kept)
        # that a rank is the last of the best few of those drawn, in which given others precede it
        last = np.array([comb(number - 1 - rank, n - FEW) / comb(number, n) for rank in range(number)])
        chance = np.zeros((*order.shape, len(seeds)))
        for first in seeds:  # as many splits as seeds: each judges as often as any other
            chosen = np.isin(seeds, (first + np.arange(len(seeds) // 2)) % len(seeds))
            places = _ranks(np.take_along_axis(self.validation[:, kept][..., chosen].mean(2), order, 1))
            worse = places[:, :, None] < places[:, None]  # [A, rank, other rank]
            before = worse.cumsum(2) - worse  # how many worse ones precede the other
            is_last = scipy.special.comb(before.diagonal(0, 1, 2), FEW - 1)
            others = np.triu(worse, 1) * scipy.special.comb(before, FEW - 2)
            of_rank = is_last * last + others @ last
            of_trial = np.empty_like(of_rank)
            np.put_along_axis(of_trial, order, of_rank, 1)
            chance[..., ~chosen] += of_trial[..., None] / (~chosen).sum()
        return chance

    def halved(self, n: int, rungs: Sequence[int]) -> tuple[np.ndarray, Choice]:
        """([A] epochs of halving n trials, that a trial is what is left), over random searches.

        What those searches would choose as a whole stands in for what all would, which takes most of their luck away.
        """
        size, trials = self.search.shape
        orders = np.random.default_rng(0).random((ORDERS, trials)).argsort(1)
        circle = (np.arange(trials)[:, None] + np.arange(n)) % trials  # so each is in as many searches as any other
        drawn = orders[:, circle].reshape(-1, n)
        there = np.zeros((len(drawn), trials), bool)
        np.put_along_axis(there, drawn, True, 1)
        epochs, gains = np.zeros(size), []
        for place, name in enumerate(self.pool.architectures):
            left, before, spent_by = drawn, 0, self.epochs[place]
            for end in rungs:
                curve = self.curves.loc[name]
                best = curve[curve.index.get_level_values("epoch") <= end].groupby("trial").min()
                diverged = np.isinf(self.search[place]) & (spent_by <= end)
                best = np.where(diverged, np.inf, best.reindex(self.pool.numbers).fillna(np.inf))
                epochs[place] += (np.clip(spent_by, before, end) - before)[left].sum() / len(drawn)
                ranked = np.take_along_axis(left, best[left].argsort(1, kind="stable"), axis=1)
                left, before = ranked[:, : -(-left.shape[1] // 2)], end
            whole = drawn[np.arange(len(drawn)), self.search[place][drawn].argmin(1)]
            gains.append((ranked[:, 0], whole))

        def choose(kept: np.ndarray) -> np.ndarray:
            of = ~np.delete(there, kept, axis=1).any(1)
            counts = [[np.bincount(which[of], minlength=trials) for which in pair] for pair in gains]
            gain = np.subtract(*np.moveaxis(counts, 1, 0))[:, kept] / of.sum()
            return self.best(n, kept) + gain[..., None]

        return epochs, choose


def _whole(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.Series:
    """The curves by architecture, trial and epoch, if every trial that didn't diverge has one."""
    names = ["architecture", "trial"]
    trained = trials[np.isfinite(trials["val_loss"].astype(float))]
    found = curves if len(curves) else pd.DataFrame(columns=[*names, "epoch", "val_loss"])
    missing = pd.MultiIndex.from_frame(trained[names]).difference(pd.MultiIndex.from_frame(found[names]))
    return found.set_index([*names, "epoch"])["val_loss"].astype(float)[: 0 if len(missing) else None]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis from 0, the first of equals before the others, NaN last."""
    return values.argsort(-1, kind="stable").argsort(-1)


def _best_of(n: int, values: np.ndarray) -> np.ndarray:
    """[A, t, 1]: the chance that each value [A, t] is the lowest of n that are drawn."""
    return weights(n, values.shape[1], values.shape[1])[_ranks(values)][..., None]


def _ways(table: _Table, n: int, count: np.ndarray, default: pd.DataFrame, rungs: Sequence[int]) -> Iterator[Way]:
    pool, a_trial = table.pool, np.nanmean(table.epochs, 1)
    size, seeds = len(count), pool.judged.shape[2]
    extra = FEW * (seeds // 2)
    yield Way("tune on the target", n, 0, n * a_trial, *table.told(partial(table.best, n)))
    if n + extra in pool.budgets and extra:
        more = n + extra
        yield Way(f"tune on it with {extra} more", more, 0, more * a_trial, *table.told(partial(table.best, more)))
    if extra and n >= FEW:
        chosen = table.best(n, np.arange(len(pool.numbers)))[..., 0]  # lasts as long as those that are judged again
        epochs = n * a_trial + extra * weighted_mean(chosen, table.epochs)
        best = f"best {FEW} judged again at {count_text(seeds // 2, 'seed')}"
        yield Way(best, n + extra, 0, epochs, *table.told(partial(table.again, n)))
    if len(rungs) > 1 and len(table.curves):
        epochs, choose = table.halved(n, rungs)
        yield Way("successive halving", n, 0, epochs, *table.told(choose))
    if size > 1:
        others = (1 - np.eye(size)) / (size - 1)
        other = table.told(partial(table.elsewhere, n, others))
        yield Way("tune on another architecture", 0, n, n * others @ a_trial, *other)
        fewest = np.where(others, count, np.inf).argmin(1)
        small = table.told(partial(table.elsewhere, n, np.eye(size)[fewest]))
        yield Way("tune on the smallest other", 0, n, n * a_trial[fewest], *small)
        every = n * (size - 1) * others @ a_trial
        yield Way("best mean rank on all others", 0, n * (size - 1), every, *table.told(partial(table.agreed, n)))
    if len(default):
        of_targets = default.assign(log=logs(default["test_loss"])).pivot(index="target", columns="seed", values="log")
        of_targets = of_targets.reindex(pool.architectures)
        means = of_targets.mean(axis=1).to_numpy()[:, None]
        by_seed = (of_targets - means).mean()
        diverged = of_targets.isna().mean(axis=1).to_numpy()
        losses = np.broadcast_to(means, (size, 1 + len(pool.numbers)))
        yield Way("torch's defaults", 0, 0, np.zeros(size), losses, diverged, by_seed.var() / len(by_seed))
