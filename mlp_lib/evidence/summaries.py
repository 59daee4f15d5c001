"""Pure functions of tables of losses: their summaries, regret and choices.

A table has a row a training; losses are in nats an example, and one that is not finite is of a training that
diverged, or was not trained (its validation loss never came below that of guessing), which counts as diverged.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlp_lib.core.values import CLASSES, COMPLETED, GUESSING, HYPERPARAMETERS

_LOSSES = ["val_loss", "val_accuracy", "test_loss", "test_accuracy"]


def _summary(group: pd.DataFrame) -> dict[str, float]:
    finite = group.loc[np.isfinite(group["test_loss"]), ["test_loss", "test_accuracy"]]
    # sorted, so that the bits do not depend on the order of the rows
    losses, accuracies = (finite[name].sort_values() for name in finite)
    numbers = {"mean": losses.mean(), "var": losses.var(), "min": losses.min(), "max": losses.max()}
    return {"n": len(losses)} | numbers | {"mean_accuracy": accuracies.mean()}


def summarize(losses: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row a group, in order of first appearance: `by`, n, mean, var, min, max, mean_accuracy.

    `losses` has the columns `by`, test_loss and test_accuracy. n counts the finite losses, and everything else is over
    these; var is the sample variance (n - 1), NaN for n = 1; a group without a finite loss has n = 0 and NaN.
    """
    rows = [dict(zip(by, key, strict=True)) | _summary(group) for key, group in losses.groupby(by, sort=False)]
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "var", "min", "max", "mean_accuracy"])


def by_pair(pairs: pd.DataFrame, values: str) -> pd.DataFrame:
    """A column of pairs as a matrix: rows are targets, columns sources; NaN where there is none.

    Targets come in order of first appearance, sources in the same order, and after them those that are no target.
    """
    targets, sources = pairs["target"].unique(), pairs["source"].unique()
    columns = [name for name in dict.fromkeys([*targets, *sources]) if name in sources]
    return pairs.pivot(index="target", columns="source", values=values).reindex(index=targets, columns=columns)


def mean_loss_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """Mean test loss over the finite seeds by pair; `losses` has the columns target, source, seed, test_loss."""
    return by_pair(summarize(losses.assign(test_accuracy=np.nan), ["target", "source"]), "mean")


def mean_error(losses: pd.DataFrame, by: list[str]) -> pd.Series:
    """The mean of 1 - test_accuracy of the trainings that did not diverge, by `by`; NaN where it wasn't measured."""
    accuracy = losses.get("test_accuracy", pd.Series(np.nan, losses.index))
    errors = (1 - accuracy).where(np.isfinite(losses["test_loss"]))
    return errors.groupby([losses[name] for name in by]).mean()


def regret_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """Mean test loss(target with the source's hyperparameters) - mean test loss(target with its own), in nats.

    Rows are targets, columns sources, the diagonal is exactly 0; the row of a target without an own result is NaN.
    """
    means = mean_loss_matrix(losses)
    return means.sub(_own(means), axis=0)


def relative_regret_matrix(losses: pd.DataFrame) -> pd.DataFrame:
    """The quotient of the same two means, transferred / own; the diagonal is exactly 1."""
    means = mean_loss_matrix(losses)
    return means.div(_own(means), axis=0)


def _own(means: pd.DataFrame) -> pd.Series:
    return pd.Series(np.diag(means.reindex(columns=means.index)), means.index, dtype=float)


def log_costs(losses: pd.DataFrame) -> pd.DataFrame:
    """target, source, seed, log (of the test loss; NaN: diverged), own (that of the target's own) and cost, log - own.

    losses: target, source, seed, test_loss; a row a training.
    """
    log = np.log(losses["test_loss"].where(np.isfinite(losses["test_loss"]) & (losses["test_loss"] > 0)))
    table = losses[["target", "source", "seed"]].assign(log=log)
    own = table.loc[table["target"] == table["source"], ["target", "seed", "log"]].rename(columns={"log": "own"})
    table = table.merge(own, on=["target", "seed"], how="left")
    return table.assign(cost=table["log"] - table["own"])


def by_trial(results: pd.DataFrame) -> pd.DataFrame:
    """A row a trial: of a grid, which trained each at several run seeds, the means over these.

    results: the columns of search_results.csv, which has `seed` in a grid, and maybe `architecture`. A trial that
    diverged at a seed has diverged; whole numbers are rounded.
    """
    if "seed" not in results:
        return results
    names = [name for name in ("architecture", "trial", *HYPERPARAMETERS) if name in results]
    marked = results.assign(status=results["status"].where(results["status"] != COMPLETED))
    groups = marked.drop(columns="seed").groupby(names, sort=False)
    means = groups.mean(numeric_only=True)
    means[_LOSSES] = means[_LOSSES].where(groups[_LOSSES].count().eq(groups.size(), axis=0))
    means.insert(0, "status", groups["status"].first().fillna(COMPLETED))
    whole = dict.fromkeys(("best_epoch", "epochs_trained"), "Int64")
    return means.round(dict.fromkeys(whole, 0)).astype(whole).reset_index()


def best_trial(results: pd.DataFrame) -> pd.Series | None:
    """The trial of lowest validation loss (ties: the lowest number), or None if none has a finite one.

    results: the columns of search_results.csv.
    """
    finite = results[np.isfinite(results["val_loss"].astype(float))].sort_values("trial")
    return None if finite.empty else finite.loc[finite["val_loss"].idxmin()]


def untrained(trials: pd.DataFrame) -> list[str]:
    """The architectures of which no trial has a finite validation loss; trials: architecture, val_loss."""
    trained = np.isfinite(trials["val_loss"].astype(float)).groupby(trials["architecture"], sort=False).any()
    return trained.index[~trained].tolist()


def no_trial(architectures: Sequence[str]) -> str:
    """That the search found nothing on these, as the beginning of a sentence."""
    names = ", ".join(map(short_name, architectures))
    return f"No trial of {names} came below guessing (a loss of ln {CLASSES} = {GUESSING:.3f} nats an example)"


def trial_ranks(trials: pd.DataFrame) -> pd.DataFrame:
    """[trials x architectures] of ranks of validation loss, from 1, of the trials that all architectures have.

    trials: architecture, and the columns of search_results.csv; a diverged trial shares the last rank. Empty where a
    trial's hyperparameters are not the same on all.
    """
    if (trials.groupby("trial")[list(HYPERPARAMETERS)].nunique(dropna=False) > 1).any(axis=None):
        return pd.DataFrame()
    losses = trials["val_loss"].astype(float)
    table = trials.assign(loss=losses.where(np.isfinite(losses), np.inf))
    table = table.pivot(index="trial", columns="architecture", values="loss")[trials["architecture"].unique()]
    return table.dropna().rank()


def chosen(trials: pd.DataFrame) -> pd.DataFrame:
    """The trial that the search chose on each architecture, a row each; first its architecture.

    trials: architecture, the columns of search_results.csv, and `chosen` (whether it is that one).
    """
    rows = trials[trials["chosen"]].drop(columns="chosen").reset_index(drop=True)
    return rows[["architecture", *rows.columns.drop("architecture")]]


def short_name(architecture: str) -> str:
    """An architecture's name as sentences and figures have it."""
    return architecture.removeprefix("mlp_")
