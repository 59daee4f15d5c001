"""The claim on a run directory: one process at a time works on it, and says so."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mlp_lib.run.files import RunDirectoryError, RunFiles
from mlp_lib.run.work import now

_HOLDER = "MLP_RUN_HOLDER"  # the process that claimed the run for its kernels
_PATIENCE_S = 0.3  # for who holds the lock for a moment: one that asks for its holder
_POLL_S = 0.02
_LOCK, _MARKER, _SAID = ".lock", ".lock_marker", ".lock_holder"  # the last beside the first, which filelock may empty
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of this file system


@contextlib.contextmanager
def claim(run_dir: Path, what: str) -> Iterator[None]:
    """Hold the run directory; RunDirectoryError that says who does, if another process holds it.

    The lock goes with its process, so one left by a dead process is no obstacle. A kernel that the command started
    works under the command's claim.
    """
    command = find_command()
    with _locked(run_dir, 0 if command else _PATIENCE_S) as locked:
        if not locked:
            holder = _read_holder(run_dir)
            if not _is_own(holder):
                marker = run_dir / _MARKER  # of a machine that broke down it stays
                gone = f", or delete {marker} if it is gone" if marker.exists() else ""
                raise RunDirectoryError(f"{run_dir} is in use: {describe_holder(holder)}; wait for it or stop it{gone}")
            yield
            return
        said = {"pid": os.getpid(), "host": socket.gethostname(), "what": what, "since": now()}
        (run_dir / _SAID).write_text(json.dumps(said), encoding="utf-8")
        for leftover in RunFiles(run_dir).leftovers():  # of a process that died while it wrote
            leftover.unlink(missing_ok=True)
        os.environ[_HOLDER] = str(os.getpid())
        try:
            yield
        finally:
            os.environ.pop(_HOLDER, None)
            (run_dir / _SAID).unlink(missing_ok=True)


def find_command() -> int:
    """The process of the command under whose claim this one works; 0 if there is none."""
    return int(os.environ.get(_HOLDER, 0))


def _is_own(holder: dict[str, Any]) -> bool:
    """Whether it is this process or its command."""
    here = holder.get("host") == socket.gethostname()  # processes of two containers may have one number
    return here and holder.get("pid") in (os.getpid(), find_command())


def find_holder(run_dir: Path) -> dict[str, Any] | None:
    """Who holds the run directory now (pid, host, what, since); None if nobody does, whatever a dead one left."""
    if not (run_dir / _LOCK).exists():
        return None
    if find_command() and _is_own(holder := _read_holder(run_dir)):  # the lock would be waited for
        return holder
    with contextlib.suppress(OSError), _locked(run_dir, _PATIENCE_S) as locked:
        return None if locked else _read_holder(run_dir)
    return None


def describe_holder(holder: dict[str, Any]) -> str:
    """What works on a run, where, since when; a question mark for what it did not say."""
    what, pid, host, since = (holder.get(name, "?") for name in ("what", "pid", "host", "since"))
    return f"{what} by process {pid} on {host} since {since}"


@contextlib.contextmanager
def _locked(run_dir: Path, patience: float) -> Iterator[bool]:
    """Whether the lock is had; not, if another holds it for longer than `patience` (s)."""
    if not run_dir.is_dir():  # filelock would make it anew
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run_dir))
    try:
        lock = _acquire(run_dir, patience)
    except Timeout:
        lock = None
    try:
        yield lock is not None
    finally:
        if lock:
            with contextlib.suppress(OSError):  # a read-only file system; a system that keeps files that are open
                (run_dir / _LOCK).unlink(missing_ok=True)
            lock.release()


def _acquire(run_dir: Path, patience: float) -> BaseFileLock:
    """The lock; Timeout if another has it. Where the file system has no locks, a file that names its process is one."""
    try:
        lock = FileLock(run_dir / _LOCK, fallback_to_soft=False)
        lock.acquire(patience, _POLL_S)
    except OSError as error:
        error.filename = error.filename or str(run_dir / _LOCK)
        if error.errno not in _NO_LOCKS:
            raise
        lock = SoftFileLock(run_dir / _MARKER)
        lock.acquire(patience, _POLL_S)
    return lock


def _read_holder(run_dir: Path) -> dict:
    try:
        return dict(json.loads((run_dir / _SAID).read_text(encoding="utf-8")))
    except (ValueError, OSError):
        return {}
