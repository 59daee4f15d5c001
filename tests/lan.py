"""A Dask scheduler and its workers, as processes of their own on the loopback address."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

# answers that take minutes by default come in seconds
QUICK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "20s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "50ms",
}


class Lan:
    """One scheduler, and the workers that are started."""

    def __init__(self, folder: Path, protocol: str = "tcp", **environment: str):
        self.folder, self.environment = folder, {**os.environ, **QUICK, **environment}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"{protocol}://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> subprocess.Popen:
        return self._start("scheduler", "--host", self.address.rsplit(":", 1)[0], "--port", self.port, "--no-dashboard")

    def start_worker(self, *options: Any, **environment: str) -> subprocess.Popen:
        options = ("--nthreads", 1, "--no-dashboard", "--local-directory", self.folder, *options)
        return self._start("worker", self.address, *options, **environment)

    def _start(self, *words: Any, **environment: str) -> subprocess.Popen:
        line = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *map(str, words[1:])]
        log = (self.folder / f"{words[0]}_{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            line, stdout=log, stderr=subprocess.STDOUT, env=self.environment | environment, cwd=self.folder
        )
        self.processes.append(process)
        return process

    def wait_for(self, number: int) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(number, timeout=240)

    def close(self) -> None:
        for process in self.processes:
            for child in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
                child.kill()
            process.kill()
            process.wait()
