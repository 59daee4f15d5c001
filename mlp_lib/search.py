"""Draws of hyperparameters from a search space."""

import math

from scipy.stats import qmc

from mlp_lib.runtime import Stream, generator
from mlp_lib.settings import HYPERPARAMETERS, Architecture, Hyperparameters, Range, SearchSpace


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
        sequence = qmc.Sobol(dimensions, scramble=True, seed=numbers)
        uniforms = sequence.random_base2((num_trials - 1).bit_length())[:num_trials]  # it is drawn in powers of two
    else:
        uniforms = numbers.random((num_trials, dimensions))
    return [
        Hyperparameters(**{name: _scale(getattr(space, name), u) for name, u in zip(HYPERPARAMETERS, row, strict=True)})
        for row in uniforms
    ]


def _scale(range_: Range, uniform: float) -> float:
    """A uniform number in [0, 1) carried to the range."""
    low, high = range_.low, range_.high
    if range_.distribution == "log_uniform":
        value = math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
    else:
        value = low + uniform * (high - low)
    return min(max(value, low), high)
