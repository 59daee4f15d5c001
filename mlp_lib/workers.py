"""Units of work trained by worker processes through the standard executor interface."""

import functools
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mlp_lib.data import Dataset, load_dataset
from mlp_lib.errors import DataError, TrainingError
from mlp_lib.progress import Progress
from mlp_lib.runtime import resolve_device, seed_everything
from mlp_lib.settings import CLASSES, Architecture, DataSettings, Hyperparameters, StudySettings
from mlp_lib.train import evaluate, train_population

_PARAMETERS_A_UNIT = 800_000  # small enough that a kill loses minutes, large enough to share a seed's draws
_MEMBERS_A_UNIT = 32


@dataclass(frozen=True)
class Unit:
    """A population of one architecture: what one worker trains in one go. `labels` name its members for the caller."""

    architecture: Architecture
    hyperparameters: tuple[Hyperparameters, ...]
    seeds: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What a unit came to: a row a member, its history (see Trained), its weights [P, out, in + 1] if asked for."""

    rows: pd.DataFrame
    history: pd.DataFrame
    weights: list[np.ndarray] | None


def split_into_units(
    architecture: Architecture,
    hyperparameters: list[Hyperparameters],
    seeds: list[int],
    labels: list[int],
    inputs: int,
    settings: StudySettings,
) -> list[Unit]:
    """The members cut into units: how is for the machine to say, since no result depends on it."""
    if not labels:
        return []
    if resolve_device(settings.device).type == "cuda":
        size = len(labels)
    else:
        fitting = max(1, _PARAMETERS_A_UNIT // architecture.count_parameters(inputs, CLASSES))
        size = min(fitting, _MEMBERS_A_UNIT, math.ceil(len(labels) / count_workers(settings)))
    return [
        Unit(architecture, *(tuple(part[i : i + size]) for part in (hyperparameters, seeds, labels)))
        for i in range(0, len(labels), size)
    ]


def count_workers(settings: StudySettings) -> int:
    """Worker processes: as asked, or one a core this process may use; on CUDA one feeds the device."""
    if settings.workers != "auto":
        return settings.workers
    if resolve_device(settings.device).type == "cuda":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_units(
    units: list[Unit], settings: StudySettings, base: Path, digest: str, what: str, keep_weights: bool = False
) -> Iterator[tuple[Unit, Result]]:
    """Each unit with its result, as they finish; a unit whose worker died is done again once.

    Raises TrainingError if workers go on dying, DataError if a worker finds other data than `digest`.
    """
    progress = Progress(what, sum(len(unit.labels) for unit in units))
    waiting, deaths, done = list(units), 0, 0
    with tempfile.TemporaryDirectory() as directory:
        task = functools.partial(train_unit, settings=settings, base=base, digest=digest, keep_weights=keep_weights)
        counters = Path(directory)
        while waiting:
            try:
                for unit, result in _as_finished(waiting, task, count_workers(settings), counters, progress, done):
                    waiting.remove(unit)
                    done += len(unit.labels)
                    yield unit, result
            except BrokenProcessPool:
                deaths += 1
                if deaths > 1:
                    names = sorted({unit.architecture.name for unit in waiting})
                    raise TrainingError(
                        f"worker processes died twice while training {', '.join(names)} (out of memory?); what is "
                        "finished is on disk: fewer workers, then the same run directory, goes on"
                    ) from None
        if units:
            progress.update(done, _count_epochs(counters), last=True)


def _as_finished(
    units: list[Unit], task: functools.partial, workers: int, counters: Path, progress: Progress, done: int
) -> Iterator[tuple[Unit, Result]]:
    executor = _make_executor(min(workers, len(units)))
    try:
        futures = {executor.submit(task, unit, counter=counters / str(i)): unit for i, unit in enumerate(units)}
        # The pool's manager takes note of the workers when it is woken, which a submission does before it starts one:
        # without one more it may not notice that the last worker died.
        executor.submit(int)
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                done += len(futures[future].labels)
                yield futures[future], result
            progress.update(done, _count_epochs(counters))
    finally:
        _stop(executor)


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


def _count_epochs(counters: Path) -> int:
    return sum(int(path.read_text() or 0) for path in counters.iterdir())


@functools.lru_cache(maxsize=1)
def _dataset(settings: DataSettings, device: str, base: Path) -> Dataset:
    return load_dataset(settings, resolve_device(device), base)


def train_unit(
    unit: Unit, settings: StudySettings, base: Path, digest: str, keep_weights: bool, counter: Path
) -> Result:
    """Train a unit, then read the test split; the epochs trained so far are kept in the file `counter`."""
    seed_everything(unit.seeds[0])
    data_settings = DataSettings(**{name: getattr(settings, name) for name in DataSettings.model_fields})
    dataset = _dataset(data_settings, settings.device, base)
    if dataset.digest != digest:
        raise DataError(f"{settings.dataset} changed while the run went on: its digest is {dataset.digest[:12]}")
    epochs = 0

    def report(count: int) -> None:
        nonlocal epochs
        epochs += count
        counter.write_text(str(epochs))

    device = resolve_device(settings.device)
    trained = train_population(
        dataset.train,
        dataset.validation,
        unit.architecture,
        unit.hyperparameters,
        unit.seeds,
        settings,
        device,
        report,
    )
    test_loss, test_accuracy = evaluate(trained, dataset.test, settings)
    columns = ("status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy")
    rows = pd.DataFrame({name: getattr(trained, name) for name in columns})
    rows = rows.assign(test_loss=test_loss, test_accuracy=test_accuracy)
    rows["best_epoch"] = rows["best_epoch"].astype("Int64").where(rows["status"] == "completed")
    weights = [weight.cpu().numpy() for weight in trained.weights] if keep_weights else None
    return Result(rows, trained.history, weights)
