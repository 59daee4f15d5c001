"""Where trainings in progress stand, in files, so that after a stop of any kind they go on to the same bits."""

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlp_lib.artifacts import write_bytes

State = dict[str, np.ndarray]  # all that a training goes on from; the first axis is the member, all at the same epoch

_FIRST_S = 1.0  # what is shorter is trained again rather than kept
_MOST_S = 120.0  # the most time of training that a stop may cost
_SHARE = 500  # training goes on for this many times as long as the writing took: it costs at most 0.2 %


class Keeper:
    """Keeps the states of some members, a file each, now and then."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.due = time.monotonic() + _FIRST_S
        self.offered: Callable[[], State] | None = None

    def __call__(self, make: Callable[[], State]) -> None:
        """Write the state that `make` returns, if it is time to."""
        self.offered = make
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write the state that was offered last."""
        if self.offered is None:
            return
        began, state = time.monotonic(), self.offered()
        for member, path in enumerate(self.paths):
            buffer = io.BytesIO()
            np.savez(buffer, **{name: values[member] for name, values in state.items()})
            write_bytes(path, buffer.getvalue())
        now = time.monotonic()
        self.due = now + min(_SHARE * (now - began), _MOST_S)


def read_state(path: Path) -> State | None:
    """One member's state, without the first axis; None if there is none, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def join_states(states: Sequence[State]) -> State:
    """Members' states of one epoch as one."""
    return {name: np.stack([state[name] for state in states]) for name in states[0]}
