"""Processes forked from one that has imported what they need: a kernel or a worker starts in a tenth of a second."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from mlp_lib.core.errors import MlpError

_OPEN_FILES = 512
LOG = "MLP_RUN_LOG"  # in the environment: where what libraries say on stdout and stderr is kept
LOADED = "MLP_SERVER_LOADS"  # there too: the modules that a server imports when it starts


def start_server(*modules: str, environment: Mapping[str, str] = os.environ) -> BaseContext:
    """Where processes come from: a server that is importing the modules while this goes on.

    Elsewhere than on Linux they are spawned: what a fork finds loaded may not be fit for it (Python's documentation of
    multiprocessing, "Contexts and start methods").
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    os.environ[LOADED] = " ".join(modules)
    context.set_forkserver_preload(["mlp_lib.workers.loaded"])
    before = os.dup(1), os.dup(2)  # a server that had them would speak there, and keep a pipe open
    try:
        _speak_to(environment.get(LOG, os.devnull))
        forkserver.ensure_running()
    finally:
        for number, own in zip((1, 2), before, strict=True):
            os.dup2(own, number)
            os.close(own)
    return context


def settle(environment: dict[str, str]) -> None:
    """What a process of the server does first: it leaves interrupts to its parent, and never outlives it.

    environment: the parent's; the server has its own, of when it was started.
    """
    if not hasattr(forkserver._forkserver, "_forkserver_authkey"):  # Python 3.14's key isn't handed on
        # Its own children come from the same server, as ensure_running's docstring has it and its code doesn't
        # (python/cpython#86354): a worker of a kernel starts in a tenth of a second too.
        forkserver.ensure_running = forkserver._forkserver.ensure_running = _go_on
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    _speak_to(environment.get(LOG, os.devnull))
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _go_on() -> None:
    """The server runs while it has children."""


def _speak_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)


def allow_open_files() -> None:
    """As many open files as a kernel and its workers may need; MlpError where the system's limit is lower.

    A kernel that runs into the limit can't even say so. Where there is no such limit (Windows) nothing is done.
    """
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        if hard != resource.RLIM_INFINITY and hard < _OPEN_FILES:
            raise MlpError(f"too many open files are refused here: ulimit -n is {hard}, a run may need {_OPEN_FILES}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
