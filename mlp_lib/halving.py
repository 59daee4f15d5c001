"""Successive halving: which trials of an architecture go on to the next rung, and for how many epochs.

Jamieson & Talwalkar 2016, with half of the trials and twice the epochs at each rung. A rung compares all trials of an
architecture by what they had reached at its end, so it depends neither on how they are spread over workers nor on
where a search was interrupted. What goes on does so from where it stood, together with the others that do.
"""

import math

import numpy as np
import pandas as pd


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
