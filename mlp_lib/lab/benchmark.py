"""How fast populations train, against what people do otherwise and against the matrix products alone.

Measured in one run, the methods interleaved; medians over the rounds.
"""

import contextlib
import functools
import itertools
import math
import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import pandas as pd
import torch

from mlp_lib.core.data import Split, load_dataset
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import Architecture
from mlp_lib.figures import losses as loss_figures
from mlp_lib.lab.peers import METHODS, timed
from mlp_lib.run.files import RunFiles, write_figure, write_table
from mlp_lib.run.parameters import BenchmarkCase, BenchmarkSettings
from mlp_lib.workers.progress import Progress

_CASE = ["architecture", "members", "batch_size", "workers"]
_MEASURED = ["seconds_per_member_epoch", "ratio_to_plain", "fraction_of_limit", "start_seconds"]
COLUMNS = ("device", *_CASE, "method", *_MEASURED)
_BY_PROCESS = ("population", "medium", "limit")  # a process a worker; the others get a thread a worker, in one process
_TARGET_SECONDS = 0.7  # of one measurement
_MOST_IMAGES = 10**5  # in it


def measure(settings: BenchmarkSettings) -> pd.DataFrame:
    """Every measurement, a row each: round, the columns of its case, method, seconds_per_member_epoch, start_seconds.

    start_seconds: what the first epoch took longer, where it was the first of its kind: to compile, above all.
    """
    training_data(settings)  # an error in the data shows here
    rounds, cases, methods = settings.benchmark_rounds, settings.benchmark_cases, settings.benchmark_methods
    plan = list(itertools.product(range(1, rounds + 1), cases, methods))
    progress = Progress("benchmark", len(plan), "measurements")
    rows, most, spawn = [], max(case.workers for case in cases), multiprocessing.get_context("spawn")
    held = resolve_device(settings.device).type == "cpu"  # what trains on CUDA feeds it with all cores
    with contextlib.ExitStack() as stack:
        pools: dict[int, Executor] = {}  # by the number of threads of a process
        for done, (number, case, method) in enumerate(plan):
            progress.update(done)
            processes, threads = (case.workers, 1) if method in _BY_PROCESS else (1, case.workers)
            if threads not in pools:
                own = (threads, held, spawn.Value("i", 0))
                pools[threads] = stack.enter_context(ProcessPoolExecutor(most, spawn, _hold_to, own))
            task = functools.partial(_seconds_an_epoch, settings, method, case)
            found = [future.result() for future in [pools[threads].submit(task) for _ in range(processes)]]
            values = {**case.model_dump(), "architecture": Architecture(case.architecture).name, "method": method}
            seconds, starts = (max(values) for values in zip(*found, strict=True))
            times = {"seconds_per_member_epoch": seconds / processes, "start_seconds": starts}
            rows.append({"round": number, **values, **times})
        progress.update(len(plan), last=True)
    return pd.DataFrame(rows)


def _hold_to(threads: int, held: bool, started: Any) -> None:
    """Let this process compute with so many threads: JAX makes as many as there are cores for it.

    started: how many processes did so before, each on a core of its own.
    """
    torch.set_num_threads(threads)
    if held and threads == 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        with started.get_lock():
            os.sched_setaffinity(0, {cores[started.value % len(cores)]})
            started.value += 1


def _seconds_an_epoch(settings: BenchmarkSettings, method: str, case: BenchmarkCase) -> tuple[float, float]:
    """Seconds of an epoch of one member over the whole training data, from some of its steps; see `start_seconds`."""
    train = training_data(settings)
    number = len(train.labels)

    def measure_steps(steps: int) -> tuple[float, float]:
        index = torch.arange(min(steps * case.batch_size, _MOST_IMAGES), device=train.labels.device) % number
        work = METHODS[method](Split(train.images[index], train.labels[index]), case)
        first, second = timed(work.epoch)
        return first - second, second / work.members / len(index)

    start = math.nan
    if (method, case) not in _STEPS:
        start, seconds = measure_steps(1)
        _STEPS[method, case] = max(2, math.ceil(_TARGET_SECONDS / (seconds * case.batch_size * case.members)))
    again, seconds = measure_steps(_STEPS[method, case])
    return seconds * number, start + max(0.0, again)


_STEPS: dict[tuple, int] = {}  # what takes long enough to be timed, by method and case, in this process


@functools.lru_cache(maxsize=1)
def training_data(settings: BenchmarkSettings) -> Split:
    return load_dataset(settings, resolve_device(settings.device)).train


def summarize(measurements: pd.DataFrame, device: str) -> pd.DataFrame:
    """benchmark.csv: medians over the rounds, of the ratios too, which are taken within a round."""
    times, starts = (
        measurements.pivot(index=["round", *_CASE], columns="method", values=name)
        for name in ("seconds_per_member_epoch", "start_seconds")
    )
    missing = pd.Series(float("nan"), times.index)
    ratios = (times.rdiv(times.get(method, missing), axis=0) for method in ("plain", "limit"))
    values = zip(_MEASURED, (times, *ratios, starts), strict=True)
    methods = [method for method in METHODS if method in times]
    medians = {name: table[methods].groupby(level=_CASE).median().stack() for name, table in values}
    cases = measurements[_CASE].drop_duplicates()
    table = cases.merge(pd.DataFrame(medians).reset_index(), on=_CASE)
    return table.assign(device=device)[list(COLUMNS)]


def write(files: RunFiles, measurements: pd.DataFrame, settings: BenchmarkSettings) -> pd.DataFrame:
    """Write the measurements, benchmark.csv and its figure; benchmark.csv."""
    table = summarize(measurements, resolve_device(settings.device).type)
    write_table(files.measurements, measurements)
    write_table(files.benchmark, table)
    write_figure(files.benchmark_figure, loss_figures.speeds(table))
    return table
