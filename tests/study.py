"""A study small enough to be run in a test, and what the tests ask of its directory."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml
from matplotlib.figure import Figure

from mlp_lib import __main__
from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.reports import analysis
from mlp_lib.reports.pages import describe_status
from mlp_lib.run import meta
from mlp_lib.run.files import NOTEBOOKS, ROOT, RunFiles, read_table, read_yaml, write_table, write_yaml
from mlp_lib.run.parameters import PHASES, StudySettings
from mlp_lib.run.parsing import merge, parse
from mlp_lib.run.recipe import Wanted
from mlp_lib.study import phases
from mlp_lib.study.study import Study
from mlp_lib.workers.jobs import Job, Result, Unit
from mlp_lib.workers.pool import Workers
from mlp_lib.workers.processes import Processes, start_thread

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
    "seeds": [1, 2],
}
ARCHITECTURES = ("mlp_4", "mlp_3x2")  # the names of TINY's
LONG = {"max_epochs": 120, "val_interval": 20, "patience": 6}  # no early stop: a phase takes long enough to be killed
MORE = {"num_trials": 4, "architectures": {"list": [[4], [3, 2], [2]]}, "seeds": [1, 2, 3]}


def write_parameters(path: Path, **changes: Any) -> Path:
    """TINY with changes as a YAML file."""
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def settings_of(phase: str, **changes: Any) -> Any:
    """A phase's settings: the defaults of params/, TINY, the changes."""
    values = merge(None, [], []).values | TINY | changes
    kind = PHASES[phase]
    return parse(kind, {name: value for name, value in values.items() if name in kind.model_fields}, "the test")


# for trainings of some seconds
SETTINGS = StudySettings.of(settings_of("search", max_epochs=300, patience=300, loader_workers=0))
VALUES = {  # a vector of hyperparameters
    "lr": 3e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 1e-4,
    "dropout": 0.1,
    "leaky_relu_alpha": 0.05,
}


def fixed_space(**changes: float) -> dict[str, dict[str, Any]]:
    """A search space of single values: every trial is the same."""
    values = VALUES | changes
    return {name: {"distribution": "uniform", "low": value, "high": value} for name, value in values.items()}


FIXED = fixed_space()

# units of trials that differ, of one architecture, and the settings of their trainings
ARCHITECTURE = Architecture((16, 8))
TRIALS = [Hyperparameters(**VALUES | {"lr": lr, "dropout": 0.2}) for lr in (1e-3, 3e-3, 1e-2, 3e-2)]


def units_of(size: int) -> list[Unit]:
    """TRIALS in units of that size, with one run seed."""
    trainings = [Wanted(ARCHITECTURE, trial, 7, label) for label, trial in enumerate(TRIALS)]
    return [Unit(trainings[i : i + size]) for i in range(0, len(TRIALS), size)]


def in_process(settings: Any) -> Processes:
    """A thread in place of the worker processes, which take seconds to start."""
    return Processes(settings, start_thread)


class Stopping(Processes):
    """Workers of this process that are interrupted after that many units."""

    def __init__(self, settings: Any, after: int):
        super().__init__(settings, start_thread)
        self.left = after

    def train(self, units: Sequence[Unit], job: Job) -> Iterator[tuple[Unit, Result]]:
        for trained in super().train(units, job):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield trained


class Doing(Workers):
    """Workers that make of each unit what a function makes of it; None: they are interrupted."""

    device, arithmetic, number, machine = "cpu", "cpu", 1, "a test"

    def __init__(self, deed: Callable[[Unit], Result | None]):
        self.deed = deed

    def train(self, units: Sequence[Unit], job: Job) -> Iterator[tuple[Unit, Result]]:
        for unit in units:
            result = self.deed(unit)
            if result is None:
                raise KeyboardInterrupt
            yield unit, result


def refusing() -> Doing:
    """Workers that are given nothing to do."""

    def refuse(unit: Unit) -> Result:
        raise AssertionError(f"{unit} is on disk")

    return Doing(refuse)


def diverging() -> Doing:
    """Workers with which every training diverges in its first epoch."""
    return Doing(_diverged)


def _diverged(unit: Unit) -> Result:
    size = len(unit.members)
    rows = {"status": ["diverged"] * size, "best_epoch": [None] * size, "epochs_trained": [1] * size}
    rows |= dict.fromkeys(("val_loss", "val_accuracy", "test_loss", "test_accuracy"), [np.nan] * size)
    history = {"member": np.arange(size), "epoch": np.ones(size, int)}
    history |= dict.fromkeys(("train_loss", "val_loss", "val_accuracy"), np.full(size, np.nan))
    return Result(rows, history, None, np.full((size, 360), np.nan, dtype=np.float32))


def study_of(run_dir: Path, phase: str, by: Workers | None = None, **changes: Any) -> Study:
    """A phase of TINY with changes on a run directory, trained in this process if no workers are given."""
    settings = settings_of(phase, **changes)
    dataset = Processes(settings).load(settings)
    architectures = settings_of("search", **changes).architectures.architectures
    return Study(settings, RunFiles(run_dir), architectures, dataset.digest, by or in_process(settings))


def parameters_of(**changes: Any) -> dict[str, Any]:
    """The parameters of all phases."""
    settings = [settings_of(phase, **changes).model_dump(mode="json") for phase in PHASES]
    return {name: value for values in settings for name, value in values.items()}


def store_parameters(run_dir: Path, **changes: Any) -> RunFiles:
    """Record the parameters of all phases as the command does; the run's files."""
    files = RunFiles(run_dir)
    write_yaml(files.meta, meta.read_meta(files) | {"parameters": parameters_of(**changes)})
    return files


def run_all(run_dir: Path, by: Workers | None = None, **changes: Any) -> pd.DataFrame:
    """Search, retraining, transfer; transfer_seed_losses.csv."""
    run_dir.mkdir(exist_ok=True)
    store_parameters(run_dir, **changes)
    phases.search(study_of(run_dir, "search", by, **changes))
    phases.retrain(study_of(run_dir, "retrain", by, **changes))
    return phases.transfer(study_of(run_dir, "transfer", by, **changes))


def evidence_of(run_dir: Path, parts: str = "all", **changes: Any) -> analysis.Evidence:
    """The evidence of a run whose parameters are stored as the notebooks would have."""
    files = store_parameters(run_dir, **changes)
    return analysis.Evidence(files, settings_of("analysis", parts=parts))


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


def grown_as_fresh(grown: Path, fresh: Path) -> bool:
    """Whether a run that grew has the tables of a fresh one, but for trainings in its ledger that nobody wants now."""
    rows = [set((run / "trainings.csv").read_text().splitlines()) for run in (fresh, grown)]
    return set(differing(grown, fresh)) <= {"trainings.csv", "files.csv"} and len(rows[0] - rows[1]) == 0


def snapshot(run_dir: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change (ns) and content of every file."""
    paths = [path for path in run_dir.rglob("*") if path.is_file()]
    return {str(p.relative_to(run_dir)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def line_of(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def command(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """python -m mlp_lib, as from a shell."""
    line = line_of("mlp_lib", *arguments)
    return subprocess.run(line, capture_output=True, text=True, timeout=1800, env=environment(), cwd=cwd)


def in_this_process(*arguments: Any) -> int:
    """The command without a process of its own, which takes a second to start."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return __main__.main([*map(str, arguments)])
    except SystemExit as error:  # of argparse
        return error.code
    finally:
        signal.signal(signal.SIGTERM, handler)


def succeed(*arguments: Any, cwd: Path | None = None) -> str:
    """The output of a command that ends well."""
    done = command(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def fail(*arguments: Any, code: int = 1) -> str:
    """The line in which a command says why it ends with that code."""
    done = command(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def papermill(phase: str, folder: Path, *arguments: Any) -> subprocess.CompletedProcess:
    """papermill on a phase's notebook, started in `folder`, where its output goes."""
    notebook = ROOT / "notebooks" / f"{NOTEBOOKS[phase]}.ipynb"
    line = line_of("papermill", notebook, folder / notebook.name, *arguments)
    return subprocess.run(line, capture_output=True, text=True, timeout=1800, env=environment(), cwd=folder)


def start(*arguments: Any, **options: Any) -> subprocess.Popen:
    """The command in the background; both its outputs are to be read from stdout, unless the options say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment()}
    return subprocess.Popen(line_of("mlp_lib", *arguments), **pipes | options)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 300) -> None:
    """Until it holds; the process must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.005)


def undo_transfer(run_dir: Path) -> Path:
    """Make of a whole run what it was after 02, with no index yet."""
    for path in [*run_dir.glob("03*"), *run_dir.glob("04*"), run_dir / "index.html"]:
        path.unlink()
    for name in ("transfer", "analysis"):
        shutil.rmtree(run_dir / name)
    files = RunFiles(run_dir)
    record, trainings = read_yaml(files.meta), read_table(files.trainings)
    del record["phases"]["transfer"], record["phases"]["analysis"]
    write_yaml(files.meta, record)
    write_table(files.trainings, trainings[trainings["phase"] != "transfer"])
    return run_dir


def peak(call: Callable, *arguments: Any) -> int:
    """Bytes that a call holds at once."""
    tracemalloc.start()
    call(*arguments)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def no_space(*_: Any, **__: Any) -> None:
    """To stand for what writes, on a full disk."""
    raise OSError(28, "No space left on device")


def statuses(run_dir: Path) -> dict[str, str]:
    """What is recorded of each phase."""
    return {phase: entry["status"] for phase, entry in read_yaml(RunFiles(run_dir).meta)["phases"].items()}


def told(run_dir: Path) -> dict[str, str]:
    """The status command's line of each phase."""
    lines = describe_status(run_dir).splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines[:4]}


def processes_of(holder: int, part: str) -> list[psutil.Process]:
    """The command's "kernel" or its "worker"s, all of one server: the kernel is the first.

    From Python 3.14 on the workers are of one that is the kernel's own.
    """
    living = [psutil.Process(holder)]
    for _ in range(4 if part == "worker" and sys.version_info >= (3, 14) else 2):
        living = [child for process in living for child in process.children()]
    if sys.version_info >= (3, 14):
        return living
    living.sort(key=lambda process: process.create_time())
    return living[:1] if part == "kernel" else living[1:]


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


def kinds(shown: list) -> list[type]:
    """What was displayed: HTML, Markdown or a Figure of whichever class."""
    return [Figure if isinstance(item, Figure) else type(item) for item in shown]
