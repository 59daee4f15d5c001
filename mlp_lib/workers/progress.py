"""Progress of long work, shown live in a notebook and left there as one clean line."""

import html
import time
from collections.abc import Callable
from typing import Any

METADATA = {"mlp_progress": True}  # how the command recognizes what it repeats in the terminal
_INTERVAL_S = 0.5


def seconds_text(seconds: float) -> str:
    """A duration for people: 45 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Counts trainings and epochs, displays them with rate and time left where IPython runs, and `tell`s them.

    most: epochs of all together; told as long as none is finished, when there is no time left to tell.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "trainings",
        most: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.what, self.total, self.unit, self.most, self.tell = what, total, unit, most, tell
        self.started = time.monotonic()
        self.shown = 0.0
        self.handle: Any = None

    def update(self, done: int, epochs: int | None = None, last: bool = False) -> None:
        """`done` units finished and `epochs` trained since the start, by all processes together."""
        now = time.monotonic()
        if now - self.shown < _INTERVAL_S and not last:
            return
        self.shown = now
        text = self._text(done, epochs, now - self.started, last)
        self.tell(text)
        self._show(text, done)

    def _text(self, done: int, epochs: int | None, elapsed: float, last: bool) -> str:
        text = f"{self.what}: {done} of {self.total} {self.unit}"
        if epochs is not None:
            of = f" of at most {self.most:,}" if self.most and not done else ""
            text += f", {epochs:,}{of} epochs, {epochs / max(elapsed, 1e-9):,.1f} a second"
        if last:
            return f"{text}, {seconds_text(elapsed)}"
        if done:
            return f"{text}, {seconds_text(elapsed / done * (self.total - done))} left"
        return f"{text}, {seconds_text(elapsed)} so far"

    def _show(self, text: str, done: int) -> None:
        from IPython import get_ipython  # these take a while, which the command does without
        from IPython.display import display

        if get_ipython() is None:
            return
        bar = f'<progress max="{max(self.total, 1)}" value="{done}" style="width:40em"></progress>'
        data = {"text/html": f"{bar}<br>{html.escape(text)}", "text/plain": text}
        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True, metadata=METADATA)
        else:
            self.handle.update(data, raw=True, metadata=METADATA)
