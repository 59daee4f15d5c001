"""What the driver of a study does for one training: recorded in a ledger of many. Run by hand, it is no test.

python tests/cluster_cost.py RECORDED [WORKERS]: some hundred empty units on top of so many trainings, by a thread or
through a Dask scheduler with workers.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from study import TRIALS, settings_of

from mlp_lib.core.values import Architecture
from mlp_lib.run.files import RunFiles
from mlp_lib.run.ledger import RESULT, append_trainings, missing, read_trainings
from mlp_lib.run.recipe import Wanted
from mlp_lib.study.study import Study
from mlp_lib.workers.jobs import Job, Parts, Result, Unit
from mlp_lib.workers.pool import Workers

APPENDED = 400
HISTORY = {"member": np.zeros(40, int), "epoch": np.arange(1, 41)}
HISTORY |= dict.fromkeys(("train_loss", "val_loss", "val_accuracy"), np.full(40, 0.5))


def empty(unit: Unit, number: int) -> Parts:
    """What a unit that trains nothing comes to."""
    values = zip(RESULT, ("completed", 36, 40, 0.5, 0.9, 0.6, 0.8), strict=True)
    return [(unit, Result({name: [value] * len(unit.members) for name, value in values}, HISTORY, None))]


class Idle(Workers):
    """Workers that train nothing; of so many that each training is a unit."""

    device = arithmetic = "cpu"
    machine, died, forgiven = "none", ChildProcessError, 0

    def __init__(self, number: int, executor: Executor):
        self.number, self.executor = number, executor

    @contextmanager
    def _open(self, units: Sequence[Unit], job: Job) -> Iterator[Executor]:
        yield self.executor

    def _task(self, job: Job) -> Callable[[Unit, int], Parts]:
        return empty


def measure(recorded: int, workers: Workers) -> str:
    """Milliseconds to record each of APPENDED trainings in a ledger of `recorded`, and to find what is missing."""
    with tempfile.TemporaryDirectory() as folder:
        settings, files = settings_of("transfer"), RunFiles(Path(folder))
        architectures = tuple(Architecture((width,)) for width in range(1, 101))
        study = Study(settings, files, architectures, "", workers)
        wanted = [Wanted(architectures[i % 100], TRIALS[i % 4], 1 + i // 100) for i in range(recorded + APPENDED)]
        for own in (wanted[first:recorded:100] for first in range(min(100, recorded))):
            append_trainings(files, "transfer", own, empty(Unit(own), 0)[0][1].rows, 310)
        times = [time.perf_counter()]
        for unit, result in study.train(missing(wanted, study.trainings()), "empty units"):
            study.record("transfer", unit, result)
            times.append(time.perf_counter())
        each, began = 1000 * np.diff(times)[1:], time.perf_counter()  # before the first all are handed out
        assert len(each) == APPENDED - 1
        assert missing(wanted, read_trainings(files)) == []
        seconds = time.perf_counter() - began
    half = len(each) // 2
    return (
        f"{recorded} on record: {np.median(each):.2f} ms a unit (median; {np.median(each[:half]):.2f} of the first "
        f"half, {np.median(each[half:]):.2f} of the second, {np.percentile(each, 95):.2f} at 95 %); "
        f"to find what is missing of {len(wanted)}: {seconds:.2f} s"
    )


def measure_cluster(recorded: int, number: int) -> str:
    """The same through a scheduler."""
    from distributed import Client
    from lan import Lan

    with tempfile.TemporaryDirectory() as folder:
        lan = Lan(Path(folder), DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="300s")  # many take long to import torch
        try:
            for _ in range(number):
                lan.start_worker(PYTHONPATH=str(Path(__file__).parent))
            lan.wait_for(number)
            with Client(lan.address, set_as_default=False) as client:
                told = measure(recorded, Idle(APPENDED, client.get_executor(pure=False)))
            sizes = [psutil.Process(pid).memory_info().rss / 1e6 for pid in (os.getpid(), lan.scheduler.pid)]
            return f"{number} workers, {told}; memory of driver and scheduler: {sizes[0]:.0f} and {sizes[1]:.0f} MB"
        finally:
            lan.close()


if __name__ == "__main__":
    amount, *cluster = map(int, sys.argv[1:])
    if cluster:
        print(measure_cluster(amount, *cluster), flush=True)
    else:
        with ThreadPoolExecutor(1) as pool:
            print(measure(amount, Idle(APPENDED, pool)), flush=True)
