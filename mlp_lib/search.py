"""Random draws of hyperparameters from a search space."""

import math

from mlp_lib.runtime import Stream, generator
from mlp_lib.settings import HYPERPARAMETERS, Architecture, Hyperparameters, Range, SearchSpace


def draw_trials(
    space: SearchSpace, num_trials: int, seed: int, architecture: Architecture | None = None
) -> list[Hyperparameters]:
    """`num_trials` independent draws, a function of (seed, architecture); trial i doesn't depend on num_trials.

    Random search: Bergstra & Bengio 2012. With `architecture` None all architectures get the same draws.
    """
    key = architecture.widths if architecture else ()
    uniforms = generator(seed, Stream.SEARCH, *key).random((num_trials, len(HYPERPARAMETERS)))
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
