"""Units on worker processes: results don't depend on the split, and a worker that dies is noticed."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from mlp_lib.core.data import load_dataset
from mlp_lib.core.errors import DataError, TrainingError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.run.files import WorkFiles
from mlp_lib.run.parameters import StudySettings
from mlp_lib.workers import processes, units
from mlp_lib.workers.processes import count_workers, train_units
from mlp_lib.workers.units import Job, Unit, split_into_units

SETTINGS = StudySettings(
    project_name="test",
    device="cpu",
    deterministic=False,
    dataset="digits",
    data_root="data",
    preload="auto",
    validation_size=None,
    split_seed=0,
    loader_workers=0,
    mixed_devices=False,
    workers=2,
    scheduler=None,
    batch_size=128,
    max_epochs=300,
    patience=300,
    val_interval=2,
    matmul_precision="highest",
    parametrization="standard",
    base_width=128,
)
ARCHITECTURE = Architecture((16, 8))
TRIALS = [
    Hyperparameters(lr=lr, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-3, dropout=0.2, leaky_relu_alpha=0.05)
    for lr in (1e-3, 3e-3, 1e-2, 3e-2)
]


@pytest.fixture(scope="module")
def digest() -> str:
    return load_dataset(SETTINGS, resolve_device("cpu")).digest


def train(members: list[Unit], settings: StudySettings, digest: str, work: Path | None = None) -> pd.DataFrame:
    """The units' rows by label."""
    with tempfile.TemporaryDirectory() as folder:
        work = WorkFiles(work or Path(folder) / "work")
        results = list(train_units(members, Job(settings, Path(), digest, "test", work)))
    assert not work.root.exists()
    rows = [result.rows.assign(label=unit.labels) for unit, result in results]
    return pd.concat(rows).sort_values("label", ignore_index=True)


def units_of(size: int) -> list[Unit]:
    labels = range(len(TRIALS))
    return [
        Unit(ARCHITECTURE, tuple(TRIALS[i : i + size]), (7,) * len(TRIALS[i : i + size]), tuple(labels[i : i + size]))
        for i in range(0, len(TRIALS), size)
    ]


def kill_workers(times: int) -> threading.Thread:
    """Kill one worker, `times` times, each a while after it has begun to train."""

    def deed() -> None:
        seen: set[int] = set()
        kills = 0
        while kills < times:
            fresh = [p for p in multiprocessing.active_children() if p.pid not in seen]
            if fresh:
                time.sleep(2)
                os.kill(fresh[0].pid, signal.SIGKILL)
                kills += 1
                seen |= {p.pid for p in multiprocessing.active_children()}
            time.sleep(0.05)

    thread = threading.Thread(target=deed, daemon=True)
    thread.start()
    return thread


def test_split_and_number_of_workers_change_nothing(digest: str) -> None:
    short = SETTINGS.model_copy(update={"max_epochs": 6})
    together = train(units_of(4), short.model_copy(update={"workers": 1}), digest)
    apart = train(units_of(1), short, digest)
    pd.testing.assert_frame_equal(together, apart, check_exact=True)


def test_every_member_is_in_one_unit() -> None:
    cut = split_into_units(ARCHITECTURE, TRIALS * 20, [0] * 80, list(range(80)), 64, "cpu", 5)
    assert [label for unit in cut for label in unit.labels] == list(range(80))
    assert len(cut) == 5
    assert split_into_units(ARCHITECTURE, [], [], [], 64, "cpu", 2) == []


def test_workers_are_as_asked_or_one_a_core_or_what_feeds_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_workers(SETTINGS) == 2
    automatic = SETTINGS.model_copy(update={"workers": "auto"})
    assert count_workers(automatic) == len(os.sched_getaffinity(0))
    monkeypatch.setattr(processes, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    assert count_workers(automatic) == 4


def test_cuda_trains_all_together_or_what_memory_was_found_to_hold() -> None:
    members = TRIALS * 20, [0] * 80, list(range(80))
    assert [len(unit.labels) for unit in split_into_units(ARCHITECTURE, *members, 64, "cuda", 1)] == [80]
    assert [len(unit.labels) for unit in split_into_units(ARCHITECTURE, *members, 64, "cuda", 2)] == [40, 40]
    cut = split_into_units(ARCHITECTURE, *members, 64, "cuda", 1, fitting=30)
    assert [len(unit.labels) for unit in cut] == [30, 30, 20]


@pytest.mark.parametrize(("holds", "tried"), [(9, [7]), (4, [7, 4, 3]), (2, [7, 4, 2, 2, 2, 1])])
def test_a_population_is_halved_until_memory_holds_it(holds: int, tried: list[int]) -> None:
    sizes = []

    def train(members: list[int]) -> units.Result:
        sizes.append(len(members))
        if len(members) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return units.Result(pd.DataFrame({"member": members}), pd.DataFrame(), None)

    results = units.fit_in_memory(train, list(range(7)))
    assert sizes == tried
    assert [member for result in results for member in result.rows["member"]] == list(range(7))
    assert {result.fitting for result in results} == {min(holds, 4) if holds < 7 else None}


def test_a_killed_workers_units_are_done_again(digest: str) -> None:
    long = SETTINGS.model_copy(update={"max_epochs": 1500, "patience": 1500})
    undisturbed = train(units_of(2), long, digest)
    thread = kill_workers(1)
    disturbed = train(units_of(2), long, digest)
    thread.join(timeout=1)
    assert not thread.is_alive(), "the workers ended before one was killed"
    pd.testing.assert_frame_equal(undisturbed, disturbed, check_exact=True)


def test_workers_that_go_on_dying_are_an_error(digest: str) -> None:
    long = SETTINGS.model_copy(update={"max_epochs": 20_000, "patience": 20_000})
    kill_workers(3)  # units of two, then of one from the second death on
    with pytest.raises(TrainingError, match=r"died 3 times while training mlp_16x8"):
        train(units_of(2), long, digest)
    assert multiprocessing.active_children() == []


def test_other_data_in_a_worker_is_refused() -> None:
    with pytest.raises(DataError, match="digits changed"):
        train(units_of(4), SETTINGS.model_copy(update={"max_epochs": 1}), "another digest")


def test_progress_is_told_beside_the_states(digest: str, tmp_path: Path) -> None:
    work = WorkFiles(tmp_path / "work")
    settings = SETTINGS.model_copy(update={"max_epochs": 2})
    results = train_units(units_of(4), Job(settings, Path(), digest, "search", work))
    next(results)
    assert work.progress.read_text().startswith("search: 0 of 4 trainings, ")
    results.close()
