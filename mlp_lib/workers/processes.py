"""Units of work on this machine's worker processes, by the standard executor interface."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from mlp_lib.core.data import Dataset, load_dataset
from mlp_lib.core.errors import DataError
from mlp_lib.core.machine import describe_machine, resolve_device
from mlp_lib.core.values import DataSettings
from mlp_lib.run.parameters import StudySettings
from mlp_lib.workers.jobs import Job, Result, Unit, state_paths
from mlp_lib.workers.pool import Workers
from mlp_lib.workers.units import train_unit

# On an H200 one, two, four and eight workers trained 193, 257, 284 and 306 epochs a second of populations of seven
# (206,614 parameters, random numbers drawn by one thread a worker).
_FEEDING_CUDA = 4


class Processes(Workers):
    """Worker processes of this machine."""

    died = BrokenProcessPool
    forgiven = 1  # with a pool all its units fail, whosever worker died

    def __init__(self, settings: StudySettings, executor: Callable[[int], Executor] | None = None):
        """`executor` makes the pool of so many workers; processes are spawned, if it isn't given."""
        device = resolve_device(settings.device)
        self.device, self.machine, self.executor = device.type, describe_machine(device), executor or _spawn
        self.number = settings.workers if settings.workers != "auto" else _count(self.device)

    @property
    def shares(self) -> int:
        return 1 if self.device == "cuda" else self.number

    def load(self, settings: StudySettings, base: Path) -> Dataset:
        return load_dataset(settings, resolve_device(settings.device), base)

    @contextmanager
    def _open(self, units: Sequence[Unit], job: Job) -> Iterator[Executor]:
        executor = self.executor(min(self.number, len(units)))
        try:
            yield executor
        finally:
            _stop(executor)

    def _task(self, job: Job) -> Callable[[Unit, int], Result]:
        return functools.partial(_train_here, job=job)

    def _watch(self, job: Job, epochs: int) -> int:
        return sum(int(path.read_text() or 0) for path in job.work.counters())


def _count(device: str) -> int:
    """One a core that this process may use, on CUDA four at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _FEEDING_CUDA) if device == "cuda" else cores


def _spawn(workers: int) -> Executor:
    """Spawned processes: forked ones would inherit a kernel's threads, and CUDA refuses them."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _stop(executor: Executor) -> None:
    """End the workers now, also in the middle of a training."""
    executor.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()
    for process in multiprocessing.active_children():
        process.join()


def _start_worker() -> None:
    """A worker leaves interrupts to its parent, and never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@functools.lru_cache(maxsize=1)
def _dataset(settings: DataSettings, device: str, base: Path) -> Dataset:
    return load_dataset(settings, resolve_device(device), base)


def _train_here(unit: Unit, number: int, job: Job) -> Result:
    """Train a unit in a worker process; the epochs trained so far are kept in the unit's counter."""
    dataset = _dataset(job.data_settings, job.settings.device, job.base)
    if dataset.digest != job.digest:
        raise DataError(f"{job.settings.dataset} changed while the run went on: its digest is {dataset.digest[:12]}")
    return train_unit(unit, job, dataset, state_paths(unit, job), job.work.counter(number))
