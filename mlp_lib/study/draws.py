"""Draws of hyperparameters from a search space, and its grid."""

import itertools
import math

import numpy as np
import pandas as pd
import scipy

from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.run.parameters import Range, SearchSpace


def draw_trials(
    space: SearchSpace, num_trials: int, seed: int, architecture: Architecture | None = None, sobol: bool = False
) -> list[Hyperparameters]:
    """`num_trials` draws, a function of (seed, architecture); trial i doesn't depend on num_trials.

    Independent draws (random search: Bergstra & Bengio 2012), or with `sobol` the points of a scrambled Sobol sequence
    (Owen 1998), which cover the space more evenly. With `architecture` None all architectures get the same draws.
    """
    key = architecture.widths if architecture else ()
    numbers, dimensions = generator(seed, Stream.SEARCH, *key), len(HYPERPARAMETERS)
    if sobol:
        sequence = scipy.stats.qmc.Sobol(dimensions, scramble=True, seed=numbers)
        uniforms = sequence.random_base2((num_trials - 1).bit_length())[:num_trials]  # it is drawn in powers of two
    else:
        uniforms = numbers.random((num_trials, dimensions))
    return [
        Hyperparameters(**{name: _scale(getattr(space, name), u) for name, u in zip(HYPERPARAMETERS, row, strict=True)})
        for row in uniforms
    ]


def grid_trials(space: SearchSpace, points: int) -> list[Hyperparameters]:
    """Every combination of `points` values of each range that is not fixed, evenly spaced on its scale, ends included.

    The last hyperparameter changes fastest.
    """
    values = []
    for name in HYPERPARAMETERS:
        range_ = getattr(space, name)
        spaced = np.geomspace if range_.distribution == "log_uniform" else np.linspace
        values.append(spaced(range_.low, range_.high, points) if name in space.free else [range_.low])
    return [
        Hyperparameters(**dict(zip(HYPERPARAMETERS, map(float, row), strict=True)))
        for row in itertools.product(*values)
    ]


def _scale(range_: Range, uniform: float) -> float:
    """A uniform number in [0, 1) carried to the range."""
    low, high = range_.low, range_.high
    if range_.distribution == "log_uniform":
        value = math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
    else:
        value = low + uniform * (high - low)
    return min(max(value, low), high)


def rung_epochs(num_trials: int, max_epochs: int, val_interval: int) -> list[int]:
    """The most epochs of a training by rung: the last rung has max_epochs, and each before it half of the next.

    As many rungs as leave one trial at the end (or nearly), each up to a validation check.
    """
    halves = range(num_trials.bit_length() - 1, -1, -1)
    return [min(max_epochs, math.ceil(max_epochs / 2**half / val_interval) * val_interval) for half in halves]


def survivors(results: pd.DataFrame, curves: pd.DataFrame, epochs: list[int]) -> list[list[int]]:
    """The trials of each rung: all at the first, then the better half by lowest validation loss so far.

    results: search_results.csv's columns, of trainings that reached their rung's end; curves: learning_curves.csv's. A
    trial that stopped early stays in the comparison with what it reached; one that has diverged ranks last; ties go
    to the lowest number.
    """
    rungs = [results["trial"].tolist()]
    for end in epochs[:-1]:
        best = curves[curves["epoch"] <= end].groupby("trial")["val_loss"].min()
        diverged = results.loc[(results["status"] == "diverged") & (results["epochs_trained"] <= end), "trial"]
        losses = best.reindex(rungs[-1]).fillna(np.inf)
        losses[losses.index.isin(diverged)] = np.inf
        ranked = losses.sort_index().sort_values(kind="stable").index
        rungs.append(sorted(int(trial) for trial in ranked[: math.ceil(len(ranked) / 2)]))
    return rungs
