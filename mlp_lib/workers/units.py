"""Where trainings in progress stand, in files, so that after a stop of any kind they go on to the same bits."""

import functools
import io
import math
import random
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from mlp_lib.core import kernels
from mlp_lib.core.data import Dataset, RawData, Split, split_dataset
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.training import State, Trained, Training
from mlp_lib.core.values import COMPLETED, DIVERGED, DataSettings
from mlp_lib.run.files import RunDirectoryError, write_bytes
from mlp_lib.run.ledger import RESULT
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers.jobs import Job, MemoryShortage, Parts, Result, Unit, state_paths

_FIRST_S = 1.0  # what is shorter is trained again rather than kept
_MOST_S = 120.0  # the most time of training that a stop may cost
_TIMED_WORK = 3e9  # images x parameters: a second or so on one core
_SHARE = 500  # training goes on for this many times as long as the writing took: it costs at most 0.2 %

supplied: dict[str, RawData] = {}  # by digest the data sets that this process was given, before it trains on them


@functools.lru_cache(maxsize=1)
def split_supplied(settings: DataSettings, device: str, digest: str) -> Dataset:
    """A data set that this process was given, as the settings split it."""
    return split_dataset(supplied[digest], settings, resolve_device(device))


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
            write_bytes(path, buffer.getvalue(), parents=False)  # a run that was removed stays so
        now = time.monotonic()
        self.due = now + min(_SHARE * (now - began), _MOST_S)


def read_state(path: Path) -> State | None:
    """One member's state, without the first axis; None if there is none, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(values) for name, values in file.items()}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def train_unit(unit: Unit, number: int | None, job: Job) -> Parts:
    """Train a unit on the data set that this process was given, then read the test split.

    number: the unit's among those of the job, where files are kept of it: the state of each member, and how many epochs
    were trained so far. Members that were stopped earlier go on from there, those of one epoch together as a part; the
    end of what is to be continued is a state too.
    """
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # for code that draws from the global generators
        seed(unit.seeds[0])
    kept, epochs = number is not None, 0

    def tell(trained: int) -> None:
        nonlocal epochs
        epochs += trained
        if kept:
            counter = job.work.counter(number)
            try:
                counter.write_text(str(epochs))
            except OSError as error:
                raise RunDirectoryError(f"can't write {counter}: {error.strerror or error}") from None

    members: dict[int, list[Wanted]] = {}  # by the epochs that they have behind them
    for one, path in zip(unit.members, state_paths(unit, job), strict=True):
        state = read_state(path) if kept else None
        members.setdefault(len(state["history"]) if state else 0, []).append(one)
    dataset = split_supplied(DataSettings.of(job.settings), job.settings.device, job.digest)
    train = functools.partial(_train_part, job=job, dataset=dataset, kept=kept, tell=tell)
    return [part for of_epoch in members.values() for part in fit_in_memory(train, Unit(of_epoch))]


def _train_part(part: Unit, job: Job, dataset: Dataset, kept: bool, tell: Callable[[int], None]) -> Result:
    """Train members of a unit together; `tell` gets the number of epochs as they are trained."""
    paths = state_paths(part, job) if kept else []
    before = [read_state(path) for path in paths]
    training = Training(
        dataset.train,
        dataset.validation,
        part.architecture,
        [one.hyperparameters for one in part.members],
        part.seeds,
        job.settings,
        resolve_device(job.settings.device),
        default_collate(before) if paths and None not in before else None,
    )
    keeper = Keeper(training, paths)
    for rows in training:
        tell(len(rows))
        keeper.keep()
    if job.to_be_continued:
        keeper.write()
    trained = training.result()
    rows = result_rows(trained, dataset.test)
    history = {name: column.to_numpy() for name, column in trained.history.items()}
    weights = [weight.cpu().numpy() for weight in trained.weights] if job.keep_weights else None
    images = trained.image_losses(dataset.test) if job.keep_images else None
    if images is not None:
        images[rows["status"] != COMPLETED] = np.nan
    rows = {name: values.tolist() for name, values in rows.items()}
    return Result(rows, history, weights, images, unfused=frozenset(kernels.unfused))


def result_rows(trained: Trained, test: Split) -> dict[str, np.ndarray]:
    """The ledger's RESULT, a value a member. Only what was trained has losses, so that nothing else can be counted."""
    status = np.array(trained.status)
    best_epoch = np.where(status == DIVERGED, None, trained.best_epoch)
    losses = (trained.val_loss, trained.val_accuracy, *trained.score(test))
    losses = (np.where(status == COMPLETED, values, np.nan) for values in losses)
    return dict(zip(RESULT, (status, best_epoch, trained.epochs_trained, *losses), strict=True))


def fit_in_memory(train: Callable[[Unit], Result], unit: Unit) -> Parts:
    """What `train` makes of a unit: of all its members together, or of as many at a time as memory is found to hold.

    Raises MemoryShortage if a single one doesn't fit.
    """
    parts: Parts = []
    left, size = unit.members, len(unit.members)
    while left:
        part = Unit(left[:size])
        try:
            parts.append((part, train(part)))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(part.members) == 1:
                reason = (str(error) or type(error).__name__).splitlines()[0][:100]
                raise MemoryShortage(
                    f"out of memory, even for a single training ({reason}): "
                    "fewer workers, a smaller batch_size or narrower architectures need less"
                ) from None
            size = math.ceil(len(part.members) / 2)
        else:
            left = left[size:]
        if size < len(part.members) and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return [(part, replace(result, fitting=size)) for part, result in parts] if size < len(unit.members) else parts


def _is_out_of_memory(error: Exception) -> bool:
    """torch's allocator for the CPU raises a plain RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def time_epoch(unit: Unit, dataset: Dataset, settings: StudySettings) -> float:
    """Seconds of one epoch of one member of a unit here, a share of the validation included.

    Of an epoch that is much work a part is timed, as large a part of the validation, and two batches at least.
    """
    images, members = len(dataset.train.labels), len(unit.members)
    work = images * members * unit.architecture.count_parameters(dataset.train.images.shape[1])
    epochs = 1 + max(1, min(20, int(_TIMED_WORK / work)))
    part = min(1, max(_TIMED_WORK / work, 2 * settings.batch_size / images))
    training = Training(
        _first(dataset.train, part),
        _first(dataset.validation, part),
        unit.architecture,
        [one.hyperparameters for one in unit.members],
        settings=settings.model_copy(update={"max_epochs": epochs, "val_interval": 1, "patience": epochs}),
    )
    ends = [time.perf_counter() for _ in training]
    return (ends[-1] - ends[0]) / (epochs - 1) / members / part  # the first epoch warms up


def _first(split: Split, part: float) -> Split:
    number = math.ceil(part * len(split.labels))
    return replace(split, images=split.images[:number], labels=split.labels[:number])
