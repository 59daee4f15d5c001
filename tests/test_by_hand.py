"""Notebooks without a run_dir: which run they take, what they leave of it, and how an interrupt ends."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from jupyter_client.manager import KernelManager
from lab import copy_notebook
from study import LONG, TINY, environment, line_of, settings_of, statuses, tables, wait_for

from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.reports import by_hand, session
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, read_yaml, write_yaml
from mlp_lib.workers.cluster import ClusterError

SLOW_S = 600  # waits end with what they wait for

# --- which run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(by_hand, "RUNS", tmp_path)
    return tmp_path


def begin(phase: str, name: str, capsys: pytest.CaptureFixture, **changes: Any) -> tuple[RunFiles, str]:
    """The run that a notebook takes whose parameters cell says so, and what it tells of it; a new one by that name."""
    given = settings_of(phase, **{"project_name": name} | changes).model_dump()
    files = session.start(phase, given | {"run_dir": None}).files
    return files, capsys.readouterr().out


def age(files: RunFiles) -> None:
    """Let it be a day older than it is."""
    record = read_yaml(files.meta)
    record["phases"]["search"]["work"][-1]["started"] = "2026-01-01T00:00:00+00:00"
    write_yaml(files.meta, record)


def test_01_goes_on_with_the_newest_run_that_fits_and_02_takes_the_one_of_01(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(RunDirectoryError, match="no run was made by hand yet; run 01_search first, or give run_dir"):
        begin("retrain", "none", capsys)
    first, said = begin("search", "first", capsys)
    assert first.root.parent == runs
    assert said == f"run_dir = {first.root}: a new run, the first that is made by hand\n"
    again, said = begin("search", "again", capsys)
    assert (again.root, said) == (first.root, f"run_dir = {first.root}: goes on, its settings are these\n")
    grown, said = begin("search", "grown", capsys, num_trials=4, workers=1)
    assert (grown.root, said) == (first.root, f"run_dir = {first.root}: goes on with more of num_trials\n")
    age(first)
    other, said = begin("search", "other", capsys, num_trials=3, max_epochs=4)
    assert other.root != first.root
    told = "max_epochs: 6 in the run, 4 given, num_trials: 4 in the run, 3 given; it may only grow, to more than 4"
    assert f"{other.root}: a new run, since {first.root.name} has other settings (" in said
    assert sorted(told.split(", ")) == sorted(said.split("settings (")[1].removesuffix(")\n").split(", "))
    taken, said = begin("retrain", "02", capsys, max_epochs=4)
    assert (taken.root, said) == (other.root, f"run_dir = {other.root}: the newest that was made by hand\n")
    age(other)
    back, said = begin("search", "back", capsys, num_trials=4)
    assert back.root == first.root
    taken, _ = begin("retrain", "02", capsys)
    assert taken.root == first.root
    with pytest.raises(RunDirectoryError, match=r"max_epochs: 6 in the run, 4 given\); take its own, or another run"):
        begin("retrain", "02", capsys, max_epochs=4)
    assert sorted(path.name for path in runs.iterdir()) == sorted([first.root.name, other.root.name])


def test_a_benchmark_of_other_cases_is_another_run(runs: Path, capsys: pytest.CaptureFixture) -> None:
    case = {"architecture": [4], "members": 1, "batch_size": 64, "workers": 1}
    found = []
    for cases in ([case], [case], [case | {"members": 2}]):
        given = {"project_name": f"of_{len(found)}", "dataset": "digits", "benchmark_cases": cases, "run_dir": None}
        found.append(session.start("benchmark", given).files.root)
    assert found[0] == found[1] != found[2]
    assert "has other settings (benchmark_cases)" in capsys.readouterr().out


def test_a_phase_that_is_not_whole_is_not_done(runs: Path, capsys: pytest.CaptureFixture) -> None:
    started = session.start("search", settings_of("search").model_dump() | {"run_dir": None})
    with pytest.raises(MlpError, match="search isn't whole yet: first run the cell that trains"):
        started.finish()
    assert statuses(started.files.root) == {"search": "running"}


def test_what_was_not_made_by_hand_or_elsewhere_is_left_alone(runs: Path, capsys: pytest.CaptureFixture) -> None:
    """A run that was named, one that is damaged, one of another torch."""
    session.start("search", settings_of("search").model_dump() | {"run_dir": str(runs / "named")})
    damaged = RunFiles(runs / "damaged")
    damaged.search.mkdir(parents=True)
    damaged.meta.write_text("by_hand: true")
    capsys.readouterr()
    first, said = begin("search", "first", capsys)
    assert "the first that is made by hand" in said
    write_yaml(first.meta, read_yaml(first.meta) | {"torch": "2.0.0"})
    second, said = begin("search", "second", capsys)
    assert second.root != first.root
    assert "has other settings (torch: 2.0.0 in the run, " in said
    age(second)
    mixed, _ = begin("search", "mixed", capsys, mixed_devices=True)
    assert mixed.root == first.root


def test_nothing_is_made_of_what_cannot_begin(runs: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ClusterError):
        begin("search", "wrong", capsys, scheduler=str(runs / "nowhere.json"))
    with pytest.raises(SettingsError):
        begin("search", "wrong", capsys, num_trials=0)
    assert list(runs.iterdir()) == []


# --- by the deed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository without its reports, whose first notebook is as small as can be."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("mlp_lib", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "executed"):
        (folder / name).mkdir()
    copy_notebook(folder / "notebooks", "01_search", **TINY | LONG)
    return folder


@pytest.fixture
def kernel(clone: Path) -> Iterator[KernelManager]:
    """A kernel beside the notebooks, as JupyterLab starts one."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(clone / "notebooks"), env=environment() | {"PYTHONPATH": str(clone)})
    yield manager
    manager.shutdown_kernel(now=True)


def test_a_search_by_hand_is_interrupted_goes_on_and_gets_its_pages(clone: Path, kernel: KernelManager) -> None:
    """An interrupt is one line; the same cell goes on; the index and the list of runs link it; render makes pages."""
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=SLOW_S)
    cells = nbformat.read(clone / "notebooks" / "01_search.ipynb", as_version=4).cells
    ended = []
    for source in [cell.source for cell in cells if cell.cell_type == "code"]:
        if "phases.search(" in source:
            sent = client.execute(source)
            wait_for(lambda: any((clone / "executed").glob("*/.work/epochs_*")))
            kernel.interrupt_kernel()
            ended.append(reply_to(client, sent))
            (run_dir,) = (path for path in (clone / "executed").iterdir() if path.is_dir())
            assert statuses(run_dir) == {"search": "interrupted"}
        ended.append(reply_to(client, client.execute(source)))
    client.stop_channels()
    interrupted = [content for content in ended if content["status"] == "error"]
    assert [content["traceback"] for content in interrupted] == [[session.INTERRUPTED]]
    assert statuses(run_dir) == {"search": "done"}
    assert read_yaml(RunFiles(run_dir).meta)["by_hand"] is True
    listed = BeautifulSoup((clone / "executed" / "index.html").read_text(), "html.parser")
    assert f"{run_dir.name}/index.html" in {tag["href"] for tag in listed.select("a[href]")}

    before = tables(run_dir)
    line = line_of("mlp_lib", "render", run_dir)
    said = subprocess.run(
        line, cwd=clone, env=environment() | {"PYTHONPATH": str(clone)}, capture_output=True, text=True, timeout=SLOW_S
    )
    assert (said.returncode, said.stderr) == (0, ""), said.stdout
    assert {name for name, content in tables(run_dir).items() if content != before[name]} <= {"files.csv"}
    index = BeautifulSoup((run_dir / "index.html").read_text(), "html.parser")
    assert {"01_search.html"} <= {tag["href"] for tag in index.select("a[href]")}
    assert (run_dir / "01_search.html").exists()


def reply_to(client: Any, sent: str) -> dict[str, Any]:
    """What the kernel answers to a cell."""
    while True:
        message = client.get_shell_msg(timeout=SLOW_S)
        if message["parent_header"].get("msg_id") == sent:
            return message["content"]
