"""A study on a Dask cluster, of real schedulers and workers on this machine: same bytes, whatever dies."""

import os
import pickle
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import psutil
import pytest
from distributed import Client
from lan import Lan
from study import SETTINGS, TRIALS, differing, in_process, succeed, units_of, wait_for

import mlp_lib
from mlp_lib.core.errors import TrainingError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.values import Architecture
from mlp_lib.run.files import WorkFiles, read_yaml
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers import cluster
from mlp_lib.workers.cluster import Cluster, ClusterError
from mlp_lib.workers.jobs import Job, Result, Unit
from mlp_lib.workers.pool import Workers, describe_machine
from mlp_lib.workers.processes import Processes


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    lan = Lan(tmp_path)
    yield lan
    lan.close()


def on(lan: Lan, **changes: Any) -> StudySettings:
    return SETTINGS.model_copy(update={"scheduler": lan.address, **changes})


def trainer(worker: subprocess.Popen) -> psutil.Process:
    """The process of a worker that trains; its parent is the nanny that starts it anew."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in psutil.Process(worker.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
        time.sleep(0.05)
    raise AssertionError("no worker process")


def begin(workers: Workers, units: list[Unit], settings: StudySettings, folder: Path) -> Iterator[tuple[Unit, Result]]:
    """The units' results, as they come."""
    job = Job(settings, workers.load(settings).digest, "test", WorkFiles(folder / "work"))
    return workers.train(units, job)


def train(units: list[Unit], settings: StudySettings, folder: Path) -> pd.DataFrame:
    """The units' rows by label, on the cluster if the settings name one."""
    workers = Cluster if settings.scheduler else Processes
    results = begin(workers(settings), units, settings, folder)
    rows = [pd.DataFrame({**result.rows, "label": unit.trials}) for unit, result in results]
    return pd.concat(rows).sort_values("label", ignore_index=True)


def wait_until_it_trains(folder: Path) -> None:
    """For the driver to have handed out its units, which is when it begins to tell of them."""
    wait_for(WorkFiles(folder / "work").progress.exists)


def same_as_here(lan: Lan, tmp_path: Path, **changes: Any) -> None:
    there = train(units_of(1), on(lan, **changes), tmp_path)
    here = train(units_of(2), SETTINGS.model_copy(update=changes), tmp_path)
    pd.testing.assert_frame_equal(there, here, check_exact=True)


@contextmanager
def meanwhile(deed: Callable[[], None]) -> Iterator[None]:
    """Do a deed in a thread beside; its error is the test's."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not errors
    assert not thread.is_alive()


def units_trained(lan: Lan) -> list[int]:
    """How many units each worker has trained since it was started."""
    module = "__import__('mlp_lib.workers.units').workers.units"
    expression = f"(lambda info: info.hits + info.misses)({module}.split_supplied.cache_info())"
    with cluster._connect(lan.address) as client:
        return list(client.run(eval, expression).values())


def test_a_run_on_a_cluster_equals_one_on_this_machine(lan: Lan, base: Path, tmp_path: Path) -> None:
    """By the real command, with workers that have no data, know no directory of the run and may have no children."""
    for _ in range(2):
        lan.start_worker(MLP_DATA_ROOT="/nowhere")
    lan.wait_for(2)
    options = ("-f", base.parents[1] / "tiny.yaml", "-p", "scheduler", lan.address, "-p", "preload", "false")
    succeed("search", *options, "--runs-root", tmp_path, "--run-name", "there")
    succeed("transfer", "--run-dir", tmp_path / "there")
    other = {Path(name).parts[0] for name in differing(base, tmp_path / "there")}
    assert other == {"analysis", "files.csv"}  # not made there
    for phase in read_yaml(tmp_path / "there/search/search_meta.yaml")["phases"].values():
        (workers,) = phase["work"][0]["workers"]
        assert workers["machine"] == describe_machine(resolve_device("auto"))
        assert workers["versions"]["torch"]
    assert sum(units_trained(lan)) >= 6  # of two architectures in three phases


def test_a_killed_and_a_frozen_worker_and_one_that_joins_late(lan: Lan, tmp_path: Path) -> None:
    """One worker trains; a second comes; the first is killed, and starts anew; the second freezes for good."""
    first = lan.start_worker()
    lan.wait_for(1)

    def deed() -> None:
        wait_until_it_trains(tmp_path)
        second = lan.start_worker()
        lan.wait_for(2)
        wait_for(lambda: min(units_trained(lan)) > 0, seconds=60)  # who comes late is used
        trainer(first).kill()
        time.sleep(1)
        trainer(second).send_signal(signal.SIGSTOP)
        assert (tmp_path / "work").is_dir(), "all was done before the deeds"

    with meanwhile(deed):
        same_as_here(lan, tmp_path, max_epochs=1000, patience=1000)


def test_a_unit_on_which_workers_die_is_named_and_the_rest_goes_on(lan: Lan, tmp_path: Path) -> None:
    lan.start_worker("--memory-limit", "1.2GB")
    lan.wait_for(1)
    settings = on(lan, max_epochs=2)
    wide = Unit([Wanted(Architecture((8192, 8192)), TRIALS[0], 7, 77)])  # 268 MB a copy of the weights
    results = begin(Cluster(settings), [wide, *units_of(1)], settings, tmp_path)
    assert sorted(next(results)[0].trials for _ in range(4)) == [[0], [1], [2], [3]]
    with pytest.raises(TrainingError, match=r"died again and again while training mlp_8192x8192 77 .*goes on"):
        next(results)


def test_a_study_that_is_stopped_leaves_no_data_on_the_scheduler(lan: Lan, tmp_path: Path) -> None:
    lan.start_worker()
    lan.wait_for(1)
    settings = on(lan, max_epochs=2)
    results = begin(Cluster(settings), units_of(1), settings, tmp_path)
    next(results)
    with Client(lan.address) as client:
        plugins = partial(client.run_on_scheduler, lambda dask_scheduler: list(dask_scheduler.worker_plugins))
        assert any("mlp_lib" in name for name in plugins())
        results.close()
        assert not any("mlp_lib" in name for name in plugins())


def test_a_lost_scheduler_is_told(lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_LOST_S", 3)
    lan.start_worker()
    lan.wait_for(1)
    with (
        meanwhile(lambda: (wait_until_it_trains(tmp_path), lan.scheduler.kill())),
        pytest.raises(ClusterError, match=rf"scheduler = {lan.address}: lost; .* goes on"),
    ):
        train(units_of(4), on(lan, max_epochs=10**6, patience=10**6), tmp_path)


def test_workers_of_other_code_take_no_part(lan: Lan, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    other = tmp_path / "other" / "mlp_lib"
    shutil.copytree(Path(mlp_lib.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "workers" / "units.py").open("a") as file:
        file.write("# another version\n")
    lan.start_worker(PYTHONPATH=str(other.parent))
    lan.wait_for(1)
    with pytest.raises(ClusterError, match=r"no worker can take part: tcp:.* \(mlp_lib \w{12} instead of \w{12}\)"):
        train(units_of(4), on(lan, max_epochs=2), tmp_path)
    lan.start_worker()
    lan.wait_for(2)
    same_as_here(lan, tmp_path, max_epochs=2)
    assert "takes no part: tcp://127.0.0.1" in capfd.readouterr().out
    assert sorted(units_trained(lan)) == [0, 4]


def only_there(folder: Path, deed: str) -> str:
    """PYTHONPATH of a worker that does a deed when it starts, in a folder that nobody else knows."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(deed)
    (folder / "only_there.py").write_text("def make(*parts): return parts\n")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_workers_of_another_numpy_take_no_part(lan: Lan, tmp_path: Path) -> None:
    lan.start_worker(PYTHONPATH=only_there(tmp_path / "other", "import numpy; numpy.__version__ = '9.9.9'"))
    lan.wait_for(1)
    with pytest.raises(ClusterError, match=r"no worker can take part: tcp:.* \(numpy 9.9.9 instead of \d"):
        Cluster(on(lan))


UNREADABLE = """
import only_there
from mlp_lib.workers import jobs
jobs.Result.__reduce__ = lambda self: (only_there.make, ())
"""
FORGETFUL = """
from mlp_lib.workers import cluster
cluster.Supply.setup = lambda self, worker: None
"""


@pytest.mark.parametrize(
    ("deed", "said"), [(UNREADABLE, "is running without a unit, or its results get lost"), (FORGETFUL, "has not got")]
)
def test_workers_of_which_none_trains_are_told(
    lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, said: str
) -> None:
    """One result that the driver can't read hangs Dask's executor; a worker without data hands units back for ever."""
    monkeypatch.setattr(cluster, "_ASK_S", 2)
    lan.start_worker(PYTHONPATH=only_there(tmp_path / "there", deed))
    lan.wait_for(1)
    with pytest.raises(ClusterError, match=rf"{lan.address}: none of its workers trains \(tcp://\S+ {said}.* goes on"):
        train(units_of(4), on(lan, max_epochs=2), tmp_path)


MORTAL = """
import os
from pathlib import Path
from mlp_lib.workers import cluster
once, whole = Path(__file__).with_name("once"), cluster.Supply.setup
def setup(self, worker):
    if not once.exists():
        once.touch()
        os._exit(1)
    whole(self, worker)
cluster.Supply.setup = setup
"""


def test_a_worker_that_dies_while_it_gets_the_data(lan: Lan, tmp_path: Path) -> None:
    lan.start_worker(PYTHONPATH=only_there(tmp_path / "there", MORTAL))
    lan.wait_for(1)
    same_as_here(lan, tmp_path, max_epochs=2)
    assert (tmp_path / "there" / "once").exists()


def test_results_are_read_by_another_pandas(tmp_path: Path) -> None:
    """No object of pandas is in them, whose pickles change with its versions."""
    _, result = next(begin(in_process(SETTINGS), units_of(4), SETTINGS, tmp_path))
    assert b"pandas" not in pickle.dumps(result)


def test_no_scheduler_and_no_worker(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with pytest.raises(ClusterError, match=r"scheduler = tcp://127.0.0.1:9: no Dask scheduler answers there"):
        Cluster(on(lan, scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(ClusterError, match=r"scheduler = /nowhere.json: no Dask scheduler answers there"):
        Cluster(on(lan, scheduler="/nowhere.json"))
    monkeypatch.setattr(cluster, "_CONNECT_S", 10)
    monkeypatch.setattr(cluster, "_WORKERS_S", 1)
    with pytest.raises(ClusterError, match=r"it has no worker; start some: dask worker tcp://127.0.0.1"):
        Cluster(on(lan))


def test_cuda_that_no_worker_has(lan: Lan) -> None:
    lan.start_worker(CUDA_VISIBLE_DEVICES="")
    lan.wait_for(1)
    with pytest.raises(ClusterError, match=r"device = cuda: no worker of tcp://127.0.0.1:\d+ finds a CUDA device"):
        Cluster(on(lan, device="cuda"))
    assert Cluster(on(lan, device="auto")).device == "cpu"


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """Dask's configuration for TLS, as its environment variables, with a certificate of our own."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    line = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=test"
    subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True)
    own = {"CERT": str(tmp_path / "cert.pem"), "KEY": str(tmp_path / "key.pem")}
    roles = {f"{role}__{name}": path for role in ("SCHEDULER", "WORKER", "CLIENT") for name, path in own.items()}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in (roles | {"CA_FILE": own["CERT"]}).items()}


def test_dasks_settings_of_tls_pass_through(
    tmp_path: Path, certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the certificates the study runs; who has none is told that nobody answers."""
    lan = Lan(tmp_path, "tls", **certificate)
    try:
        lan.start_worker()
        monkeypatch.setattr(cluster, "_CONNECT_S", 3)
        with pytest.raises(ClusterError, match=rf"scheduler = {lan.address}: no Dask scheduler answers there"):
            Cluster(on(lan))
        monkeypatch.setattr(cluster, "_CONNECT_S", 10)
        for name, value in certificate.items():
            monkeypatch.setenv(name, value)
        dask.config.refresh()
        same_as_here(lan, tmp_path, max_epochs=2)
    finally:
        lan.close()
        monkeypatch.undo()
        dask.config.refresh()


@pytest.mark.parametrize(
    ("traits", "wanted", "said"),
    [
        ({"device": "cuda"}, {"device": "cuda"}, ""),
        ({"device": "cuda"}, {"device": "cpu"}, ""),
        ({"device": "cpu"}, {"device": "cuda"}, "device cpu instead of cuda"),
        ({"device": "cpu", "torch": "2.11.0"}, {"device": "cpu"}, "torch 2.11.0 instead of 2.14.1"),
    ],
)
def test_who_fits(traits: dict[str, str], wanted: dict[str, str], said: str) -> None:
    common = {"torch": "2.14.1", "mlp_lib": "0"}
    assert cluster._unfit(common | traits, common | wanted) == said
