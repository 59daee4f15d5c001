"""What tuning comes to in errors and in operations, over searches: tables beside those of `over_searches`."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mlp_lib.evidence.intervals import count_text
from mlp_lib.evidence.pool import Pool, logs, read_pool
from mlp_lib.evidence.searches import CURVES, curve
from mlp_lib.evidence.summaries import short_name
from mlp_lib.evidence.verdicts import MOST


def error_curves(trials: pd.DataFrame, judged: pd.DataFrame, budget: int, confidence: float = 0.95) -> pd.DataFrame:
    """The tuning curves of the error, 1 - accuracy, without logarithm: architecture, n, error, low, high, share_best.

    As over_searches' `tuning_curves`; judged has test_accuracy too. Hyperparameters are chosen by validation loss.
    """
    pool = _error_pool(trials, judged, budget)
    rows = [row for n in pool.budgets for row in curve(pool, pool.estimate(n), confidence)]
    return pd.DataFrame(rows, columns=CURVES).rename(columns={"loss": "error"})


def error_pairs(trials: pd.DataFrame, judged: pd.DataFrame, budget: int) -> pd.DataFrame:
    """The error, 1 - accuracy, of each target with each source's search: target, source, error, regret.

    regret: less the error with its own, 0 on the diagonal. Arguments as in error_curves; empty below two trials.
    """
    pool = _error_pool(trials, judged, budget)
    if budget not in pool.budgets:
        return pd.DataFrame(columns=["target", "source", "error", "regret"])
    estimate = pool.estimate(budget)
    return _by_pair(pool, error=estimate.losses[..., 0], regret=estimate.regret[..., 0])


def tuning_cost(
    trials: pd.DataFrame,
    judged: pd.DataFrame,
    budget: int,
    searching: pd.Series,
    training: pd.Series,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """What tuning on a source with n trials costs and yields: target, source, n, operations, loss, low, high.

    Arguments as in over_searches, both tables with epochs_trained; searching, training: the operations of an epoch of
    each architecture on the data of the trials, and on that of judged. operations: floating-point ones of n of the
    source's trials, which took their mean number of epochs, and of training the target once. loss: log of the target's
    test loss in nats, with its interval; NaN where most of the target's trainings diverge.
    """
    pool = read_pool(trials, judged, budget, logs(judged["test_loss"]))
    epochs = read_pool(trials, judged, budget, judged["epochs_trained"])
    a_trial = operations_of_a_trial(trials, searching)[pool.architectures].to_numpy()
    tables = []
    for n in pool.budgets:
        estimate = pool.estimate(n)
        loss, half = estimate.losses[..., 0], estimate.half(estimate.losses, confidence)
        loss = np.where(pool.diverged > MOST, np.nan, loss)
        values = {"loss": loss, "low": loss - half, "high": loss + half}
        once = epochs.estimate(n).losses[..., 0] * training[pool.architectures].to_numpy()[:, None]
        tables.append(_by_pair(pool, n=np.full_like(half, n, int), operations=n * a_trial + once, **values))
    columns = ["target", "source", "n", "operations", "loss", "low", "high"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def operations_of_a_trial(trials: pd.DataFrame, an_epoch: pd.Series) -> pd.Series:
    """The floating-point operations of an architecture's trials, on average; an_epoch: those of an epoch of each."""
    return trials.groupby("architecture", sort=False)["epochs_trained"].mean().astype(float) * an_epoch


def small_pays(costs: pd.DataFrame, a_trial: pd.Series, parameters: Mapping[str, int], n: int) -> str:
    """What the largest target comes to when the cost of n trials on itself is spent on the source of cheapest trials.

    costs: of tuning_cost; a_trial: see operations_of_a_trial. A sentence, with as many trials of the source as the cost
    and the curves allow. Empty where that source is no smaller than the target, where the cost allows none of its
    curve's numbers of trials, or where the interval of the quotient isn't known or holds 1.
    """
    target = max(costs["target"].unique(), key=lambda name: parameters[name], default=None)
    source = a_trial.idxmin()
    rows = costs[costs["target"] == target]
    own = rows[(rows["source"] == target) & (rows["n"] == n)]
    chosen = rows[(rows["source"] == source) & (rows["operations"] <= own["operations"].sum())]
    if target is None or parameters[source] >= parameters[target] or chosen.empty:
        return ""
    best, own = chosen.loc[chosen["n"].idxmax()], own.iloc[0]
    ends = best["low"] - own["high"], best["high"] - own["low"]
    if not np.isfinite(ends).all() or ends[0] <= 0 <= ends[1]:
        return ""
    quotient, low, high = np.exp([best["loss"] - own["loss"], *ends])
    return (
        f"With at most the cost of {count_text(n, 'trial')} on {short_name(target)} itself, tuning on "
        f"{short_name(source)} ({count_text(best['n'], 'trial')}, {best['operations'] / own['operations']:.0%} of the "
        f"cost) gives {quotient:.3f} times its loss ({low:.2f} to {high:.2f} by the ends of both intervals)."
    ).replace("%", " %")


def image_variance(losses: Mapping[str, Mapping[int, np.ndarray]]) -> float:
    """The luck of the test images: what they add to the variance of one architecture's log mean loss.

    losses: of each architecture by run seed the loss of each image [N] in nats, not finite where it diverged. Half of
    the variance of a pair's difference, averaged over the pairs, of the images common to both. It is taken from
    products of different seeds, so that what a run seed makes of single images, which the seed's own component has,
    is no part of it; never below 0, and NaN where no pair has two seeds.
    """
    found = []
    for first, second in itertools.combinations(losses.values(), 2):
        seeds = [s for s in first if s in second and np.isfinite([first[s], second[s]]).all()]
        if len(seeds) > 1:
            one, other = (np.array([of[seed] for seed in seeds], float) for of in (first, second))
            # how each image moves a seed's difference of logs (its influence): [seeds, images]
            moves = one / one.mean(1, keepdims=True) - other / other.mean(1, keepdims=True)
            products = moves.sum(0) ** 2 - (moves**2).sum(0)
            found.append(products.sum() / (len(seeds) * (len(seeds) - 1) * moves.shape[1] ** 2))
    return max(float(np.mean(found)) / 2, 0.0) if found else math.nan


def _error_pool(trials: pd.DataFrame, judged: pd.DataFrame, budget: int) -> Pool:
    errors = (1 - judged["test_accuracy"]).where(np.isfinite(judged["test_loss"]))
    return read_pool(trials, judged, budget, errors)


def _by_pair(pool: Pool, **values: np.ndarray) -> pd.DataFrame:
    """A row a target and source, of tables [target, source]."""
    index = pd.MultiIndex.from_product([pool.architectures] * 2, names=["target", "source"])
    return pd.DataFrame({name: table.ravel() for name, table in values.items()}, index).reset_index()
