"""What to do in practice: ways to come to a target's hyperparameters, by what they yield over searches."""

import itertools
from collections.abc import Callable, Mapping
from math import comb

import numpy as np
import pandas as pd

from mlp_lib.evidence.intervals import count_text, half_width
from mlp_lib.evidence.pool import Pool, jackknife, logs, read_pool, weighted_mean, weights

FEW = 3  # of a search's best are judged again
COLUMNS = ["n", "practice", "on_target", "elsewhere", "quotient", "low", "high"]


def practices(
    trials: pd.DataFrame,
    judged: pd.DataFrame,
    budget: int,
    parameters: Mapping[str, int],
    default: pd.DataFrame,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The test loss that each practice yields, relative to a search of n trials on the target: a row an n and practice.

    Arguments as in over_searches, judged with val_loss too; parameters: of each architecture; default: target, seed,
    test_loss of trainings with torch's default hyperparameters, or none. n: the budget, and the least and the greatest
    that the contenders speak of. Columns: n, practice, on_target and elsewhere (trainings that it takes, on the target
    and on other architectures), quotient (a geometric mean over the targets), low, high (over searches, by a jackknife
    over trials; of the defaults also over run seeds). Among the best few, judged again at some of the run seeds, a
    target's lowest mean validation loss chooses, and the other run seeds tell what that yields.
    """
    pool = read_pool(trials, judged, budget, logs(judged["test_loss"]))
    again = read_pool(trials, judged, budget, logs(judged["val_loss"])).judged
    table = trials.pivot(index="architecture", columns="trial", values="val_loss").loc[pool.architectures, pool.numbers]
    search = table.where(np.isfinite(table), np.inf).to_numpy(float)
    seeds, size, others = pool.judged.shape[2], len(pool.architectures), len(pool.architectures) - 1
    extra, of_all, rows = FEW * (seeds // 2), ~np.eye(size, dtype=bool), []
    count = np.array([parameters[name] for name in pool.architectures], float)
    fewest = np.where(of_all, count, np.inf).argmin(1)
    known = logs(default["test_loss"]) if len(default) else np.empty(0)
    by_seed = (
        pd.Series(known, default.index).groupby(default["seed"]).mean() if len(default) else pd.Series(dtype=float)
    )
    for n in sorted({*pool.budgets[:1], *pool.budgets[-1:], budget} & {*pool.budgets}):
        here = pool.estimate(n)
        own, losses = here.tuned, here.losses
        ways = {"tune on the target": (n, 0, own)}
        if n + extra in pool.budgets:
            ways[f"the same with {extra} trials more"] = (n + extra, 0, pool.estimate(n + extra).tuned)
        if seeds > 1 and n >= FEW:
            best = _without_each(search, lambda kept, n=n: _judge_again(search, pool.judged, again, kept, n))
            ways[f"its best {FEW} judged again at {count_text(seeds // 2, 'run seed')}"] = (n + extra, 0, best)
        if others:
            ways["tune on another architecture"] = (0, n, _mean(losses, of_all[..., None], axis=1))
            ways["tune on the one of fewest parameters"] = (0, n, losses[np.arange(size), fewest])
            agreed = _without_each(search, lambda kept, n=n: _agree(search, pool, kept, n))
            ways["the best by mean rank of searches on all others"] = (0, n * others, agreed)
        if len(by_seed):
            ways["torch's defaults"] = (0, 0, np.broadcast_to(by_seed.mean(), own.shape))
        for practice, (on_target, elsewhere, found) in ways.items():
            cost = _mean(found - own, ~pool.own_diverges[:, None], axis=0)
            luck = by_seed.var() / len(by_seed) if practice == "torch's defaults" else 0.0
            half = half_width(np.sqrt(jackknife(cost) + luck), 2 * (len(cost) - 1) / n, 1 - confidence)
            ends = np.exp([cost[0], cost[0] - half, cost[0] + half])
            rows.append((n, practice, on_target, elsewhere, *ends))
    return pd.DataFrame(rows, columns=COLUMNS)


def _mean(values: np.ndarray, of: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the finite values `of` which it is."""
    return weighted_mean(np.moveaxis(np.broadcast_to(of, values.shape), axis, -1) * 1.0, np.moveaxis(values, axis, -1))


def _without_each(search: np.ndarray, find: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[A, 1 + T]: what is found with the positions of all trials, then without each."""
    every = np.arange(search.shape[1])
    return np.stack([find(every), *(find(np.delete(every, i)) for i in every)], axis=-1)


def _agree(search: np.ndarray, pool: Pool, kept: np.ndarray, n: int) -> np.ndarray:
    """[A] log losses with the best of n trials by mean rank, among all trials, on the other architectures."""
    ranks = search[:, kept].argsort(1, kind="stable").argsort(1)
    order = kept[(ranks.sum(0) - ranks).argsort(1, kind="stable")[:, : pool.best.shape[1]]]
    losses = weighted_mean(np.ones(pool.judged.shape[2]), pool.judged)
    return weighted_mean(weights(n, len(kept), order.shape[1]), np.take_along_axis(losses, order, axis=1))


def _judge_again(search: np.ndarray, test: np.ndarray, again: np.ndarray, kept: np.ndarray, n: int) -> np.ndarray:
    """[A] log losses with that one of a search's best few whose validation loss is lowest at other run seeds."""
    order = kept[search[:, kept].argsort(1, kind="stable")]
    depth, trials, seeds = min(order.shape[1], 8 * FEW), order.shape[1], range(test.shape[2])
    few = np.array([*itertools.combinations(range(depth), FEW)])  # ranks of the best few of those drawn
    chance = np.array([comb(trials - 1 - last, n - FEW) for last in range(depth)], float)[few[:, -1]] / comb(trials, n)
    sums, total = np.zeros(len(search)), np.zeros(len(search))
    for split in itertools.combinations(seeds, len(seeds) // 2):
        rest = [seed for seed in seeds if seed not in split]
        judged, found = (
            np.take_along_axis(values[:, :, of].mean(2), order[:, :depth], axis=1)
            for values, of in ((again, list(split)), (test, rest))
        )
        judged = np.where(np.isfinite(judged) & np.isfinite(found), judged, np.inf)  # no contender: can't be chosen
        chosen = np.take_along_axis(
            np.broadcast_to(few, (len(search), *few.shape)), judged[:, few].argmin(2)[..., None], 2
        )
        values = np.take_along_axis(found, chosen[..., 0], axis=1)
        there = np.isfinite(values)
        sums += (chance * np.where(there, values, 0)).sum(1)
        total += (chance * there).sum(1)
    with np.errstate(invalid="ignore"):
        return sums / total
