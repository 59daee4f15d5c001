"""What tuning comes to in errors and in operations, over searches: tables beside those of `over_searches`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mlp_lib.evidence.pool import Pool, jackknife, logs, read_pool
from mlp_lib.evidence.searches import CURVES, curve


def error_curves(trials: pd.DataFrame, judged: pd.DataFrame, budget: int, confidence: float = 0.95) -> pd.DataFrame:
    """The tuning curves of the error, 1 - accuracy, without logarithm: architecture, n, error, low, high, share_best.

    As over_searches' `tuning_curves`; judged has test_accuracy too. Hyperparameters are chosen by validation loss.
    """
    pool = _error_pool(trials, judged, budget)
    rows = [row for n in pool.budgets for row in curve(pool, pool.estimate(n), confidence)]
    return pd.DataFrame(rows, columns=CURVES).rename(columns={"loss": "error"})


def error_pairs(trials: pd.DataFrame, judged: pd.DataFrame, budget: int) -> pd.DataFrame:
    """The error, 1 - accuracy, of each target with each source's search: target, source, error, regret, se (regret's).

    regret: less the error with its own, 0 on the diagonal. Arguments as in error_curves; empty below two trials.
    """
    pool = _error_pool(trials, judged, budget)
    if budget not in pool.budgets:
        return pd.DataFrame(columns=["target", "source", "error", "regret", "se"])
    estimate = pool.estimate(budget)
    se = np.sqrt(jackknife(estimate.regret))
    return _by_pair(pool, error=estimate.losses[..., 0], regret=estimate.regret[..., 0], se=se)


def tuning_cost(
    trials: pd.DataFrame,
    judged: pd.DataFrame,
    budget: int,
    parameters: Mapping[str, int],
    images: int,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """What tuning on a source with n trials costs and yields: target, source, n, operations, loss, low, high.

    Arguments as in over_searches, both tables with epochs_trained; parameters: of each architecture; images: of an
    epoch. operations: floating-point ones of n of the source's trials, which took their mean number of epochs, and of
    training the target once; 6 a parameter and image, forward and backward (Kaplan et al. 2020, "Scaling laws for
    neural language models", section 2.1). loss: log of the target's test loss in nats, with its interval.
    """
    pool = read_pool(trials, judged, budget, logs(judged["test_loss"]))
    epochs = read_pool(trials, judged, budget, judged["epochs_trained"])
    an_epoch = 6.0 * images * np.array([parameters[name] for name in pool.architectures])
    a_trial = trials.groupby("architecture")["epochs_trained"].mean()[pool.architectures].to_numpy() * an_epoch
    tables = []
    for n in pool.budgets:
        estimate = pool.estimate(n)
        loss, half = estimate.losses[..., 0], estimate.half(estimate.losses, confidence)
        values = {"loss": loss, "low": loss - half, "high": loss + half}
        once = epochs.estimate(n).losses[..., 0] * an_epoch[:, None]
        tables.append(_by_pair(pool, n=np.full_like(half, n, int), operations=n * a_trial + once, **values))
    columns = ["target", "source", "n", "operations", "loss", "low", "high"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def small_pays(costs: pd.DataFrame, parameters: Mapping[str, int], n: int) -> dict | None:
    """What the largest target comes to when the cost of n trials on itself is spent on the source of cheapest trials.

    costs: of tuning_cost. Plain values: target, source, n, trials (of the source, as many as the cost and the curves
    allow), operations (a share of those of tuning on itself), quotient (of the losses), sentence. None where that
    source is the target itself, or the cost allows none of its curve's numbers of trials.
    """
    target = max(costs["target"].unique(), key=lambda name: parameters[name], default=None)
    rows = costs[costs["target"] == target]
    own = rows[(rows["source"] == target) & (rows["n"] == n)]
    affordable = rows[rows["operations"] <= own["operations"].sum()]
    if own.empty or affordable.empty:
        return None
    cheapest = rows.loc[rows.loc[rows["n"] == n, "operations"].idxmin(), "source"]
    chosen = affordable[affordable["source"] == cheapest]
    if cheapest == target or chosen.empty:
        return None
    best, own = chosen.loc[chosen["n"].idxmax()], own.iloc[0]
    quotient, share = float(np.exp(best["loss"] - own["loss"])), float(best["operations"] / own["operations"])
    ends = np.exp([best["low"] - own["high"], best["high"] - own["low"]])
    short = [name.removeprefix("mlp_") for name in (target, cheapest)]
    sentence = (
        f"With at most the cost of {n} trials on {short[0]} itself, tuning on {short[1]} ({best['n']} trials, "
        f"{share:.0%} of the cost) gives {quotient:.3f} times its loss ({ends[0]:.2f} to {ends[1]:.2f} by the ends of "
        "both intervals)."
    ).replace("%", " %")
    return {
        **{"target": target, "source": cheapest, "n": int(n), "trials": int(best["n"])},
        **{"operations": share, "quotient": quotient, "sentence": sentence},
    }


def image_variance(
    losses: Mapping[str, np.ndarray], confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """The luck of the test images: each pair of architectures on images drawn anew, the same for both.

    losses: nats [seeds, images] of each architecture. Columns: first, second, difference (of the logs of mean losses),
    low, high (percentiles), variance, all of the paired bootstrap (Efron 1979) of `draws`. Half of a pair's
    variance, averaged over the pairs, is what the images add to one architecture, beside the other components.
    """
    names, rng = list(losses), np.random.default_rng(seed)
    by_image = np.stack([np.asarray(of_seeds, float).mean(axis=0) for of_seeds in losses.values()], axis=1)
    count = len(by_image)
    drawn = [np.bincount(rng.integers(count, size=count), minlength=count) @ by_image / count for _ in range(draws)]
    first, second = np.triu_indices(len(names), 1)
    mean, logs_drawn = np.log(by_image.mean(axis=0)), np.log(drawn)
    differences = logs_drawn[:, first] - logs_drawn[:, second]
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return pd.DataFrame(
        {
            "first": np.array(names)[first],
            "second": np.array(names)[second],
            "difference": mean[first] - mean[second],
            "low": low,
            "high": high,
            "variance": differences.var(axis=0, ddof=1),
        }
    )


def _error_pool(trials: pd.DataFrame, judged: pd.DataFrame, budget: int) -> Pool:
    errors = (1 - judged["test_accuracy"]).where(np.isfinite(judged["test_loss"]))
    return read_pool(trials, judged, budget, errors)


def _by_pair(pool: Pool, **values: np.ndarray) -> pd.DataFrame:
    """A row a target and source, of tables [target, source]."""
    index = pd.MultiIndex.from_product([pool.architectures] * 2, names=["target", "source"])
    return pd.DataFrame({name: table.ravel() for name, table in values.items()}, index).reset_index()
