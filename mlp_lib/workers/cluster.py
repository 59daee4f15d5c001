"""Units of work on the workers of a Dask cluster, by the standard executor interface."""

import asyncio
import functools
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlp_lib.core.data import Dataset, RawData, read_raw
from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.kernels import BFLOAT16
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import ROOT, DataSettings
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.work import read_versions
from mlp_lib.workers.jobs import Job, Parts, Unit, name_arithmetic
from mlp_lib.workers.pool import Workers, describe_machine
from mlp_lib.workers.units import split_supplied, supplied, train_unit

try:
    from distributed import Client, KilledWorker, Reschedule, Worker, WorkerPlugin
    from distributed.comm import CommClosedError
except ImportError:
    raise SettingsError("scheduler: needs Dask: pip install 'mlp_lib[cluster]'; null trains on this machine") from None


_NO_ANSWER = (OSError, asyncio.TimeoutError)  # the latter is one of the former from Python 3.11 on
_CONNECT_S = 10  # for a scheduler to answer
_WORKERS_S = 60  # for the first worker to come
_LOST_S = 30  # for a scheduler to come back
_UNFIT_S = 1  # that a worker that doesn't fit keeps a unit
_ASK_S = 60  # between questions to the workers, as long as no unit is finished
_TRAINS = "trains"
Traits = dict[str, str]  # what a worker says of itself, and has to have in common with the others: see `describe`


class ClusterError(MlpError):
    """The cluster does not answer, is lost, or has no worker that fits."""


_one_at_a_time = threading.Lock()  # in a worker process, however many threads it has


@functools.lru_cache(maxsize=1)
def describe() -> Traits:
    """What of this process decides the bits of a result: the machine, who draws, and mlp_lib by a digest.

    And the processor may: see docs/cluster.md. bfloat16: whether it can multiply it, see rounds_factors.
    """
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    machine = {"device": resolve_device("auto").type, "torch": str(torch.__version__), "bfloat16": str(BFLOAT16)}
    return machine | {"numpy": np.__version__, "mlp_lib": code.hexdigest()[:12]}


def describe_environment() -> str:
    """The machine of this process and the versions of its packages, as JSON."""
    return json.dumps({"machine": describe_machine(resolve_device("auto")), "versions": read_versions()})


def _unfit(traits: Traits, wanted: Traits) -> str:
    """Why a worker of these traits may not train; empty if it may. One with a CUDA device may train on its CPU too."""
    found = traits | ({"device": "cpu"} if wanted["device"] == "cpu" else {})
    return ", ".join(
        f"{name} {found[name]} instead of {value}" for name, value in wanted.items() if found[name] != value
    )


class Supply(WorkerPlugin):
    """Brings the data set to each worker, now or when it joins."""

    def __init__(self, raw: RawData):
        self.raw = raw
        self.name = f"mlp_lib {uuid.uuid4()}"  # two studies on one cluster don't take it from each other

    def setup(self, worker: Worker) -> None:
        supplied[self.raw.digest] = self.raw


class Cluster(Workers):
    """The workers of a Dask cluster that fit; Dask does the units of a lost one again elsewhere.

    No states are kept: what is to be continued is trained again from its start, to the same bits. TrainingError is
    raised for units on which workers died more often than Dask's distributed.scheduler.allowed-failures (3), in halves
    too; ClusterError if the scheduler is lost.
    """

    died = KilledWorker
    forgiven = 0

    def __init__(self, settings: StudySettings):
        self.scheduler = settings.scheduler
        self.wanted, self.number = _survey(settings)
        self.device, self.machine = self.wanted["device"], describe_machine(resolve_device("cpu"))
        self.arithmetic = name_arithmetic(settings, self.device)
        self.client: Client | None = None
        self.answered = self.asked = 0.0
        self.epochs = 0
        self.idle = 0  # times in a row that no worker trained when they were asked
        self.said: dict[str, str] = {}  # by the workers, last time
        self.seen: set[str] = set()  # what workers told of their environments

    @property
    def place(self) -> dict[str, Any]:
        """With the environments of the workers that are there now, or were when this was asked before."""
        with suppress(ClusterError, *_NO_ANSWER), _connect(self.scheduler) as client:
            self.seen.update(client.run(describe_environment, on_error="ignore").values())
        return {**super().place, "workers": list(map(json.loads, sorted(self.seen)))}

    def load(self, settings: StudySettings) -> Dataset:
        raw = read_raw(settings)
        supplied[raw.digest] = raw
        return split_supplied(DataSettings.of(settings.model_copy(update={"preload": "cpu"})), "cpu", raw.digest)

    @contextmanager
    def _open(self, units: Sequence[Unit], job: Job) -> Iterator[Executor]:
        with _connect(self.scheduler) as self.client:
            self.answered = self.asked = time.monotonic()
            supply = Supply(supplied[job.digest])
            with suppress(*_NO_ANSWER):  # of a worker that dies just now; the others have it
                self.client.register_plugin(supply)
            executor = self.client.get_executor(pure=False)
            try:
                yield executor
            finally:
                executor.shutdown(wait=False)  # which cancels what is not done
                if self.client.status == "running":
                    with suppress(*_NO_ANSWER):  # with the scheduler the data is gone too
                        self.client.unregister_worker_plugin(supply.name)

    def _task(self, job: Job) -> Callable[[Unit, int], Parts]:
        return functools.partial(_train_there, job=job, wanted=self.wanted)

    def _watch(self, job: Job, epochs: int) -> int:
        now = time.monotonic()
        if self.client.status == "running":
            self.answered = now
        elif self.client.status != "closed" and now - self.answered > _LOST_S:
            raise CancelledError
        if epochs != self.epochs:  # a unit is done
            self.epochs, self.asked, self.idle = epochs, now, 0
        elif now - self.asked > _ASK_S:
            self.asked = now  # a frozen worker answers late: asked in a thread
            threading.Thread(target=self._ask, args=(self.client, job.digest), daemon=True).start()
        if self.idle > 1:
            reasons = "; ".join(f"{address} {said}" for address, said in self.said.items())
            raise ClusterError(
                f"scheduler = {self.scheduler}: none of its workers trains ({reasons}); what is finished is on disk: "
                "the same run directory goes on"
            )
        return epochs

    def _ask(self, client: Client, digest: str) -> None:
        with suppress(*_NO_ANSWER, RuntimeError, CancelledError):  # the scheduler is lost, or the client closed
            said = client.run(_answer, self.wanted, digest, on_error="return")
            self.said = {address: str(answer) for address, answer in said.items()}
            self.idle = self.idle + 1 if said and _TRAINS not in said.values() else 0


def _survey(settings: StudySettings) -> tuple[Traits, int]:
    """The traits that workers have to have, and how many do; tells of those that don't. ClusterError if all don't."""
    scheduler, device = settings.scheduler, settings.device
    with _connect(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except asyncio.TimeoutError:
            raise ClusterError(
                f"scheduler = {scheduler}: it has no worker; start some: dask worker {scheduler}"
            ) from None
        found = client.run(describe, on_error="return")
    wanted = {**describe()}
    cuda = any(isinstance(traits, dict) and traits["device"] == "cuda" for traits in found.values())
    if device == "cuda" and not cuda:
        raise ClusterError(
            f"device = cuda: no worker of {scheduler} finds a CUDA device; device = auto takes what there is"
        )
    wanted["device"] = "cuda" if cuda and device != "cpu" else "cpu"
    if wanted["device"] == "cuda" or settings.matmul_precision in ("highest", "high"):
        del wanted["bfloat16"]  # which nothing is rounded to
    reasons = {
        address: _unfit(traits, wanted) if isinstance(traits, dict) else f"{type(traits).__name__}: {traits}"
        for address, traits in found.items()
    }
    unfit = [f"{address} ({reason})" for address, reason in reasons.items() if reason]
    if len(unfit) == len(found):
        raise ClusterError(f"scheduler = {scheduler}: no worker can take part: {'; '.join(unfit)}")
    for line in unfit:
        print(f"takes no part: {line}")
    return wanted, len(found) - len(unfit)


@contextmanager
def _connect(scheduler: str) -> Iterator[Client]:
    """A client, with Dask's own configuration (TLS, timeouts); ClusterError if no scheduler answers, or it is lost."""
    place = {"address": scheduler} if "://" in scheduler else {"scheduler_file": ROOT / os.path.expanduser(scheduler)}
    try:
        if "scheduler_file" in place and not place["scheduler_file"].is_file():
            raise FileNotFoundError("no such file")  # which Dask would wait for
        client = Client(**place, timeout=_CONNECT_S, set_as_default=False)
    except (*_NO_ANSWER, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(f"scheduler = {scheduler}: no Dask scheduler answers there ({reason})") from None
    try:
        yield client
    except (CancelledError, CommClosedError):
        raise ClusterError(
            f"scheduler = {scheduler}: lost; what is finished is on disk: the same run directory goes on"
        ) from None
    finally:
        client.close(timeout=_CONNECT_S)


def _train_there(unit: Unit, number: int, job: Job, wanted: Traits) -> Parts:
    """Train a unit on a worker of the cluster; one that doesn't fit leaves it to another."""
    if _unfit(describe(), wanted) or job.digest not in supplied:
        time.sleep(_UNFIT_S)  # it would get it back at once
        raise Reschedule
    with _one_at_a_time:
        return train_unit(unit, None, job)


def _answer(wanted: Traits, digest: str, dask_worker: Worker) -> str:
    """What a worker does, or why it does nothing."""
    if _one_at_a_time.locked():
        return _TRAINS
    idle = f"is {dask_worker.status.name} without a unit, or its results get lost"
    return _unfit(describe(), wanted) or (idle if digest in supplied else "has not got the data")
