"""Files appear whole or not at all and read back to the bit; YAML is strict; a run directory has one holder."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from study import environment, no_space

from mlp_lib.core.errors import SettingsError
from mlp_lib.run.claim import _locked, claim, find_holder
from mlp_lib.run.files import (
    RunDirectoryError,
    append_table,
    make_run_directory,
    parse_yaml,
    read_table,
    read_yaml,
    write_bytes,
    write_table,
    write_yaml,
)

FLOATS = [1e-8, 0.1 + 0.2, float("nan"), 5e-324, 1.7976931348623157e308, -0.0, 1 / 3, 0.99990000000000001]


# --- tables ---------------------------------------------------------------------------------------------------------


def test_a_table_reads_back_to_the_bit(tmp_path: Path) -> None:
    number = len(FLOATS)
    table = pd.DataFrame(
        {
            "architecture": ["mlp_32", "mlp_4x3"] * (number // 2),
            "trial": range(number),
            "best_epoch": pd.array([None, 4] * (number // 2), dtype="Int64"),
            "status": ["diverged", "completed"] * (number // 2),
            "test_loss": FLOATS,
            "reused": [True, False] * (number // 2),
        }
    )
    write_table(tmp_path / "table.csv", table)
    read = read_table(tmp_path / "table.csv")
    assert list(read.columns) == list(table.columns)
    assert list(read["architecture"]) == list(table["architecture"])
    assert read["test_loss"].to_numpy().tobytes() == np.array(FLOATS).tobytes()
    for name in ("trial", "best_epoch"):
        pd.testing.assert_series_equal(read[name], table[name], check_exact=True)
    assert read["reused"].dtype == bool
    write_table(tmp_path / "again.csv", read)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()


def test_random_floats_read_back_to_the_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**63, 20000, dtype=np.uint64).view(np.float64)
    values = values[np.isfinite(values)]
    write_table(tmp_path / "table.csv", pd.DataFrame({"val_loss": values}))
    assert read_table(tmp_path / "table.csv")["val_loss"].to_numpy().tobytes() == values.tobytes()


def test_a_matrix_keeps_its_names(tmp_path: Path) -> None:
    names = pd.Index(["mlp_32", "mlp_8x8"], name="target")
    matrix = pd.DataFrame([[0.0, 0.1 + 0.2], [np.nan, 0.0]], index=names, columns=["mlp_32", "mlp_8x8"])
    write_table(tmp_path / "matrix.csv", matrix, index=True)
    pd.testing.assert_frame_equal(read_table(tmp_path / "matrix.csv", index="target"), matrix, check_exact=True)


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    path = tmp_path / "file.csv"
    write_bytes(path, b"old")
    monkeypatch.setattr(*((os, "fsync", no_space) if broken == "fsync" else (Path, "replace", no_space)))
    with pytest.raises(RunDirectoryError, match="No space left on device; what was finished"):
        write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.csv"]


def test_a_write_makes_its_directories_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file", b"x")
    write_bytes(tmp_path / "a" / "b" / "file", b"y")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"y"


# --- appended to ----------------------------------------------------------------------------------------------------


def test_what_is_appended_reads_as_if_it_was_written(tmp_path: Path) -> None:
    table = pd.DataFrame({"trial": pd.array([0, None, 2], dtype="Int64"), "val_loss": FLOATS[:3], "seed": [1, 2, 3]})
    write_table(tmp_path / "whole.csv", table)
    for row in range(3):
        append_table(tmp_path / "folder" / "appended.csv", table[row : row + 1])
    assert (tmp_path / "folder" / "appended.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_line_torn_at_any_byte_is_no_row_and_goes_with_the_next(tmp_path: Path) -> None:
    path, rows = tmp_path / "table.csv", pd.DataFrame({"trial": [0, 1], "val_loss": [1 / 3, 0.1 + 0.2]})
    append_table(path, rows[:1])
    first = path.read_bytes()
    append_table(path, rows[1:])
    whole = path.read_bytes()
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        assert read_table(path)["trial"].tolist() == [0]
        append_table(path, rows[1:])
        assert path.read_bytes() == whole
    for cut in range(first.index(b"\n") + 1):  # in the header, or before it
        path.write_bytes(whole[:cut])
        append_table(path, rows)
        assert path.read_bytes() == whole


def test_a_table_is_never_there_without_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunDirectoryError, match="No space left on device; what was finished"):
        append_table(tmp_path / "table.csv", pd.DataFrame({"trial": [0]}))
    assert not [*tmp_path.iterdir()]


def test_rows_that_cannot_be_appended_leave_those_that_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, row = tmp_path / "table.csv", pd.DataFrame({"trial": [0]})
    append_table(path, row)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunDirectoryError, match="No space left on device; what was finished"):
        append_table(path, row)
    assert path.read_bytes() == b"trial\n0\n"


# --- YAML -----------------------------------------------------------------------------------------------------------

BAD_YAML = {
    "a duplicate key": ("a: 1\na: 2", "a is given twice"),
    "a duplicate key below": ("x: [{y: {a: 1, b: 2, a: 1}}]", "a is given twice"),
    "a duplicate key of two lines": ('"a\\nb": 1\n"a\\nb": 2', "twice"),
    "a key that is a number": ("1: a", "1"),
    "a key that is true": ("x: {true: a}", "True"),
    "a key that is null": ("~: a", "None"),
    "a key that is a list": ("? [a, b]\n: 1", "a"),
    "a python tag": ("a: !!python/object/apply:os.system ['touch executed_by_yaml']", "tag"),
    "a python name": ("a: !!python/name:os.system", "tag"),
    "a tag of its own": ("!widget {a: 1}", "tag"),
    "deep lists": ("[" * 5000, "valid YAML"),
    "deep closed lists": ("[" * 5000 + "]" * 5000, "valid YAML"),
    "deep mappings": ("{a: " * 5000, "valid YAML"),
    "an open list": ("a: [1, 2", "valid YAML"),
    "a tab": ("a:\n\t- b", "valid YAML"),
    "an open quote": ('a: "b', "valid YAML"),
    "a tag of no value": ("a: !!timestamp x", "valid YAML"),
    "a number in name alone": ("a: !!int ''", "valid YAML"),
    "neither true nor false": ("a: !!bool maybe", "valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "valid YAML"),
    "an unknown alias": ("a: *b", "valid YAML"),
    "a control character": ("a: \x01", "valid YAML"),
}


@pytest.mark.parametrize("what", BAD_YAML)
def test_unstrict_yaml_is_refused_in_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, told = BAD_YAML[what]
    with pytest.raises(SettingsError) as error:
        parse_yaml(text, "my/file.yaml")
    message = str(error.value)
    assert message.startswith("my/file.yaml")
    assert told in message
    assert "\n" not in message
    assert len(message) < 400
    assert not list(tmp_path.iterdir())  # nothing was executed


def test_yaml_that_is_strict_is_read() -> None:
    nested = {"a": 1, "b": {"a": [1, 2], "c": {"a": 1.5}}, "d": None}
    assert parse_yaml("a: 1\nb: {a: [1, 2], c: {a: 1.5}}\nd: null", "x") == nested
    assert parse_yaml("", "x") is None
    assert parse_yaml("1e-3", "x") == "1e-3"  # YAML 1.1; the settings read it as a number
    assert parse_yaml("[0, -10, +7, 0.5, .5, -1.0e-3]", "x") == [0, -10, 7, 0.5, 0.5, -1e-3]
    assert parse_yaml("[true, FALSE, ~]", "x") == [True, False, None]


OLD = "010 -010 00.5 0x1F 0b11 0o17 1_000 1_0.5 .5_0 1:30 -1:30:00.5 yes No ON off 2001-01-02 2001-13-45"


@pytest.mark.parametrize("text", OLD.split())
def test_what_only_an_old_yaml_takes_for_more_is_text(text: str, tmp_path: Path) -> None:
    """Octal numbers, numbers to base 60, underscores, yes and no, dates; and it is written so that it stays text."""
    assert parse_yaml(text, "x") == text
    assert parse_yaml(f"{{list: [[{text}, 8]]}}", "x") == {"list": [[text, 8]]}
    write_yaml(tmp_path / "file.yaml", [text])
    assert read_yaml(tmp_path / "file.yaml") == yaml.safe_load((tmp_path / "file.yaml").read_text()) == [text]


def test_yaml_writes_what_it_reads(tmp_path: Path) -> None:
    value = {"b": [1, 1e-8, 0.1 + 0.2, None, True, "mlp_32", "ä"], "a": {"x": "1e-3", "y": "yes", "z": float("inf")}}
    write_yaml(tmp_path / "file.yaml", value)
    read = read_yaml(tmp_path / "file.yaml")
    assert read == value
    assert list(read) == ["b", "a"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    for name in ("missing.yaml", "latin.yaml", "."):
        with pytest.raises(SettingsError, match=str(tmp_path / name)):
            read_yaml(tmp_path / name)


# --- the claim ------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from mlp_lib.run.files import RunDirectoryError
from mlp_lib.run.claim import claim
try:
    with claim(Path(sys.argv[1]), "a study"):
        print("held", flush=True)
        sys.stdin.read()
except RunDirectoryError as error:
    print(error, flush=True)
"""


@contextmanager
def other_process(run_dir: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process that claims the directory until its input ends, and the line that it says: held, or the error."""
    command = [sys.executable, "-c", HOLD, str(run_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with other_process(tmp_path) as (process, said):
        assert said == "held"
        with pytest.raises(RunDirectoryError) as error, claim(tmp_path, "another"):
            pass
        assert str(tmp_path) in str(error.value)
        assert f"a study by process {process.pid}" in str(error.value)
        assert "\n" not in str(error.value)
        assert (tmp_path / ".lock").exists()
        holder = tmp_path / ".lock_holder"  # a process of another container may have this one's number
        holder.write_text(json.dumps({"pid": os.getpid(), "host": "a container"}))
        with pytest.raises(RunDirectoryError, match="a container"), claim(tmp_path, "another"):
            pass
    with claim(tmp_path, "another"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_holder_is_held_against_others_and_not_against_itself(tmp_path: Path) -> None:
    with claim(tmp_path, "outer"):
        with claim(tmp_path, "inner"):
            assert find_holder(tmp_path)["what"] == "outer"
        with other_process(tmp_path) as (_, said):
            assert f"outer by process {os.getpid()}" in said
    with other_process(tmp_path) as (_, said):
        assert said == "held"


def test_a_claim_ends_with_an_error_which_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), claim(tmp_path, "one"):
        raise FileNotFoundError("mine")
    assert not (tmp_path / ".lock").exists()
    with other_process(tmp_path) as (_, said):
        assert said == "held"


def test_a_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    with other_process(tmp_path) as (process, said):
        assert said == "held"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".lock").exists()
    with claim(tmp_path, "next"):
        pass
    assert not (tmp_path / ".lock").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    deep = tmp_path / "search" / "mlp_4"
    deep.mkdir(parents=True)
    (deep / ".mlp_lib_tmp_search_results.csv").write_text("half")
    (deep / "search_results.csv").write_text("whole")
    (tmp_path / ".mlp_lib_tmp_01_search.ipynb").write_text("half")
    with claim(tmp_path, "next"):
        files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert files - {".lock", ".lock_holder"} == {"search_results.csv"}


def test_claims_one_after_another_never_meet(tmp_path: Path) -> None:
    """Whoever ends removes the lock's file, which another may just have opened."""
    inside, most = [], []

    def hold(number: int) -> None:
        with _locked(tmp_path, patience=30) as locked:
            assert locked
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(60)))
    assert most == [1] * 60


# --- run directories ------------------------------------------------------------------------------------------------


def test_ten_at_once_get_ten_directories(tmp_path: Path) -> None:
    barrier = threading.Barrier(10)

    def make(_: int) -> Path:
        barrier.wait()
        return make_run_directory(tmp_path / "new" / "root", "study")

    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(make, range(10)))
    assert all(path.is_dir() for path in made)
    assert {path.name for path in made} == {"study", *(f"study_{number}" for number in range(2, 11))}


def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="file"):
        make_run_directory(tmp_path / "file", "study")
