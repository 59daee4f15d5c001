"""Units on worker processes: results don't depend on the split, and a worker that dies is noticed."""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from study import ARCHITECTURE, SETTINGS, TRIALS, Doing, study_of, units_of

from mlp_lib.core.data import RawData
from mlp_lib.core.errors import TrainingError
from mlp_lib.core.training import Training
from mlp_lib.core.values import Architecture
from mlp_lib.run.files import WorkFiles, read_yaml
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers import units
from mlp_lib.workers.jobs import Job, Unit
from mlp_lib.workers.pool import Workers
from mlp_lib.workers.processes import Processes, start_pool, start_thread
from mlp_lib.workers.server import settle, start_server


@pytest.fixture(scope="module")
def digest() -> str:
    return Processes(SETTINGS).load(SETTINGS).digest


def started(settings: StudySettings) -> Processes:
    """Worker processes also for the little work of these tests."""
    return Processes(settings, start_pool)


def train(members: list[Unit], settings: StudySettings, digest: str, work: Path | None = None) -> pd.DataFrame:
    """The units' rows by label."""
    with tempfile.TemporaryDirectory() as folder:
        work = WorkFiles(work or Path(folder) / "work")
        results = list(started(settings).train(members, Job(settings, digest, "test", work)))
    assert not work.root.exists()
    rows = [pd.DataFrame({**result.rows, "label": unit.trials}) for unit, result in results]
    return pd.concat(rows).sort_values("label", ignore_index=True)


def kill_workers(times: int) -> threading.Thread:
    """Kill one worker, `times` times, each a while after it has begun to train."""

    def deed() -> None:
        seen: set[int] = set()
        kills = 0
        while kills < times:
            fresh = [p for p in multiprocessing.active_children() if p.pid not in seen]
            if fresh:
                time.sleep(1)
                with contextlib.suppress(ProcessLookupError):  # one of a broken pool may end in that second
                    os.kill(fresh[0].pid, signal.SIGKILL)
                    kills += 1
                seen |= {p.pid for p in multiprocessing.active_children()} | {fresh[0].pid}
            time.sleep(0.05)

    thread = threading.Thread(target=deed, daemon=True)
    thread.start()
    return thread


def test_split_and_number_of_workers_change_nothing(digest: str) -> None:
    short = SETTINGS.model_copy(update={"max_epochs": 6})
    together = train(units_of(4), short.model_copy(update={"workers": 1}), digest)
    apart = train(units_of(1), short, digest)
    pd.testing.assert_frame_equal(together, apart, check_exact=True)


def wanted(seeds: list[int], architectures: tuple[Architecture, ...] = (ARCHITECTURE,)) -> list[Wanted]:
    return [Wanted(a, TRIALS[0], seed, trial) for a in architectures for trial, seed in enumerate(seeds)]


def sizes_of(device: str, number: int, trainings: list[Wanted], **sizes: int) -> list[int]:
    workers = Workers()
    workers.device, workers.number = device, number
    return [len(unit.members) for unit in workers.cut(trainings, 64, sizes)]


def test_every_member_is_in_one_unit() -> None:
    workers = Processes(SETTINGS.model_copy(update={"workers": 5}))
    cut = workers.cut(wanted([0] * 80), 64)
    assert [label for unit in cut for label in unit.trials] == list(range(80))
    assert len(cut) == 5
    assert workers.cut([], 64) == []


def test_on_a_cpu_a_unit_is_of_one_seed_and_of_few_parameters() -> None:
    middle = (Architecture((256, 256)),)
    assert sizes_of("cpu", 1, wanted([1, 2, 3, 1, 2, 3], middle)) == [2, 2, 2]
    assert sizes_of("cpu", 2, wanted([1, 2, 3, 4], middle)) == [2, 2]  # no draws to share
    assert sizes_of("cpu", 1, wanted([1, 2, 3, 1, 2, 3])) == [6]  # a small one: fewer calls
    assert sizes_of("cpu", 1, wanted([0] * 80)) == [32, 32, 16]
    assert sizes_of("cpu", 2, wanted([1, 2, 3] * 2)) == [3, 3]
    assert sizes_of("cpu", 2, wanted([1, 2] * 8, (ARCHITECTURE, Architecture((4,))))) == [8, 8, 8, 8]
    assert sizes_of("cpu", 2, wanted([1, 2, 3] * 4, (ARCHITECTURE, Architecture((4,))))) == [12, 12]  # work for all
    assert sizes_of("cpu", 1, wanted([0] * 10, (Architecture((1024, 1024)),))) == [1] * 10


def test_workers_on_cuda_share_out_whole_populations() -> None:
    both = wanted([1, 2] * 5, (ARCHITECTURE, Architecture((4,))))
    for number, sizes in [(1, [10]), (2, [10]), (3, [5, 5]), (8, [3, 3, 3, 1])]:
        assert sizes_of("cuda", number, both) == sizes * 2
    assert sizes_of("cuda", 1, wanted([0] * 80), mlp_16x8=30) == [30, 30, 20]


def test_workers_are_as_asked_or_one_a_core_or_what_feeds_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Processes(SETTINGS).number == 2
    automatic = SETTINGS.model_copy(update={"workers": "auto"})
    assert Processes(automatic).number == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    cuda = Processes(automatic.model_copy(update={"device": "auto"}))
    assert (cuda.device, cuda.number, cuda.machine) == ("cuda", 4, "a GPU")


@pytest.mark.parametrize(("holds", "tried"), [(9, [7]), (4, [7, 4, 3]), (2, [7, 4, 2, 2, 2, 1])])
def test_a_population_is_halved_until_memory_holds_it(holds: int, tried: list[int]) -> None:
    sizes = []

    def train(part: Unit) -> units.Result:
        sizes.append(len(part.members))
        if len(part.members) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return units.Result({}, {}, None)

    parts = units.fit_in_memory(train, Unit(wanted([0] * 7)))
    assert sizes == tried
    assert [label for part, _ in parts for label in part.trials] == list(range(7))
    assert {result.fitting for _, result in parts} == {min(holds, 4) if holds < 7 else None}


@pytest.mark.parametrize("enough", [True, False])
def test_what_finds_no_memory_beside_the_others_is_trained_after_them(
    digest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, enough: bool
) -> None:
    pools: list[int] = []

    def start(workers: int, raw: RawData) -> ThreadPoolExecutor:
        pools.append(workers)
        return ThreadPoolExecutor(workers)

    def crowded(*arguments: Any) -> Training:
        if not enough or (pools[-1] > 1 and threading.current_thread().name.endswith("_1")):
            raise MemoryError
        return Training(*arguments)

    monkeypatch.setattr(units, "Training", crowded)
    job = Job(SETTINGS.model_copy(update={"max_epochs": 6}), digest, "test", WorkFiles(tmp_path / "work"))
    results = Processes(job.settings, start).train(units_of(2), job)
    if enough:
        assert sorted(label for unit, _ in results for label in unit.trials) == [0, 1, 2, 3]
    else:
        with pytest.raises(TrainingError, match=r"out of memory, even for a single training .*fewer workers"):
            list(results)
    assert pools == [2, 1]


def test_a_killed_workers_units_are_done_again(digest: str) -> None:
    long = SETTINGS.model_copy(update={"max_epochs": 600, "patience": 600})
    undisturbed = train(units_of(2), long, digest)
    thread = kill_workers(1)
    disturbed = train(units_of(2), long, digest)
    thread.join(timeout=1)
    assert not thread.is_alive(), "the workers ended before one was killed"
    pd.testing.assert_frame_equal(undisturbed, disturbed, check_exact=True)


def test_workers_that_go_on_dying_are_an_error(digest: str) -> None:
    long = SETTINGS.model_copy(update={"max_epochs": 20_000, "patience": 20_000})
    kill_workers(3)  # units of two, then of one from the second death on
    with pytest.raises(TrainingError, match=r"died again and again while training mlp_16x8 \d"):
        train(units_of(2), long, digest)
    assert multiprocessing.active_children() == []


def test_workers_that_die_now_and_then_are_no_error(digest: str, tmp_path: Path) -> None:
    """Of units that can't be halved, with trainings done between the deaths."""
    begun: list[int] = []

    class Mortal(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Future:
            begun.append(1)
            if len(begun) not in (2, 3, 6):
                return super().submit(*arguments, **named)
            died = Future()
            died.set_exception(BrokenProcessPool())
            return died

    job = Job(SETTINGS.model_copy(update={"max_epochs": 6}), digest, "test", WorkFiles(tmp_path / "work"))
    results = Processes(job.settings, lambda workers, raw: Mortal(1)).train(units_of(1), job)
    assert sorted(label for unit, _ in results for label in unit.trials) == [0, 1, 2, 3]


def test_progress_is_told_beside_the_states(digest: str, tmp_path: Path) -> None:
    work = WorkFiles(tmp_path / "work")
    settings = SETTINGS.model_copy(update={"max_epochs": 2})
    results = started(settings).train(units_of(4), Job(settings, digest, "search", work))
    next(results)
    assert re.match(r"search: 0 of 4 trainings, \d of at most 8 epochs, ", work.progress.read_text())
    results.close()


def test_a_loaders_processes_live_on_beside_a_thread(digest: str) -> None:
    """Little work is done in this process, again and again with the loader that the first began."""
    settings = SETTINGS.model_copy(update={"max_epochs": 2, "preload": False, "loader_workers": 1})
    workers = Processes(settings)
    workers.load(settings)
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            job = Job(settings, digest, "search", WorkFiles(Path(folder) / "work"))
            found += [pd.DataFrame(result.rows) for _, result in workers.train(units_of(4), job)]
    pd.testing.assert_frame_equal(*found, check_exact=True)


def parents() -> tuple[int, int]:
    """This process's and its own process's."""
    with ProcessPoolExecutor(1, start_server()) as pool:
        return os.getppid(), pool.submit(os.getppid).result()


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="each has a server of its own there")
def test_the_workers_of_a_kernel_are_of_its_own_server() -> None:
    """Which has loaded what they need."""
    with ProcessPoolExecutor(1, start_server(), initializer=settle, initargs=(dict(os.environ),)) as pool:
        server, also = pool.submit(parents).result()
    assert server == also


def test_processes_of_the_notebook_live_on(tmp_path: Path) -> None:
    own = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(300,))
    own.start()
    try:
        workers = Processes(SETTINGS, start_thread)
        digest = workers.load(SETTINGS).digest
        list(workers.train(units_of(4), Job(SETTINGS, digest, "search", WorkFiles(tmp_path))))
        assert own.is_alive()
    finally:
        own.kill()


def test_population_sizes_are_recorded_and_kept(tmp_path: Path) -> None:
    """What memory was found to hold on a CUDA device, when the run goes on."""
    sizes = []

    def train(unit: Unit) -> units.Result:
        sizes.append(len(unit.members))
        return units.Result({}, {}, None, fitting=4)

    workers = Doing(train)
    workers.device = "cuda"
    study = study_of(tmp_path, "search", workers)
    trials = [Wanted(study.architectures[0], TRIALS[0], 0, trial) for trial in range(10)]
    list(study.train(trials, "search"))
    assert read_yaml(tmp_path / "search/population_sizes.yaml") == {study.architectures[0].name: 4}
    list(study.train(trials, "search"))
    assert sizes == [10, 4, 4, 2]
