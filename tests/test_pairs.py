"""A part of the transfer's pairs: which are trained, and what the answer says of the others."""

from pathlib import Path
from typing import Any

import pytest
from study import command, differing, write_parameters
from test_practice import run_all

from mlp_lib.core.errors import RunDirectoryError, SettingsError
from mlp_lib.core.values import Architecture
from mlp_lib.run.files import RunFiles, read_table
from mlp_lib.run.meta import merge_parameters
from mlp_lib.study.sources import select_pairs

SOME = tuple(Architecture(widths) for widths in ((4,), (8,), (4, 4), (16, 2), (3,)))


def test_so_many_sources_a_target() -> None:
    by_number = [select_pairs(number, SOME) for number in (1, 2, 3, 9)]
    for number, pairs in zip((1, 2, 3, 4), by_number, strict=True):
        assert {a.name: sum(t == a.name and s != a.name for t, s in pairs) for a in SOME} == dict.fromkeys(
            (a.name for a in SOME), number
        )
        assert {(a.name, a.name) for a in SOME} <= pairs
    assert by_number[0] < by_number[1] < by_number[2] < by_number[3] == select_pairs("all", SOME)
    assert len({s for t, s in by_number[0] if t != s}) > 1  # not the same source for all


def test_a_draw_depends_on_its_pair_alone() -> None:
    assert select_pairs(2, SOME) == select_pairs(2, SOME[::-1])


def test_chosen_pairs() -> None:
    assert select_pairs((("mlp_4", "mlp_8"),), SOME) == {("mlp_4", "mlp_4"), ("mlp_4", "mlp_8")}
    with pytest.raises(SettingsError, match=r"mlp_9 is no architecture of the run: mlp_4, mlp_8, mlp_4x4"):
        select_pairs((("mlp_4", "mlp_9"),), SOME)


@pytest.mark.parametrize(
    ("stored", "given", "may"),
    [
        (2, 3, True),
        (3, 2, False),
        (2, "all", True),
        ("all", 2, False),
        ([["mlp_4", "mlp_8"]], [["mlp_8", "mlp_4"], ["mlp_4", "mlp_8"]], True),
        ([["mlp_4", "mlp_8"]], [["mlp_8", "mlp_4"]], False),
        ([["mlp_4", "mlp_8"]], 1, False),
    ],
)
def test_pairs_may_grow(stored: Any, given: Any, may: bool) -> None:
    if may:
        assert merge_parameters({"transfer_pairs": stored}, {"transfer_pairs": given}, Path("x"))
    else:
        with pytest.raises(RunDirectoryError, match="transfer_pairs"):
            merge_parameters({"transfer_pairs": stored}, {"transfer_pairs": given}, Path("x"))


def test_a_run_of_some_pairs_grows_to_the_whole(tmp_path: Path) -> None:
    """By the real command: the page says what was trained; the run that grew equals one of all pairs."""
    parameters = write_parameters(tmp_path / "tiny.yaml", architectures={"list": [[4], [3, 2], [5]]})
    options = ("-f", parameters, "--runs-root", tmp_path)
    assert command("run", *options, "--run-name", "all").returncode == 0
    done = command("run", *options, "--run-name", "some", "-p", "transfer_pairs", 1)
    assert done.returncode == 0, done.stderr
    some = RunFiles(tmp_path / "some")
    losses = read_table(some.transfer_losses)
    assert losses.groupby("target")["source"].nunique().tolist() == [2, 2, 2]
    assert read_table(some.regret).isna().sum().sum() == 3
    done = command("run", "--run-dir", some.root, "-p", "transfer_pairs", "all")
    assert done.returncode == 0, done.stderr
    assert differing(some.root, tmp_path / "all") == []


def test_a_pair_that_is_not_there_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mlp_9 is no architecture"):
        run_all(tmp_path, transfer_pairs=[["mlp_4", "mlp_9"]])
