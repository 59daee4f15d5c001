"""How a notebook is run: from which clone, by somebody or by a program, and on which run if it was given none."""

import contextlib
import datetime
import os
import sys
from pathlib import Path
from typing import Any

from IPython import get_ipython

from mlp_lib.core.errors import MlpError
from mlp_lib.run import meta
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, from_repository, name_run
from mlp_lib.run.recipe import Conditions

RUNS = ROOT / "executed"
MARK = {"by_hand": True}  # in the record of a run that was begun without a run_dir


def find_runs(phase: str) -> list[RunFiles]:
    """The runs that were begun without a run_dir, the one on which the phase was begun last first."""
    found = {}
    for path in RUNS.glob("*/search/search_meta.yaml"):
        files = RunFiles(path.parents[1])
        with contextlib.suppress(MlpError, LookupError, TypeError, ValueError):  # damaged, or without the phase
            record = meta.read_meta(files)
            if MARK.items() <= record.items():
                meta.check_layout(files)
                began = datetime.datetime.fromisoformat(record["phases"][phase]["work"][-1]["started"])
                found[began, files.root.name] = files
    return [found[run] for run in sorted(found, reverse=True)]


def take_newest() -> RunFiles:
    """The run on which 01 was begun last; RunDirectoryError if there is none."""
    runs = find_runs("search")
    if not runs:
        raise RunDirectoryError("run_dir = None: no run was made by hand yet; run 01_search first, or give run_dir")
    _say(runs[0], "the newest that was made by hand")
    return runs[0]


def choose(phase: str, parameters: dict[str, Any], conditions: Conditions | None = None) -> RunFiles:
    """The newest run made by hand that can go on with these parameters under these conditions, else a fresh one."""
    why = "the first that is made by hand"
    runs = find_runs(phase)
    for files in runs:
        record = meta.read_meta(files)
        stored = record["parameters"]
        differences = meta.list_refused(stored, parameters)
        if phase == "benchmark":  # it would replace what the run has measured
            differences += [n for n in parameters if n.startswith("benchmark_") and stored[n] != parameters[n]]
        if conditions:
            differences += meta.list_other_conditions(record, conditions, parameters["mixed_devices"])
        if not differences:
            grown = meta.changed(stored, {**stored, **parameters})
            _say(files, f"goes on with more of {', '.join(grown)}" if grown else "goes on, its settings are these")
            return files
        if files is runs[0]:
            why = f"since {files.root.name} has other settings ({', '.join(differences)})"
    fresh = RunFiles(RUNS / name_run(parameters["project_name"]))
    _say(fresh, f"a new run, {why}")
    return fresh


def _say(files: RunFiles, what: str) -> None:
    print(f"run_dir = {from_repository(files.root)}: {what}")


def check_origin() -> None:
    """MlpError if this kernel's notebook is of another clone than its mlp_lib.

    Jupyter and papermill find a kernel by its name alone, and the python3 that they find may be of any environment.
    """
    found = _find_clone()
    if found not in (None, ROOT):
        raise MlpError(
            f"this notebook is of {found}, but its kernel ({sys.executable}) has the mlp_lib of {ROOT}: "
            f"choose the kernel of its own environment, or pip install -e {found} into this one"
        )


def _find_clone() -> Path | None:
    """The clone that holds the notebook, which papermill's command line names; JupyterLab starts a kernel beside it."""
    place = Path.cwd() / "any.ipynb"
    with contextlib.suppress(OSError):  # of a system without /proc, of another user's process
        parent = Path("/proc") / str(os.getppid())
        words = (parent / "cmdline").read_text().split("\0")
        if any("papermill" in Path(word).name for word in words):  # a server is started with notebooks of any clone
            place = next(((parent / "cwd").resolve() / word for word in words if word.endswith(".ipynb")), place)
    folders = place.resolve().parents
    return next((f for f in folders if (f / "mlp_lib/__init__.py").exists() and (f / "notebooks").is_dir()), None)


def is_interactive() -> bool:
    """Whether this cell was run by somebody who can press a button: JupyterLab lets a cell ask for input, papermill
    and `jupyter execute` don't. Widgets are dead in what those leave.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))
