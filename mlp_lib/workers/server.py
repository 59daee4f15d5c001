"""Processes forked from one that has imported what they need: a kernel or a worker starts in a tenth of a second."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext


def start_server(*modules: str) -> BaseContext:
    """Where processes come from: a server that is importing the modules while this goes on.

    Elsewhere than on Linux they are spawned: what a fork finds loaded may not be fit for it (Python's documentation of
    multiprocessing, "Contexts and start methods").
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    forkserver.ensure_running()
    return context


def settle(environment: dict[str, str]) -> None:
    """What a process of the server does first: it leaves interrupts to its parent, and never outlives it.

    environment: the parent's; the server has its own, of when it was started. What libraries say on stderr goes
    nowhere, as that of a kernel does.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
