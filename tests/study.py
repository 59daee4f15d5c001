"""A study small enough to be run in a test, and what the tests ask of its directory."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from mlp_lib.run.parameters import PHASES
from mlp_lib.run.parsing import merge, parse

TINY = {
    "project_name": "tiny",
    "device": "cpu",
    "dataset": "digits",
    "validation_size": None,
    "batch_size": 128,
    "max_epochs": 6,
    "patience": 2,
    "val_interval": 2,
    "workers": 2,
    "architectures": {"list": [[4], [3, 2]]},
    "num_trials": 3,
    "retrain_seeds": [1, 2],
    "transfer_seeds": [1, 2],
}
ARCHITECTURES = ("mlp_4", "mlp_3x2")  # the names of TINY's


def write_parameters(path: Path, **changes: Any) -> Path:
    """TINY with changes as a YAML file."""
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def settings_of(phase: str, **changes: Any) -> Any:
    """A phase's settings: the defaults of params/, TINY, the changes."""
    values = merge(None, [], []).values | TINY | changes
    kind = PHASES[phase]
    return parse(kind, {name: value for name, value in values.items() if name in kind.model_fields}, "the test")


def environment() -> Mapping[str, str]:
    """The environment of a user's shell: no claim on a run directory is inherited from the test."""
    return {name: value for name, value in os.environ.items() if name != "MLP_RUN_HOLDER"}


def tables(run_dir: Path) -> dict[str, bytes]:
    """The content of every CSV and YAML file of a run but search_meta.yaml, by its path in the run."""
    paths = [path for path in run_dir.rglob("*") if path.suffix in (".csv", ".yaml")]
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in paths if p.name != "search_meta.yaml"}


def differing(left: Path, right: Path) -> list[str]:
    """The tables that two runs do not have in common, byte by byte."""
    a, b = tables(left), tables(right)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def snapshot(run_dir: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change (ns) and content of every file."""
    paths = [path for path in run_dir.rglob("*") if path.is_file()]
    return {str(p.relative_to(run_dir)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def command(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """python -m mlp_lib, as from a shell."""
    line = [sys.executable, "-m", "mlp_lib", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=1800, env=environment(), cwd=cwd)


def processes_under(holder: int) -> list[psutil.Process]:
    """The living processes that work under the claim of a process: its kernel, the kernel's workers."""
    found = []
    for process in psutil.process_iter():
        try:
            living = process.status() != psutil.STATUS_ZOMBIE
            if living and process.environ().get("MLP_RUN_HOLDER") == str(holder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found
