"""The random streams that a training draws from."""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What a random stream is for; the first part of its key, so that streams never meet."""

    SPLIT = 0
    SEARCH = 1
    WEIGHTS = 2
    BATCHES = 3
    DROPOUT = 4


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A generator of its own for (seed, stream, key): numpy's SFC64, the fastest it has.

    Keys of one stream have one length, or a prefix-free first part.
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(stream, *key))))
