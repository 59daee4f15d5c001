"""What the command says: aloud as long as somebody listens, and in the run's log.txt."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mlp_lib.run.work import now

_EVERY_S = 10  # between two lines of progress in a file
_SHOWN = "backslashreplace"  # what an encoding doesn't have


class Voice:
    """Speaks on the streams that were stdout and stderr. `log`, once it is given, has what was said."""

    def __init__(self) -> None:
        self.log: Path | None = None
        self.rewriting = False  # the terminal shows a line of progress that the next takes the place of
        self.due = 0.0  # s, when progress is to be said again where it isn't rewritten
        self.stdout, self.stderr = _Output(sys.stdout, self), _Output(sys.stderr, self)

    def progress(self, text: str, last: bool) -> bool:
        """A line that is rewritten, or one now and then where the output is a file; whether it was time for one."""
        due = last or time.monotonic() > self.due
        if due:
            self.due = time.monotonic() + _EVERY_S
            self.keep(text)
        if self.stdout.isatty():
            columns = shutil.get_terminal_size().columns - 1
            self.stdout.speak("\r" + text[:columns].ljust(columns) + "\n" * last)
            self.rewriting = not last
        elif due:
            self.stdout.speak(text + "\n")
        return due

    def keep(self, text: str) -> None:
        """Lines for the log, each with its moment."""
        moment, log = now(), self.log or Path(os.devnull)
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8", errors=_SHOWN) as file:
            file.writelines(f"{moment} {line}\n" for line in text.strip().splitlines())


class _Output:
    """A stream that whoever prints takes for stdout or stderr. Trouble with it is no error."""

    def __init__(self, stream: TextIO, voice: Voice):
        self.stream, self.voice = stream, voice

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.voice.keep(text)
        self.speak("\n" * self.voice.rewriting + text)
        self.voice.rewriting, self.voice.due = False, 0.0
        return len(text)

    def speak(self, text: str) -> None:
        """Write what the encoding can show; a stream that fails is silent from then on, whoever writes to it."""
        try:
            self.stream.write(text.encode(self.stream.encoding, _SHOWN).decode(self.stream.encoding))
            self.stream.flush()
        except (OSError, ValueError):  # its reader has left, its terminal is gone, its disk is full, it is closed
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


@contextlib.contextmanager
def speaking() -> Iterator[Voice]:
    """The voice of all that is printed meanwhile.

    Streams that were closed before the start are opened on nothing, or what is opened next would take their places.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
            os.set_inheritable(getattr(sys, name).fileno(), True)
    voice = Voice()
    with contextlib.redirect_stdout(voice.stdout), contextlib.redirect_stderr(voice.stderr):
        yield voice
