"""The workers that a study is handed: what is cut into units how, and one loop over any executor."""

import functools
import math
import os
import platform
import queue
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch

from mlp_lib.core.data import Dataset
from mlp_lib.core.errors import TrainingError
from mlp_lib.core.kernels import PROCESSOR
from mlp_lib.run.files import RunDirectoryError, WorkFiles, write_bytes
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers.jobs import Job, MemoryShortage, Parts, Result, Unit, state_paths
from mlp_lib.workers.progress import Progress

_PARAMETERS_A_UNIT = 800_000  # on a CPU small enough that a kill loses minutes, large enough to share a seed's draws
_MEMBERS_A_UNIT = 32
# of small architectures: an epoch of four took 0.6 to 0.8 times that of eight, of eight 0.45 to 0.7 of sixteen's
_FEW_MEMBERS = 8
_UNFUSED = "trains with plain kernels, which takes longer ({}); a C compiler would mend it"


def describe_machine(device: torch.device) -> str:
    """What computes: the CUDA device's name, or the processor's with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = PROCESSOR.get("cpu_name") or platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


class Workers:
    """What trains units: on which kind of device (cpu, cuda), how many at a time, what machine it is by name."""

    device: str
    arithmetic: str  # the device as it decides results: see name_arithmetic
    number: int
    machine: str
    torch: str = str(torch.__version__)
    died: type[Exception]  # what the future of a unit raises whose worker died
    forgiven: int  # deaths after which the units are not yet done again in halves

    def load(self, settings: StudySettings) -> Dataset:
        """The data set, where this process is to look at it; the workers get it from here."""
        raise NotImplementedError

    def _open(self, units: Sequence[Unit], job: Job) -> AbstractContextManager[Executor]:
        """An executor whose workers can train the units; at its end what is not done is given up."""
        raise NotImplementedError

    def _task(self, job: Job) -> Callable[[Unit, int], Parts]:
        """What the executor makes of a unit and its number."""
        raise NotImplementedError

    def _watch(self, job: Job, epochs: int) -> int:
        """Called twice a second: the epochs trained so far; `epochs` are those of the units that are done."""
        return epochs

    @property
    def place(self) -> dict[str, Any]:
        """Where they work, as a run records it."""
        return {"device": self.arithmetic, "machine": self.machine}

    @property
    def shares(self) -> int:
        """By how much the time of trainings one after another is divided. One population keeps a CUDA device busy."""
        return self.number

    def cut(self, wanted: Sequence[Wanted], inputs: int, sizes: Mapping[str, int] | None = None) -> list[Unit]:
        """The trainings as units of one architecture: how is for the machines to say, since no result depends on it.

        On a CUDA device whole populations, which the workers share out, or as many members as memory was found to hold
        (`sizes`, by architecture). On a CPU those of one seed, whose draws serve all members, and not too many; where
        the architecture is small all seeds together, and not too few if there is work for all: there the calls of a
        step cost more than the draws.
        """
        groups: dict[Any, list[Wanted]] = {}
        for one in wanted:
            groups.setdefault(one.architecture, []).append(one)
        workers = math.ceil(self.number / max(1, len(groups))) if self.device == "cuda" else self.number
        units = []
        for architecture, members in groups.items():
            if self.device == "cuda":
                size = math.ceil(len(members) / workers)
                parts = [(members, min(size, (sizes or {}).get(architecture.name, size)))]
            else:
                most = max(1, _PARAMETERS_A_UNIT // architecture.count_parameters(inputs))
                small = most >= _MEMBERS_A_UNIT
                few = _FEW_MEMBERS if small and len(groups) >= workers else 1
                seeds = [sorted(members, key=lambda one: one.seed)] if small else _by_seed(members)
                shares = [min(workers, max(1, len(part) // few)) for part in seeds]
                parts = [
                    (part, min(math.ceil(len(part) / share), most, _MEMBERS_A_UNIT))
                    for part, share in zip(seeds, shares, strict=True)
                ]
            for part, size in parts:
                units += [Unit(part[i : i + size]) for i in range(0, len(part), size)]
        return units

    def train(self, units: Sequence[Unit], job: Job) -> Iterator[tuple[Unit, Result]]:
        """The units' parts with their results, as they finish; when the next is asked for, the last is recorded.

        Where a training stands is kept in files, as far as the workers see them, and it goes on from there. They are
        gone at the end, unless the trainings are to be continued with more epochs. A unit whose worker died is done
        again, then in halves (it may have been for memory). One that finds no memory beside the others is done after
        them, by one worker. Raises TrainingError if workers go on dying, or if there is no memory then either.
        """
        waiting, deaths, alone, done, epochs, told = list(units), 0, False, 0, 0, set()
        open_work(job.work)
        number, tell = sum(len(unit.members) for unit in units), functools.partial(_tell, job.work)
        progress = Progress(job.what, number, most=number * job.settings.max_epochs, tell=tell)

        def tick() -> None:
            progress.update(done, self._watch(job, epochs))

        while waiting:
            left, short, before = {id(unit): unit for unit in waiting}, False, done
            with self._open(waiting[:1] if alone else waiting, job) as executor, suppress(self.died):
                for unit, future in as_finished(executor, self._task(job), waiting, tick):  # none by a broken pool
                    try:
                        parts = future.result()
                    except self.died:
                        continue
                    except MemoryShortage:
                        if alone:
                            raise
                        short = True
                        continue
                    del left[id(unit)]
                    for part, result in parts:
                        done, epochs = done + len(part.members), epochs + sum(result.rows["epochs_trained"])
                        for reason in result.unfused - told:
                            print(_UNFUSED.format(reason))
                        told |= result.unfused
                        yield part, result
                    if not job.to_be_continued:
                        for path in state_paths(unit, job):
                            path.unlink(missing_ok=True)
            waiting, alone = list(left.values()), alone or short
            deaths = (deaths if done == before else 0) + (not short)
            if waiting and deaths > self.forgiven:
                waiting = _in_halves(waiting)
        if units:
            progress.update(done, self._watch(job, epochs), last=True)
        if not job.to_be_continued:
            shutil.rmtree(job.work.root, ignore_errors=True)


class Nobody(Workers):
    """In place of workers, of that device and torch, where a run is only read: there must be nothing to train."""

    number = 1

    def __init__(self, device: str, torch: str):
        self.device = self.arithmetic = device
        self.torch = torch

    def train(self, units: Sequence[Unit], job: Job) -> Iterator[tuple[Unit, Result]]:
        if units:
            raise RunDirectoryError(f"{sum(len(unit.members) for unit in units)} trainings of the {job.what} are gone")
        return iter(())


def _by_seed(members: list[Wanted]) -> list[list[Wanted]]:
    """The members by seed; all together where no two have one."""
    groups: dict[int, list[Wanted]] = {}
    for one in members:
        groups.setdefault(one.seed, []).append(one)
    return list(groups.values()) if len(groups) < len(members) else [members]


def _in_halves(units: list[Unit]) -> list[Unit]:
    """Smaller units; TrainingError if there are none."""
    if all(len(unit.members) == 1 for unit in units):
        members = [one for unit in units for one in unit.members]
        names = [f"{one.architecture.name} {one.seed if one.trial is None else one.trial}" for one in members]
        raise TrainingError(
            f"workers died again and again while training {'; '.join(sorted(names))} (out of memory?); what is "
            "finished is on disk, and the same run directory goes on, with fewer workers perhaps"
        )
    cut = [(unit.members, math.ceil(len(unit.members) / 2)) for unit in units]
    return [Unit(part) for members, half in cut for part in (members[:half], members[half:]) if part]


def as_finished(
    executor: Executor, task: Callable[[Unit, int], Parts], units: Sequence[Unit], tick: Callable[[], None]
) -> Iterator[tuple[Unit, Future]]:
    """Each unit with its future, as they finish; `tick` is called at the start and in between, at least twice a second.

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
    tick()
    while futures:
        try:
            future = finished.get(timeout=0.5)
        except queue.Empty:
            pass
        else:
            yield futures.pop(future), future
        tick()


def open_work(work: WorkFiles) -> None:
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
    write_bytes(work.progress, text.encode(), parents=False)
