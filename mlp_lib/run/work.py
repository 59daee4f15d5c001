"""The stretches of work on a run's phases: when, where, by which versions."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from mlp_lib.core.values import ROOT

PACKAGES = ("mlp_lib", "torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "papermill")
Stretch = dict[str, Any]  # as search_meta.yaml has it


def now() -> str:
    """The time to the second, with its offset from UTC."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def begin_stretch(place: Mapping[str, Any]) -> Stretch:
    """A stretch that begins now; place: where (device, machine and, on a cluster, workers).

    Its duration (s) stays unknown if nobody ends it: where a process was killed.
    """
    begun = {"started": now(), "duration_s": None, "clock_s": time.monotonic()}
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {**begun, "machine": machine, **place, **_git(), "versions": read_versions()}


def end_stretch(stretch: Stretch, place: Mapping[str, Any], since: float) -> None:
    """Note how long it took, by a clock that all processes share and nobody sets, and what else is known of where.

    One that began before `since` (s, by that clock) was ended by a kill: how long it took, nobody knows.
    """
    began, ends = stretch.pop("clock_s", None), time.monotonic()
    if began is not None and since <= began <= ends:
        stretch.update(place, duration_s=round(ends - began, 1))


def read_versions() -> dict[str, str]:
    """The versions of Python and of the packages that results come from."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def _git() -> dict[str, Any]:
    """Commit and whether the tree has changes; nulls where there is no git."""
    line = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        said = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    commit, _, dirty = said.partition("-")
    return {"commit": commit, "dirty": bool(dirty)}
