"""Where trainings in progress stand, in files, so that after a stop of any kind they go on to the same bits."""

import io
import math
import queue
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mlp_lib.core.data import Dataset
from mlp_lib.core.errors import RunDirectoryError, TrainingError
from mlp_lib.core.machine import resolve_device, seed_everything
from mlp_lib.core.training import State, Training
from mlp_lib.core.values import CLASSES, Architecture, DataSettings, Hyperparameters
from mlp_lib.run.files import WorkFiles, write_bytes
from mlp_lib.run.parameters import StudySettings

_FIRST_S = 1.0  # what is shorter is trained again rather than kept
_MOST_S = 120.0  # the most time of training that a stop may cost
_SHARE = 500  # training goes on for this many times as long as the writing took: it costs at most 0.2 %


class Keeper:
    """Keeps the states of a training's members, a file each, now and then."""

    def __init__(self, training: Training, paths: Sequence[Path]):
        self.training, self.paths = training, paths
        self.due = time.monotonic() + _FIRST_S

    def keep(self) -> None:
        """Write where the training stands, if it is time to."""
        if self.paths and time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write where the training stands."""
        began, state = time.monotonic(), self.training.state()
        for member, path in enumerate(self.paths):
            buffer = io.BytesIO()
            np.savez(buffer, **{name: values[member].numpy() for name, values in state.items()})
            write_bytes(path, buffer.getvalue())
        now = time.monotonic()
        self.due = now + min(_SHARE * (now - began), _MOST_S)


def read_state(path: Path) -> State | None:
    """One member's state, without the first axis; None if there is none, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(values) for name, values in file.items()}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def join_states(states: Sequence[State]) -> State:
    """Members' states of one epoch as one."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


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
class Job:
    """What the units of a phase have in common: how and on what data they are trained, and what is kept of them."""

    settings: StudySettings
    base: Path  # what relative paths in the settings start from
    digest: str  # of the data
    what: str  # the phase, for the progress
    work: WorkFiles
    keep_weights: bool = False
    to_be_continued: bool = False  # later, with more epochs

    @property
    def data_settings(self) -> DataSettings:
        """What of the settings decides the data set."""
        return DataSettings(**{name: getattr(self.settings, name) for name in DataSettings.model_fields})


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
    device: str,
    workers: int,
    fitting: int | None = None,
) -> list[Unit]:
    """The members cut into units: how is for the machines to say, since no result depends on it.

    A CUDA device trains its share of them together, or as many as memory was found to hold (`fitting`).
    """
    if not labels:
        return []
    size = math.ceil(len(labels) / workers)
    if device == "cuda":
        size = min(size, fitting or size)
    else:
        size = min(size, max(1, _PARAMETERS_A_UNIT // architecture.count_parameters(inputs, CLASSES)), _MEMBERS_A_UNIT)
    return [
        Unit(architecture, *(tuple(part[i : i + size]) for part in (hyperparameters, seeds, labels)))
        for i in range(0, len(labels), size)
    ]


def halve(unit: Unit) -> list[Unit]:
    """The unit as two smaller ones, or as it is if it has one member."""
    half = len(unit.labels) // 2
    places = [slice(0, half), slice(half, None)] if half else [slice(None)]
    return [
        Unit(unit.architecture, unit.hyperparameters[place], unit.seeds[place], unit.labels[place]) for place in places
    ]


def as_finished(
    executor: Executor, task: Callable[[Unit, int], Result], units: Sequence[Unit], tick: Callable[[], None]
) -> Iterator[tuple[Unit, Future]]:
    """Each unit with its future, as they finish; `tick` is called in between, at least twice a second.

    task: what an executor makes of (unit, its number).
    """
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()  # not wait(), which looks at every future every time
    futures = {}
    for number, unit in enumerate(units):
        future = executor.submit(task, unit, number)
        futures[future] = unit
        future.add_done_callback(finished.put)
    # A pool's manager takes note of the processes when it is woken, which a submission does before it starts one:
    # without one more it may not notice that the last process died.
    executor.submit(int)
    while futures:
        try:
            future = finished.get(timeout=0.5)
        except queue.Empty:
            pass
        else:
            yield futures.pop(future), future
        tick()


def train_unit(
    unit: Unit, job: Job, dataset: Dataset, states: Sequence[Path] = (), counter: Path | None = None
) -> Result:
    """Train a unit, then read the test split.

    states: where each member's state is kept, if anywhere. Members that were stopped earlier go on from there, those of
    one epoch together; the end of what is to be continued is a state too. counter: where the number of epochs trained
    so far is told, if anywhere.
    """
    seed_everything(unit.seeds[0])
    device = resolve_device(job.settings.device)
    epochs = 0

    def train(members: list[int]) -> Result:
        nonlocal epochs
        paths = [states[member] for member in members] if states else []
        before = [read_state(path) for path in paths]
        training = Training(
            dataset.train,
            dataset.validation,
            unit.architecture,
            [unit.hyperparameters[member] for member in members],
            [unit.seeds[member] for member in members],
            job.settings,
            device,
            join_states(before) if paths and None not in before else None,
        )
        keeper = Keeper(training, paths)
        for rows in training:
            epochs += len(rows)
            _tell(counter, epochs)
            keeper.keep()
        if job.to_be_continued:
            keeper.write()
        trained = training.result()
        test_loss, test_accuracy = trained.score(dataset.test)
        columns = ("status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy")
        rows = pd.DataFrame({name: getattr(trained, name) for name in columns}, index=members)
        rows = rows.assign(test_loss=test_loss, test_accuracy=test_accuracy)
        rows["best_epoch"] = rows["best_epoch"].astype("Int64").where(rows["status"] == "completed")
        history = trained.history.assign(member=np.array(members)[trained.history["member"]])
        weights = [weight.cpu().numpy() for weight in trained.weights] if job.keep_weights else None
        return Result(rows, history, weights)

    epochs_before: dict[int, list[int]] = {}
    for member in range(len(unit.labels)):
        state = read_state(states[member]) if states else None
        epochs_before.setdefault(int(state["epoch"]) if state else 0, []).append(member)
    trained = [fit_in_memory(train, members) for members in epochs_before.values()]
    return _join([part for parts in trained for part in parts])


def _tell(counter: Path | None, epochs: int) -> None:
    try:
        if counter:
            counter.write_text(str(epochs))
    except OSError as error:
        raise RunDirectoryError(f"can't write {counter}: {error.strerror or error}") from None


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
