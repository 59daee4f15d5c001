"""Units of work trained by worker processes through the standard executor interface."""

import functools
import hashlib
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mlp_lib.artifacts import WorkFiles, write_bytes
from mlp_lib.data import Dataset, load_dataset
from mlp_lib.errors import DataError, RunDirectoryError, TrainingError
from mlp_lib.progress import Progress
from mlp_lib.runtime import resolve_device, seed_everything
from mlp_lib.settings import CLASSES, Architecture, DataSettings, Hyperparameters, StudySettings, TrainingSettings
from mlp_lib.state import Keeper, join_states, read_state
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
    """What a unit came to: a row a member, its history (see Trained), its weights [P, out, in + 1] if asked for.

    fitting: how many members memory held together, if not all of them.
    """

    rows: pd.DataFrame
    history: pd.DataFrame
    weights: list[np.ndarray] | None
    fitting: int | None = None


def split_into_units(
    architecture: Architecture,
    hyperparameters: list[Hyperparameters],
    seeds: list[int],
    labels: list[int],
    inputs: int,
    settings: StudySettings,
    fitting: int | None = None,
) -> list[Unit]:
    """The members cut into units: how is for the machine to say, since no result depends on it.

    A CUDA device trains all of them together, or as many as memory was found to hold (`fitting`).
    """
    if not labels:
        return []
    if resolve_device(settings.device).type == "cuda":
        size = fitting or len(labels)
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
    units: list[Unit],
    settings: StudySettings,
    base: Path,
    digest: str,
    what: str,
    work: WorkFiles,
    keep_weights: bool = False,
) -> Iterator[tuple[Unit, Result]]:
    """Each unit with its result, as they finish; where trainings stand is kept in `work`, and they go on from there.

    A unit whose worker died is done again, in halves from the second death on (it may have been for memory).
    Raises TrainingError if workers go on dying, DataError if a worker finds other data than `digest`.
    """
    waiting, deaths, done = list(units), 0, 0
    _open_work(work)
    progress = Progress(what, sum(len(unit.labels) for unit in units), functools.partial(_tell, work))
    task = functools.partial(
        train_unit, settings=settings, base=base, digest=digest, keep_weights=keep_weights, work=work
    )
    while waiting:
        try:
            for unit, result in _as_finished(waiting, task, count_workers(settings), work, progress, done):
                waiting.remove(unit)
                done += len(unit.labels)
                yield unit, result
                for member in range(len(unit.labels)):  # the caller has recorded it
                    _state_path(work, unit, member, settings, digest).unlink(missing_ok=True)
        except BrokenProcessPool:
            deaths += 1
            if deaths > 1:
                if all(len(unit.labels) == 1 for unit in waiting):
                    names = sorted({unit.architecture.name for unit in waiting})
                    raise TrainingError(
                        f"worker processes died {deaths} times while training {', '.join(names)} (out of memory?); "
                        "what is finished is on disk: fewer workers, then the same run directory, goes on"
                    ) from None
                waiting = [half for unit in waiting for half in _halve(unit)]
    if units:
        progress.update(done, _count_epochs(work), last=True)
    shutil.rmtree(work.root, ignore_errors=True)


def _open_work(work: WorkFiles) -> None:
    """The folder of what is in progress, below a run directory that has to be there, without counts of a run before."""
    try:
        work.root.mkdir(exist_ok=True)
        for path in work.counters():
            path.unlink()
    except OSError as error:
        raise RunDirectoryError(f"can't write to {work.root.parent}: {error.strerror or error}") from None


def _tell(work: WorkFiles, text: str) -> None:
    """Leave word of the progress; a run directory that was removed is not made again."""
    if not work.root.is_dir():
        raise RunDirectoryError(f"{work.root.parent} was removed while the run was at work on it")
    write_bytes(work.progress, text.encode())


def _halve(unit: Unit) -> list[Unit]:
    """The unit as two smaller ones, or as it is if it has one member."""
    half = len(unit.labels) // 2
    places = [slice(0, half), slice(half, None)] if half else [slice(None)]
    return [
        Unit(unit.architecture, unit.hyperparameters[place], unit.seeds[place], unit.labels[place]) for place in places
    ]


def _state_path(work: WorkFiles, unit: Unit, member: int, settings: StudySettings, digest: str) -> Path:
    """Where the state of one training is kept, by all that decides it."""
    names = (*TrainingSettings.model_fields, "dataset", "validation_size", "split_seed")
    identity = (
        unit.architecture.widths,
        unit.hyperparameters[member].model_dump(),
        unit.seeds[member],
        [getattr(settings, name) for name in names],
        digest,
        resolve_device(settings.device).type,
        torch.__version__,
    )
    return work.state(hashlib.sha256(repr(identity).encode()).hexdigest()[:32])


def _as_finished(
    units: list[Unit], task: functools.partial, workers: int, work: WorkFiles, progress: Progress, done: int
) -> Iterator[tuple[Unit, Result]]:
    executor = _make_executor(min(workers, len(units)))
    try:
        futures = {executor.submit(task, unit, counter=work.counter(i)): unit for i, unit in enumerate(units)}
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
            progress.update(done, _count_epochs(work))
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


def _count_epochs(work: WorkFiles) -> int:
    return sum(int(path.read_text() or 0) for path in work.counters())


@functools.lru_cache(maxsize=1)
def _dataset(settings: DataSettings, device: str, base: Path) -> Dataset:
    return load_dataset(settings, resolve_device(device), base)


def train_unit(
    unit: Unit, settings: StudySettings, base: Path, digest: str, keep_weights: bool, work: WorkFiles, counter: Path
) -> Result:
    """Train a unit, then read the test split; the epochs trained so far are kept in the file `counter`.

    Members that were stopped earlier go on from their states, those of one epoch together.
    """
    seed_everything(unit.seeds[0])
    data_settings = DataSettings(**{name: getattr(settings, name) for name in DataSettings.model_fields})
    dataset = _dataset(data_settings, settings.device, base)
    if dataset.digest != digest:
        raise DataError(f"{settings.dataset} changed while the run went on: its digest is {dataset.digest[:12]}")
    epochs = 0

    def count(rows: pd.DataFrame) -> None:
        nonlocal epochs
        epochs += len(rows)
        try:
            counter.write_text(str(epochs))
        except OSError as error:
            raise RunDirectoryError(f"can't write {counter}: {error.strerror or error}") from None

    def train(members: list[int]) -> Result:
        paths = [_state_path(work, unit, member, settings, digest) for member in members]
        states = [read_state(path) for path in paths]
        trained = train_population(
            dataset.train,
            dataset.validation,
            unit.architecture,
            [unit.hyperparameters[member] for member in members],
            [unit.seeds[member] for member in members],
            settings,
            resolve_device(settings.device),
            count,
            Keeper(paths),
            join_states(states) if None not in states else None,
        )
        test_loss, test_accuracy = evaluate(trained, dataset.test, settings)
        columns = ("status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy")
        rows = pd.DataFrame({name: getattr(trained, name) for name in columns}, index=members)
        rows = rows.assign(test_loss=test_loss, test_accuracy=test_accuracy)
        rows["best_epoch"] = rows["best_epoch"].astype("Int64").where(rows["status"] == "completed")
        history = trained.history.assign(member=np.array(members)[trained.history["member"]])
        weights = [weight.cpu().numpy() for weight in trained.weights] if keep_weights else None
        return Result(rows, history, weights)

    epochs_before: dict[int, list[int]] = {}
    for member in range(len(unit.labels)):
        state = read_state(_state_path(work, unit, member, settings, digest))
        epochs_before.setdefault(int(state["epoch"]) if state else 0, []).append(member)
    trained = [fit_in_memory(train, members) for members in epochs_before.values()]
    return _join([part for parts in trained for part in parts])


def fit_in_memory(train: Callable[[list[int]], Result], members: list[int]) -> list[Result]:
    """What `train` makes of the members: of all together, or of as many at a time as memory is found to hold.

    Raises TrainingError if a single one doesn't fit.
    """
    results: list[Result] = []
    size, done = len(members), 0
    while done < len(members):
        part = members[done : done + size]
        try:
            results.append(train(part))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(part) == 1:
                reason = (str(error) or type(error).__name__).splitlines()[0][:100]
                raise TrainingError(
                    f"out of memory, even for a single training ({reason}): "
                    "fewer workers, a smaller batch_size or narrower architectures need less"
                ) from None
            size = math.ceil(len(part) / 2)
        else:
            done += len(part)
        if size < len(part) and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return [replace(result, fitting=size) for result in results] if size < len(members) else results


def _is_out_of_memory(error: Exception) -> bool:
    """torch's allocator for the CPU raises a plain RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _join(parts: list[Result]) -> Result:
    """The members of a unit together again, in their order."""
    rows = pd.concat([part.rows for part in parts])
    order = rows.index.argsort()
    history = pd.concat([part.history for part in parts]).sort_values(["member", "epoch"], ignore_index=True)
    weights = None
    if parts[0].weights is not None:
        weights = [np.concatenate(layer)[order] for layer in zip(*(part.weights for part in parts), strict=True)]
    fitting = min((part.fitting for part in parts if part.fitting), default=None)
    return Result(rows.sort_index(), history, weights, fitting)
