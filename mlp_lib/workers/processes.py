"""Units of work on this machine's worker processes, by the standard executor interface."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from mlp_lib.core.data import Dataset, RawData, read_raw
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import DATASETS, DataSettings
from mlp_lib.run.parameters import StudySettings
from mlp_lib.workers.jobs import Job, Parts, Unit, name_arithmetic
from mlp_lib.workers.pool import Workers, describe_machine
from mlp_lib.workers.server import settle, start_server
from mlp_lib.workers.units import split_supplied, supplied, train_unit

# On an H200 one, two, four and eight workers trained 193, 257, 284 and 306 epochs a second of populations of seven
# (206,614 parameters, random numbers drawn by one thread a worker).
_FEEDING_CUDA = 4
# Less than this (images x parameters x epochs) is trained in this process: it takes a few seconds at most, of which the
# start of a worker would be two.
_LITTLE_WORK = 1e10


class Processes(Workers):
    """Worker processes of this machine."""

    died = BrokenProcessPool
    forgiven = 1  # with a pool all its units fail, whosever worker died

    def __init__(self, settings: StudySettings, executor: Callable[[int, RawData], Executor] | None = None):
        """`executor` makes the pool of so many workers that have the data; those of a server, if it isn't given."""
        device = resolve_device(settings.device)
        self.device, self.machine, self.executor = device.type, describe_machine(device), executor
        self.arithmetic = name_arithmetic(settings, self.device)
        self.number = settings.workers if settings.workers != "auto" else _count(self.device)

    @property
    def shares(self) -> int:
        return 1 if self.device == "cuda" else self.number

    def load(self, settings: StudySettings) -> Dataset:
        raw = read_raw(settings)
        supplied[raw.digest] = raw
        return split_supplied(DataSettings.of(settings), self.device, raw.digest)

    @contextmanager
    def _open(self, units: Sequence[Unit], job: Job) -> Iterator[Executor]:
        little = self.device == "cpu" and _count_work(units, job) < _LITTLE_WORK
        make = self.executor or (start_thread if little else start_pool)
        before = {*multiprocessing.active_children()}  # a notebook's own
        executor = make(min(self.number, len(units)), supplied[job.digest])
        try:
            yield executor
        finally:
            _stop(executor, before)

    def _task(self, job: Job) -> Callable[[Unit, int], Parts]:
        return functools.partial(train_unit, job=job)

    def _watch(self, job: Job, epochs: int) -> int:
        return sum(int(path.read_text() or 0) for path in job.work.counters())


def _count(device: str) -> int:
    """One a core that this process may use, on CUDA four at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _FEEDING_CUDA) if device == "cuda" else cores


def start_pool(workers: int, raw: RawData) -> Executor:
    """Processes of a server: those forked from a kernel would inherit its threads, and CUDA refuses them."""
    context, own = start_server(__name__), (dict(os.environ), raw)
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=own)


def start_thread(workers: int, raw: RawData) -> Executor:
    """A thread of this process, which has the data."""
    return ThreadPoolExecutor(1)


def _stop(executor: Executor, others: set[BaseProcess]) -> None:
    """End the workers now, also in the middle of a training."""
    executor.shutdown(wait=False, cancel_futures=True)
    if isinstance(executor, ThreadPoolExecutor):  # the children that are new are those of a DataLoader, which stays
        return
    workers = {*multiprocessing.active_children()} - others
    for process in workers:
        process.terminate()
    for process in workers:
        process.join()


def _start_worker(environment: dict[str, str], raw: RawData) -> None:
    settle(environment)
    supplied[raw.digest] = raw


def _count_work(units: Sequence[Unit], job: Job) -> int:
    """Images x parameters over all epochs, at most."""
    facts = DATASETS[job.settings.dataset]
    parameters = (unit.architecture.count_parameters(facts.inputs) * len(unit.members) for unit in units)
    return facts.images * job.settings.max_epochs * sum(parameters)
