"""What the command says: aloud as long as somebody listens, and in the run's log.txt."""

import contextlib
import datetime
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

_EVERY_S = 10  # between two lines of progress in a file
_SHOWN = "backslashreplace"  # what an encoding doesn't have


class Voice:
    """Says lines. Trouble with an output is no error: the work goes on, and `log`, once it is given, has what was said.

    Outputs that were closed before the start are opened on nothing, or what is opened next would take their place.
    """

    def __init__(self) -> None:
        self.log: Path | None = None
        self.rewriting = False  # the terminal shows a line of progress that the next takes the place of
        self.shown = -1e9  # s, when progress was last said
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
                os.set_inheritable(getattr(sys, name).fileno(), True)

    def say(self, text: str, stream: TextIO | None = None) -> None:
        """A line, on stdout if no stream is given."""
        self.keep(text)
        _aloud("\n" * self.rewriting + text + "\n", stream or sys.stdout)
        self.rewriting, self.shown = False, -1e9

    def progress(self, text: str, last: bool) -> bool:
        """A line that is rewritten, or one now and then where the output is a file; whether it was time for one."""
        due = last or time.monotonic() - self.shown > _EVERY_S
        if due:
            self.shown = time.monotonic()
            self.keep(text)
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns - 1
            _aloud("\r" + text[:columns].ljust(columns) + "\n" * last, sys.stdout)
            self.rewriting = not last
        elif due:
            _aloud(text + "\n", sys.stdout)
        return due

    def keep(self, text: str) -> None:
        """Lines for the log alone, each with its moment."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with (
            contextlib.suppress(OSError),
            Path(self.log or os.devnull).open("a", encoding="utf-8", errors=_SHOWN) as log,
        ):
            log.writelines(f"{now} {line}\n" for line in text.strip().splitlines())


def _aloud(text: str, stream: TextIO) -> None:
    """Write what the stream's encoding can show; a stream that fails is silent from then on, whoever writes to it."""
    try:
        stream.write(text.encode(stream.encoding, _SHOWN).decode(stream.encoding))
        stream.flush()
    except (OSError, ValueError):  # its reader has left, its terminal is gone, its disk is full, it is closed
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
