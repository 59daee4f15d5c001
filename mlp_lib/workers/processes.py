"""Units of work on this machine's worker processes, by the standard executor interface."""

import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from mlp_lib.core.data import Dataset, load_dataset
from mlp_lib.core.errors import DataError, RunDirectoryError, TrainingError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import DataSettings, TrainingSettings
from mlp_lib.run.files import WorkFiles, write_bytes
from mlp_lib.run.parameters import StudySettings
from mlp_lib.workers.progress import Progress
from mlp_lib.workers.units import Job, Result, Unit, as_finished, halve, train_unit

# On an H200 one, two, four and eight workers trained 193, 257, 284 and 306 epochs a second of populations of seven
# (206,614 parameters, random numbers drawn by one thread a worker).
_FEEDING_CUDA = 4


def count_workers(settings: StudySettings) -> int:
    """Worker processes: as asked, or one a core this process may use, on CUDA four at most."""
    if settings.workers != "auto":
        return settings.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _FEEDING_CUDA) if resolve_device(settings.device).type == "cuda" else cores


def train_units(units: list[Unit], job: Job) -> Iterator[tuple[Unit, Result]]:
    """Each unit with its result, as they finish; where trainings stand is kept in files, and they go on from there.

    The states are gone at the end, unless the trainings are to be continued with more epochs.

    A unit whose worker died is done again, in halves from the second death on (it may have been for memory).
    Raises TrainingError if workers go on dying, DataError if a worker finds other data than the job's.
    """
    waiting, deaths, done = list(units), 0, 0
    open_work(job.work)
    progress = Progress(job.what, sum(len(unit.labels) for unit in units), tell=functools.partial(tell, job.work))
    task = functools.partial(_train_here, job=job)

    def tick() -> None:
        progress.update(done, _count_epochs(job.work))

    while waiting:
        executor = _make_executor(min(count_workers(job.settings), len(waiting)))
        try:
            for unit, future in as_finished(executor, task, tuple(waiting), tick):
                result = future.result()
                waiting.remove(unit)
                done += len(unit.labels)
                yield unit, result
                if not job.to_be_continued:  # the caller has recorded it
                    for path in _state_paths(unit, job):
                        path.unlink(missing_ok=True)
        except BrokenProcessPool:
            deaths += 1
            if deaths > 1:
                if all(len(unit.labels) == 1 for unit in waiting):
                    names = sorted({unit.architecture.name for unit in waiting})
                    raise TrainingError(
                        f"worker processes died {deaths} times while training {', '.join(names)} (out of memory?); "
                        "what is finished is on disk: fewer workers, then the same run directory, goes on"
                    ) from None
                waiting = [half for unit in waiting for half in halve(unit)]
        finally:
            _stop(executor)
    if units:
        progress.update(done, _count_epochs(job.work), last=True)
    if not job.to_be_continued:
        shutil.rmtree(job.work.root, ignore_errors=True)


def open_work(work: WorkFiles) -> None:
    """The folder of what is in progress, below a run directory that has to be there, without counts of a run before."""
    try:
        work.root.mkdir(exist_ok=True)
        for path in work.counters():
            path.unlink()
    except OSError as error:
        raise RunDirectoryError(f"can't write to {work.root.parent}: {error.strerror or error}") from None


def tell(work: WorkFiles, text: str) -> None:
    """Leave word of the progress; a run directory that was removed is not made again."""
    if not work.root.is_dir():
        raise RunDirectoryError(f"{work.root.parent} was removed while the run was at work on it")
    write_bytes(work.progress, text.encode())


def _state_paths(unit: Unit, job: Job) -> list[Path]:
    """Where the state of each training is kept, by all that decides how it goes on; not how long."""
    names = (*TrainingSettings.model_fields, "dataset", "validation_size", "split_seed")
    names = [name for name in names if name != "max_epochs"]
    context = [getattr(job.settings, name) for name in names], job.digest, resolve_device(job.settings.device).type
    identities = [
        (unit.architecture.widths, hyperparameters.model_dump(), seed, *context, torch.__version__)
        for hyperparameters, seed in zip(unit.hyperparameters, unit.seeds, strict=True)
    ]
    return [job.work.state(hashlib.sha256(repr(identity).encode()).hexdigest()[:32]) for identity in identities]


def _make_executor(workers: int) -> Executor:
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


def _count_epochs(work: WorkFiles) -> int:
    return sum(int(path.read_text() or 0) for path in work.counters())


@functools.lru_cache(maxsize=1)
def _dataset(settings: DataSettings, device: str, base: Path) -> Dataset:
    return load_dataset(settings, resolve_device(device), base)


def _train_here(unit: Unit, number: int, job: Job) -> Result:
    """Train a unit in a worker process; the epochs trained so far are kept in the unit's counter."""
    dataset = _dataset(job.data_settings, job.settings.device, job.base)
    if dataset.digest != job.digest:
        raise DataError(f"{job.settings.dataset} changed while the run went on: its digest is {dataset.digest[:12]}")
    return train_unit(unit, job, dataset, _state_paths(unit, job), job.work.counter(number))
