"""The claim on a run directory: one process at a time works on it, and says so."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mlp_lib.core.errors import RunDirectoryError

_HOLDER = "MLP_RUN_HOLDER"  # the process that claimed the run for its kernels
_PATIENCE_S = 0.3  # for who holds the lock for a moment: one that asks for its holder, a kernel that ends with it


@contextlib.contextmanager
def claim(run_dir: Path, what: str) -> Iterator[None]:
    """Hold the run directory; RunDirectoryError that says who does, if another process holds it.

    The lock goes with its process, so one left by a dead process is no obstacle. A kernel that the command started
    works under the command's claim.
    """
    path = run_dir / ".lock"
    command = int(os.environ.get(_HOLDER, 0))
    with _lock(path, 0 if command else _PATIENCE_S) as file:
        if file is None:
            holder = _read_holder(path)
            if holder.get("pid") not in (os.getpid(), command):
                raise RunDirectoryError(
                    f"{run_dir} is in use: {holder.get('what', '?')} by process {holder.get('pid', '?')} on "
                    f"{holder.get('host', '?')} since {holder.get('since', '?')}; wait for it or stop it"
                )
            yield
            return
        file.truncate(0)
        since = datetime.datetime.now().isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "what": what, "since": since}))
        file.flush()
        for leftover in run_dir.rglob(".tmp_*"):  # of a process that died while it wrote
            leftover.unlink(missing_ok=True)
        os.environ[_HOLDER] = str(os.getpid())
        try:
            yield
        finally:
            os.environ.pop(_HOLDER, None)
            path.unlink(missing_ok=True)


def find_holder(run_dir: Path) -> dict[str, Any] | None:
    """Who holds the run directory now (pid, host, what, since); None if nobody does, whatever a dead one left."""
    path = run_dir / ".lock"
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(path)
    except OSError:
        return None
    return None


def end_with_holder(run_dir: Path) -> None:
    """Let this process, a kernel that works under the command's claim, end at once when the command dies.

    Its lock is then free, and whoever takes it next must not meet a second writer.
    """
    path = run_dir / ".lock"
    if int(os.environ.get(_HOLDER, os.getpid())) == os.getpid():
        return

    def follow() -> None:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _lock(path: Path, patience: float) -> Iterator[TextIO | None]:
    """The lock file, locked; None if another holds it for longer than `patience` (s)."""
    end = time.monotonic() + patience
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.02)
                    continue
                yield None
                return
            # a holder that ends removes the file: what was locked may be gone from the directory by now
            if _inode(path) == os.fstat(file.fileno()).st_ino:
                yield file
                return


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _read_holder(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, OSError):
        return {}
