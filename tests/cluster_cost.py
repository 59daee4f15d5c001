"""What a cluster costs beside the training: empty units through a real scheduler. Run by hand, it is no test.

python tests/cluster_cost.py UNITS WORKERS
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil
from distributed import Client
from lan import Lan

from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.workers.units import Unit, as_finished

TRIAL = Hyperparameters(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0, dropout=0, leaky_relu_alpha=0.01)


def measure(number: int, workers: int) -> str:
    """Seconds, and the memory of driver and scheduler, for that many units that do nothing."""
    with tempfile.TemporaryDirectory() as folder:
        lan = Lan(Path(folder))
        try:
            for _ in range(workers):
                lan.start_worker()
            lan.wait_for(workers)
            with Client(lan.address, set_as_default=False) as client:
                units = [Unit(Architecture((32, 32)), (TRIAL,), (seed,), (seed,)) for seed in range(number)]
                began, done, most = time.perf_counter(), 0, 0.0
                for _, future in as_finished(client.get_executor(pure=False), len_of, units, lambda: None):
                    done += future.result()
                    if done % 1000 == 0:
                        most = max(most, psutil.Process(lan.scheduler.pid).memory_info().rss)
                seconds = time.perf_counter() - began
        finally:
            lan.close()
    own = psutil.Process().memory_info().rss
    return (
        f"{done} units, {workers} workers: {seconds:.1f} s, {1000 * seconds / done:.2f} ms a unit; "
        f"scheduler {most / 2**20:.0f} MiB, driver {own / 2**20:.0f} MiB"
    )


def len_of(unit: Unit, number: int) -> int:
    """An empty unit's work; defined where workers can import it from: see the call."""
    return len(unit.labels)


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), int(sys.argv[2])), flush=True)
