"""What is told of a run is so: its state while it runs, fails, stops; a training repeated; a place that gives out."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
import yaml
from bs4 import BeautifulSoup
from study import (
    LONG,
    environment,
    fail,
    fixed_space,
    in_this_process,
    processes_of,
    processes_under,
    settings_of,
    snapshot,
    start,
    study_of,
    succeed,
    tables,
    told,
    undo_transfer,
    wait_for,
    write_parameters,
)

from mlp_lib.core import kernels
from mlp_lib.core.errors import TrainingError
from mlp_lib.reports import pages, session
from mlp_lib.reports.session import Session, _record_cell
from mlp_lib.run import meta
from mlp_lib.run.files import RunDirectoryError, RunFiles, read_table, read_yaml, write_table, write_yaml
from mlp_lib.run.parameters import DEFAULTS
from mlp_lib.run.record import note
from mlp_lib.study.verify import verify as verify_study
from mlp_lib.workers.cluster import ClusterError

ENDLESS = {"max_epochs": 10**6, "patience": 10**6, "num_trials": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    write_parameters(folder / "endless.yaml", **ENDLESS)
    return folder


@pytest.fixture
def searched(copy: Path) -> Path:
    """A run that has searched and retrained, and has yet to do the rest."""
    return undo_transfer(copy)


def told_by_the_page(run_dir: Path) -> dict[str, str]:
    page = BeautifulSoup((run_dir / "index.html").read_text(), "html.parser")
    rows = page.find("h2", string=re.compile("^State")).find_next("tbody").find_all("tr")
    return {row.td.text: " ".join(cell.text for cell in row.find_all("td")[1:]) for row in rows}


_started: list[subprocess.Popen] = []


def begin(folder: Path, runs_root: Path, *arguments: Any) -> subprocess.Popen:
    """The endless run, started anew."""
    line = ("run", "-f", folder / "endless.yaml", "--runs-root", runs_root, *arguments)
    return background(*line)


def background(*arguments: Any) -> subprocess.Popen:
    _started.append(start(*arguments, stderr=subprocess.PIPE))
    return _started[-1]


@pytest.fixture(autouse=True)
def _leave_nothing_running() -> Iterator[None]:
    """A test that fails leaves no endless run behind."""
    yield
    while _started:
        _started.pop().kill()  # its kernel and workers end with it


def end(process: subprocess.Popen, code: int) -> str:
    """The line that a command says at its end."""
    _, err = process.communicate(timeout=180)  # for a machine with much else to do
    assert process.returncode == code, err
    assert "Traceback" not in err
    wait_for(lambda: not processes_under(process.pid), seconds=20)
    return err.strip()


def test_the_state_is_told_as_it_is(folder: Path) -> None:
    """One run: at work, its kernel killed, in use, interrupted, killed; by `status` and by index.html."""
    run_dir = folder / "runs" / "endless"

    def at_work() -> bool:
        return run_dir.exists() and (run_dir / ".work/progress.txt").exists() and bool(list(run_dir.glob(".work/ep*")))

    process = begin(folder, run_dir.parent, "--run-name", run_dir.name)
    wait_for(lambda: at_work() and (run_dir / "index.html").exists(), process)
    assert told(run_dir)["search"].startswith("running")
    assert "search: 0 of 4 trainings" in told(run_dir)["search"]
    assert told_by_the_page(run_dir)["search"].startswith("running")
    assert "of 4 trainings" in told_by_the_page(run_dir)["search"]
    assert {told(run_dir)[phase] for phase in ("retrain", "transfer", "analysis")} == {"not begun"}
    assert f"in use: run by process {process.pid}" in pages.describe_status(run_dir)
    assert f"in use: run by process {process.pid}" in fail("run", "--run-dir", run_dir)

    processes_of(process.pid, "kernel")[0].kill()
    assert "its kernel died" in end(process, 1)
    for state in (told(run_dir), told_by_the_page(run_dir)):
        assert state["search"].startswith("failed")
        assert "kernel died" in state["search"]
    assert "This run failed" in nbformat.read(run_dir / "01_search.ipynb", 4).cells[0].source
    assert "kernel died" in (run_dir / "01_search.html").read_text()

    for signal_number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        shutil.rmtree(run_dir / ".work", ignore_errors=True)
        process = background("run", "--run-dir", run_dir)
        wait_for(at_work, process)
        process.send_signal(signal_number)
        assert (f"interrupted; to go on: python -m mlp_lib run --run-dir {run_dir}" in end(process, code)) == (
            code == 130
        )
        assert told(run_dir)["search"].startswith("interrupted")
        assert told_by_the_page(run_dir)["search"].startswith("interrupted")


def test_a_cell_that_fails_is_recorded_and_marked(searched: Path) -> None:
    (searched / "search" / "mlp_4" / "best_hyperparameters.yaml").write_text("architecture: [4]\n<b>: 1\n")
    note(RunFiles(searched), "search")  # as if it had been written so
    assert "03_transfer: KeyError" in fail("transfer", "--run-dir", searched)
    assert told(searched)["transfer"].startswith("failed")
    outputs = [o for cell in nbformat.read(searched / "03_transfer.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"]
    assert told_by_the_page(searched)["transfer"].startswith("failed")


def test_a_search_whose_trials_all_diverge_is_told(tmp_path: Path) -> None:
    space = fixed_space(lr=1000, weight_decay=1000)
    parameters = write_parameters(tmp_path / "wild.yaml", search_space=space, max_epochs=60)
    said = fail("run", "-f", parameters, "--runs-root", tmp_path, "--run-name", "wild")
    assert "all 3 trials of mlp_4 diverged" in said
    assert "lower the learning rates in search_space" in said
    run_dir = tmp_path / "wild"
    for state in (told(run_dir), told_by_the_page(run_dir)):
        assert state["search"].startswith("failed")
        assert "diverged" in state["search"]


def test_networks_that_are_worse_than_guessing_answer_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Learning rates far too high end at any number of nats: finite, and no result."""
    space = DEFAULTS["search_space"] | {"lr": {"distribution": "log_uniform", "low": 100, "high": 1000}}
    parameters = write_parameters(tmp_path / "wild.yaml", search_space=space, max_epochs=8)
    succeed("run", "-f", parameters, "--runs-root", tmp_path, "--run-name", "wild")
    files = RunFiles(tmp_path / "wild")
    assert set(read_table(files.trainings)["status"]) <= {"not_trained", "diverged"}
    for answer in read_yaml(files.answers).values():
        assert answer["verdict"] == answer["for_these_hyperparameters"]["verdict"] == "undetermined"
        assert "No trial of 4, 3x2 came below guessing" in answer["sentence"]
    page = BeautifulSoup((files.root / "04_analysis.html").read_text(), "html.parser").get_text()
    assert "the best of those that did not diverge stands for them" in page
    assert "has no losses to compare, with" in page
    assert "keeps what completed" in page  # in place of a confusion matrix
    code, said = repeat(next(files.root.glob("search/*/retrain/seed_1/config.yaml")), capsys)
    assert (code, "the bits agree: the result\n" in said) == (0, True)


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (TrainingError("all 3 trials diverged\nand more"), "failed", "all 3 trials diverged"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ],
    ids=str,
)
def test_a_notebook_run_by_hand_records_its_error(tmp_path: Path, error: Exception, state: str, told: str) -> None:
    """What JupyterLab or bare papermill leave on record; a cell that is run again may end well after all."""
    files = RunFiles(tmp_path)
    meta.begin(files, "search", {}, {}, {})
    own = Session("search", None, files)
    _record_cell(own, SimpleNamespace(error_in_exec=None))
    assert meta.read_meta(files)["phases"]["search"]["status"] == "running"
    _record_cell(own, SimpleNamespace(error_in_exec=error))
    entry = meta.read_meta(files)["phases"]["search"]
    assert (entry["status"], entry["error"]) == (state, told)
    own.finish()
    entry = meta.read_meta(files)["phases"]["search"]
    assert (entry["status"], entry.get("error")) == ("done", None)
    _record_cell(own, SimpleNamespace(error_in_exec=error))
    assert meta.read_meta(files)["phases"]["search"] == entry


def test_a_duration_is_no_matter_of_the_wall_clock(tmp_path: Path) -> None:
    """Nor is it known of what was killed: the next attempt, which can't begin, doesn't count it as its own."""
    files = RunFiles(tmp_path)
    for began_before_s, attempt in ((50, False), (10**6, True)):
        meta.begin(files, "search", {}, {}, {})
        record = read_yaml(files.meta)
        stretch = record["phases"]["search"]["work"][-1]
        stretch |= {"started": "2026-10-25T02:30:00+02:00", "clock_s": stretch["clock_s"] - began_before_s}
        write_yaml(files.meta, record)
        meta.end(files, "search", meta.FAILED, "an error", since=time.monotonic() if attempt else 0.0)
    first, second = read_yaml(files.meta)["phases"]["search"]["work"]
    assert first["duration_s"] == pytest.approx(50, abs=20)
    assert second["duration_s"] is None


def test_a_phase_that_cannot_begin_has_failed_and_leaves_what_was_done(searched: Path) -> None:
    """By hand: the first cell of a notebook; what is done stays so. With other settings the run is as it was."""
    given = {"run_dir": str(searched), "scheduler": str(searched / "nowhere.json")}
    before = read_yaml(RunFiles(searched).meta)
    for phase in ("search", "transfer"):
        with pytest.raises(ClusterError):
            session.start(phase, settings_of(phase, **LONG).model_dump() | given)
        with pytest.raises(RunDirectoryError):
            session.start(phase, settings_of(phase, **LONG, batch_size=64).model_dump() | given)
    after = read_yaml(RunFiles(searched).meta)
    assert after["phases"].pop("transfer")["status"] == "failed"
    assert after == before
    assert told(searched)["transfer"].startswith("failed")
    assert "no Dask scheduler answers there" in told(searched)["transfer"]


# --- a training again -----------------------------------------------------------------------------------------------


def repeat(config: Path, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    return in_this_process("repeat", config), "".join(capsys.readouterr())


def test_a_training_is_repeated_to_the_bit_by_the_command(base: Path) -> None:
    """Its file, or its folder."""
    said = succeed("repeat", base / "search/mlp_3x2/retrain/seed_2")
    assert "the bits agree: the result and model.pt" in said


def test_a_run_is_no_training_to_be_repeated(base: Path, capsys: pytest.CaptureFixture) -> None:
    code, said = repeat(base, capsys)
    assert code == 2
    assert said.endswith("should be the config.yaml of one seed, below search/*/retrain/ of a run\n")


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Path:
    """A copy of a config.yaml alone, without its run."""
    return Path(shutil.copy(base / "search/mlp_4/retrain/seed_1/config.yaml", tmp_path))


def test_config_is_enough_to_repeat_a_training_and_other_bits_are_told(
    config: Path, capsys: pytest.CaptureFixture
) -> None:
    code, said = repeat(config, capsys)
    assert code == 0
    assert "the bits agree: the result\n" in said
    record = read_yaml(config) | {"device": "cuda"}
    record["result"]["test_loss"] *= 1 + 2**-52
    config.write_text(yaml.safe_dump(record))
    code, said = repeat(config, capsys)
    assert code == 1
    assert f"the bits differ: test_loss: {record['result']['test_loss']} recorded" in said
    assert torch.cuda.is_available() or "device: cuda then, cpu now" in said


def test_another_checkpoint_is_told(config: Path, base: Path, capsys: pytest.CaptureFixture) -> None:
    weights = torch.load(base / "search/mlp_4/retrain/seed_1/model.pt", weights_only=True)
    weights["0.bias"][0] = torch.nextafter(weights["0.bias"][0], torch.tensor(1.0))
    torch.save(weights, config.with_name("model.pt"))
    code, said = repeat(config, capsys)
    assert code == 1
    assert "the bits differ: model.pt holds other weights" in said


def verify(run_dir: Path, capsys: pytest.CaptureFixture, *more: str) -> tuple[int, str]:
    return in_this_process("verify", run_dir, *more), "".join(capsys.readouterr())


def test_drawn_trainings_are_verified_and_a_wrong_one_is_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    code, said = verify(base, capsys, "--sample", "5")
    assert code == 0
    assert "5 of 5 trainings drawn" in said
    assert "agree to the bit" in said
    assert "at most 45.1% of all are wrong" in said  # 0.549^5 is 0.05
    assert {path: path.stat().st_mtime_ns for path in base.rglob("*")} == before

    files = RunFiles(shutil.copytree(base, tmp_path / "copy"))
    trainings = read_table(files.trainings)
    loss = trainings.loc[3, "test_loss"] * (1 + 2**-52)
    write_table(files.trainings, trainings.assign(test_loss=trainings["test_loss"].mask(trainings.index == 3, loss)))
    code, said = verify(files.root, capsys, "--sample", "1000")
    assert code == 1
    assert f"test_loss {loss} recorded" in said
    assert f"{len(trainings) - 1} of {len(trainings)} trainings drawn" in said


@pytest.mark.skipif(not kernels.BFLOAT16, reason="this processor multiplies no bfloat16")
def test_bfloat16_is_part_of_what_a_run_is_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Where there is bfloat16 it is repeated to the bit; where there is none it gives other bits, and doesn't go on."""
    files = RunFiles(tmp_path / "run")
    tiny = write_parameters(tmp_path / "tiny.yaml", matmul_precision="medium")
    succeed("run", "-f", tiny, "--runs-root", tmp_path, "--run-name", "run")
    assert read_yaml(files.meta)["device"] == "cpu, bfloat16"
    code, said = verify(files.root, capsys, "--sample", "5")
    assert (code, "agree to the bit" in said) == (0, True)
    config = next(files.root.glob("search/*/retrain/*/config.yaml"))
    assert repeat(config, capsys)[0] == 0
    monkeypatch.setattr(kernels, "BFLOAT16", False)
    code, said = repeat(config, capsys)
    assert (code, "the bits differ: val_loss" in said) == (1, True)
    conditions = study_of(files.root, "transfer", matmul_precision="medium").conditions
    with pytest.raises(RunDirectoryError, match="device: cpu, bfloat16 in the run, cpu now"):
        meta.check_conditions(files, conditions, mixed=False)
    meta.check_conditions(files, conditions, mixed=True)


def test_what_another_machine_made_is_verified_within_a_tolerance(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = RunFiles(shutil.copytree(base, tmp_path / "copy"))
    files.meta.write_text(re.sub(r"torch: [\d.]+", "torch: 1.0.0", files.meta.read_text()))
    trainings = read_table(files.trainings)
    for factor, code in ((1.1, 0), (1.5, 1), (0.82, 1)):
        write_table(files.trainings, trainings.assign(test_loss=trainings["test_loss"] * factor))
        found, said = verify(files.root, capsys, "--sample", "4")
        assert found == code
        assert "within 20%, since the run has torch 1.0.0" in said


def test_on_cuda_a_population_decides_the_rounding(copy: Path) -> None:
    files = RunFiles(copy)
    files.meta.write_text(files.meta.read_text().replace("device: cpu\n", "device: cuda\n"))
    study = study_of(copy, "search", **LONG)
    study.workers.arithmetic = "cuda"
    agree, said = verify_study(study, 2, seed=0)
    assert agree
    assert "agree within 20%, since the run has other populations, which decide the rounding on CUDA" in said


def test_a_run_of_a_cluster_is_verified_here(copy: Path, capsys: pytest.CaptureFixture) -> None:
    record = read_yaml(RunFiles(copy).meta)
    record["parameters"]["scheduler"] = "tcp://127.0.0.1:9"
    write_yaml(RunFiles(copy).meta, record)
    assert verify(copy, capsys, "--sample", "1")[0] == 0


def test_there_has_to_be_something_to_verify(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture) -> None:
    assert verify(tmp_path, capsys)[0] == 2
    assert verify(base, capsys, "--sample", "0")[0] == 2


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("executed_by_pickle",))


@pytest.mark.parametrize("content", [Bomb(), b"half a file"], ids=["a pickle", "damaged"])
def test_a_checkpoint_that_is_none_is_told_and_never_run(
    config: Path, content: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    path = config.with_name("model.pt")
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    code, said = repeat(config, capsys)
    assert code == 1
    assert "model.pt can't be read" in said
    assert not Path("executed_by_pickle").exists()


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"seed": -1}, 2, "seed = -1"),
        ({"architecture": ["a"]}, 2, "architecture[0] = 'a'"),
        ({"training": None}, 2, "training"),
        ({"data": {"dataset": "digits", "validation_size": None, "split_seed": 0, "digest": "0"}}, 1, "digest"),
        ({"data": {}}, 2, "dataset"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_repeated(
    config: Path, change: dict[str, Any], code: int, named: str, capsys: pytest.CaptureFixture
) -> None:
    config.write_text(yaml.safe_dump(read_yaml(config) | change))
    found, said = repeat(config, capsys)
    assert found == code
    assert named in said
    assert len(said.splitlines()) <= 2


# --- places that give out -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a file system takes the rights of root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def refuse(run_dir: Path, *words: str) -> None:
    """`transfer` ends with one line that has the words, and leaves what was finished."""
    before = tables(run_dir)
    said = fail("transfer", "--run-dir", run_dir)
    assert [word for word in words if word not in said] == []
    after = tables(run_dir)
    assert {name: after[name] for name in before} == before


def test_a_full_disk(searched: Path, small_disk: Path) -> None:
    run_dir = Path(shutil.copytree(searched, small_disk / "run"))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    refuse(run_dir, "No space left on device")
    filler.unlink()
    succeed("transfer", "--run-dir", run_dir)


def test_a_directory_that_can_only_be_read(searched: Path, small_disk: Path) -> None:
    run_dir = Path(shutil.copytree(searched, small_disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refuse(run_dir, str(run_dir), "Read-only file system")
    assert told(run_dir)["search"].startswith("done")


def test_a_run_directory_removed_while_it_runs(folder: Path) -> None:
    run_dir = folder / "runs" / "removed"
    process = begin(folder, run_dir.parent, "--run-name", run_dir.name)
    wait_for(lambda: bool(list(run_dir.glob(".work/epochs_*"))), process)
    run_dir.rename(run_dir.with_name("away"))  # in one go, whoever writes just now
    said = end(process, 1)
    assert len(said.splitlines()) == 1
    assert str(run_dir) in said
    assert not list(run_dir.rglob("*"))
    assert not run_dir.exists()


@pytest.mark.parametrize(("soft", "hard"), [(12, 12), (64, 64), (64, 4096)])
def test_a_limit_of_open_files(copy: Path, soft: int, hard: int) -> None:
    """One that is too low is told before anything is done; a low one that may be raised is."""
    before = snapshot(copy)
    script = f"ulimit -Sn {soft} && ulimit -Hn {hard} && exec {sys.executable} -m mlp_lib analysis --run-dir {copy}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(), timeout=300)
    if hard == soft:
        assert done.returncode == 1
        assert done.stderr.startswith(f"mlp_lib: too many open files are refused here: ulimit -n is {hard}")
        assert len(done.stderr.splitlines()) == 1
        assert snapshot(copy) == before
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ten_starts_in_one_second_get_ten_directories(folder: Path, tmp_path: Path) -> None:
    processes = [begin(folder, tmp_path) for _ in range(10)]
    wait_for(lambda: len(list(tmp_path.glob("tiny_*"))) == 10, processes[0])
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        end(process, 130)
    assert len({p.name for p in tmp_path.glob("tiny_*")}) == 10
