"""How fast populations train, against what people do otherwise and against the matrix products alone.

Measured in one run, the methods interleaved; medians over the rounds.
"""

import functools
import itertools
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch

from mlp_lib.core.data import Split, load_dataset
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import Architecture
from mlp_lib.figures import losses as loss_figures
from mlp_lib.lab.peers import METHODS
from mlp_lib.run.files import RunFiles, write_figure, write_table
from mlp_lib.run.parameters import BenchmarkCase, BenchmarkSettings
from mlp_lib.workers.progress import Progress

COLUMNS = (
    "device",
    "architecture",
    "members",
    "batch_size",
    "workers",
    "method",
    "seconds_per_member_epoch",
    "ratio_to_plain",
    "fraction_of_limit",
)
_CASE = ["architecture", "members", "batch_size", "workers"]
_BY_PROCESS = ("population", "limit")  # a process a worker; the others get a thread a worker, in one process
_TARGET_SECONDS = 0.7  # of one measurement
_MOST_IMAGES = 10**5  # in it


def measure(settings: BenchmarkSettings, base: Path) -> pd.DataFrame:
    """Every measurement, a row each: round, the columns of its case, method, seconds_per_member_epoch."""
    training_data(settings, base)  # an error in the data shows here
    rounds, cases, methods = settings.benchmark_rounds, settings.benchmark_cases, settings.benchmark_methods
    plan = list(itertools.product(range(1, rounds + 1), cases, methods))
    progress = Progress("benchmark", len(plan), "measurements")
    rows = []
    most = max(case.workers for case in cases)
    with ProcessPoolExecutor(most, multiprocessing.get_context("spawn")) as pool:
        for done, (number, case, method) in enumerate(plan):
            progress.update(done)
            processes, threads = (case.workers, 1) if method in _BY_PROCESS else (1, case.workers)
            task = functools.partial(_seconds_an_epoch, settings, base, method, case, threads)
            seconds = max(future.result() for future in [pool.submit(task) for _ in range(processes)])
            values = {**case.model_dump(), "architecture": Architecture(case.architecture).name}
            seconds_a_member = seconds / (case.members * processes)
            rows.append({"round": number, **values, "method": method, "seconds_per_member_epoch": seconds_a_member})
        progress.update(len(plan), last=True)
    return pd.DataFrame(rows)


def _seconds_an_epoch(settings: BenchmarkSettings, base: Path, method: str, case: BenchmarkCase, threads: int) -> float:
    """Time of an epoch of all members over the whole training data, from some of its steps."""
    torch.set_num_threads(threads)
    train = training_data(settings, base)
    number = len(train.labels)

    def seconds_a_step(steps: int) -> float:
        index = torch.arange(min(steps * case.batch_size, _MOST_IMAGES), device=train.labels.device) % number
        seconds = METHODS[method](Split(train.images[index], train.labels[index]), case)
        return seconds * case.batch_size / len(index)

    steps = _STEPS.setdefault((method, case, threads), math.ceil(_TARGET_SECONDS / seconds_a_step(1)))
    return seconds_a_step(max(steps, 2)) * number / case.batch_size


_STEPS: dict[tuple, int] = {}  # what takes long enough to be timed, by method and case, in this process


@functools.lru_cache(maxsize=1)
def training_data(settings: BenchmarkSettings, base: Path) -> Split:
    return load_dataset(settings, resolve_device(settings.device), base).train


def summarize(measurements: pd.DataFrame, device: str) -> pd.DataFrame:
    """benchmark.csv: medians over the rounds, of the ratios too, which are taken within a round."""
    times = measurements.pivot(index=["round", *_CASE], columns="method", values="seconds_per_member_epoch")
    missing = pd.Series(float("nan"), times.index)
    values = {
        "seconds_per_member_epoch": times,
        "ratio_to_plain": times.rdiv(times.get("plain", missing), axis=0),
        "fraction_of_limit": times.rdiv(times.get("limit", missing), axis=0),
    }
    methods = [method for method in METHODS if method in times]
    medians = {name: table[methods].groupby(level=_CASE).median().stack() for name, table in values.items()}
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


def throughput(table: pd.DataFrame, examples: int, epochs: int = 100) -> pd.DataFrame:
    """Examples a second and trials of `epochs` epochs an hour, for an epoch of that many examples."""
    seconds = table["seconds_per_member_epoch"]
    rates = {"examples a second": examples / seconds, "trials an hour": 3600 / (seconds * epochs)}
    return pd.DataFrame({**table[[*_CASE, "method"]], **{name: rate.round() for name, rate in rates.items()}})


def spread(measurements: pd.DataFrame) -> pd.DataFrame:
    """The quartiles of the time of a member's epoch, by case and method, in seconds."""
    groups = measurements.groupby([*_CASE, "method"], sort=False)["seconds_per_member_epoch"]
    return groups.quantile([0.25, 0.5, 0.75]).unstack().rename(columns={0.25: "25 %", 0.5: "median", 0.75: "75 %"})
