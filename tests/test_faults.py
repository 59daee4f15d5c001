"""Whatever is killed when, the run that goes on ends as an undisturbed one, and its state is true all along."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from study import differing, processes_of, processes_under, start, succeed, wait_for, write_parameters

from mlp_lib.run import meta
from mlp_lib.run.files import RunFiles, read_table, read_yaml

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PARTS = ("command", "kernel", "worker")
# trainings of some seconds, so that they are given to a worker, and their states are kept and gone on from
LONG = {
    "max_epochs": 600,
    "val_interval": 75,
    "patience": 8,
    "workers": 1,
    "num_trials": 2,
    "architectures": {"list": [[64], [32, 32]]},
    "retrain_seeds": [1],
    "transfer_seeds": [1],
}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed, and the seconds that it took."""

    run_dir: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("faults")
    write_parameters(folder / "tiny.yaml", **LONG)
    began = time.monotonic()
    succeed("run", "-f", folder / "tiny.yaml", "--runs-root", folder / "runs", "--run-name", "whole")
    return Undisturbed(folder / "runs" / "whole", time.monotonic() - began)


def find(part: str, process: subprocess.Popen) -> int:
    """The process of a part of the run; the command itself where there is none of that part just now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for found in processes_of(process.pid, part) if part != "command" else []:
            return found.pid
    return process.pid


def check_files(run_dir: Path) -> None:
    """Every file under a final name is whole, and the state is that of a run that nobody works on."""
    for path in run_dir.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(run_dir).parts) or path.is_dir():
            continue
        content = path.read_bytes()
        if path.suffix == ".csv":
            assert len(read_table(path).columns) > 1
            assert content.endswith(b"\n")
        elif path.suffix == ".yaml":
            assert read_yaml(path)
        elif path.suffix == ".ipynb":
            assert json.loads(content)["cells"]
        elif path.suffix == ".html":
            assert content.rstrip().endswith(b"</html>")
        elif path.suffix == ".png":
            assert content.endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".pt":
            assert torch.load(path, weights_only=True)
    files = RunFiles(run_dir)
    states = meta.read_states(files, meta.read_meta(files))
    assert meta.RUNNING not in {state["status"] for state in states.values()}


def check_end(run_dir: Path, whole: Path) -> None:
    assert differing(run_dir, whole) == []
    names = [{str(p.relative_to(r)) for p in r.rglob("*")} for r in (run_dir, whole)]
    assert names[0] == names[1]  # no state, lock or leftover either
    for path in whole.rglob("model.pt"):
        a, b = (torch.load(p, weights_only=True) for p in (path, run_dir / path.relative_to(whole)))
        assert all(torch.equal(a[name], b[name]) for name in b)


def campaign(undisturbed: Undisturbed, folder: Path, kills: int, seed: int) -> Counter:
    """So many kills at random instants, of a random part by a random signal; how often each was struck by which.

    A run is killed and gone on with until a start of it ends well; then it is compared, and the next one begins.
    """
    draws, struck = random.Random(seed), Counter()
    run_dir = folder / "run_1"
    while struck.total() < kills or run_dir.exists():
        process = begin(undisturbed, run_dir)
        while struck.total() < kills and runs_for(process, draws.uniform(0, undisturbed.seconds)):
            part, number = draws.choice(PARTS), draws.choice(SIGNALS)
            target = find(part, process)
            os.kill(target, number)
            part = part if target != process.pid else "command"
            struck[f"{part} {number.name}"] += 1
            if part != "worker":  # a worker's end is not the run's
                break
        output, _ = process.communicate(timeout=300)
        holder = process.pid  # a server that is still importing ends after its command
        wait_for(lambda holder=holder: not processes_under(holder), seconds=30)
        assert "Traceback" not in output or "KeyboardInterrupt" in output, output
        if RunFiles(run_dir).meta.exists():
            check_files(run_dir)
        if process.returncode == 0:
            check_end(run_dir, undisturbed.run_dir)
            run_dir = folder / f"run_{int(run_dir.name.split('_')[1]) + 1}"
    print(f"{struck.total()} kills over {len(list(folder.glob('run_*')))} runs: {dict(sorted(struck.items()))}")
    return struck


def runs_for(process: subprocess.Popen, seconds: float) -> bool:
    """Whether the process still runs after some seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def begin(undisturbed: Undisturbed, run_dir: Path) -> subprocess.Popen:
    """The command on a run directory, to begin it or to go on."""
    if RunFiles(run_dir).meta.exists():
        return start("run", "--run-dir", run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)
    parameters = undisturbed.run_dir.parents[1] / "tiny.yaml"
    return start("run", "-f", parameters, "--runs-root", run_dir.parent, "--run-name", run_dir.name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 22))
def test_sixty_kills(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    assert campaign(undisturbed, tmp_path, kills=5, seed=seed).total() == 5
