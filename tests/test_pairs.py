"""A part of the transfer's pairs: which are trained, and what the answer says of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study import command, differing, write_parameters
from test_practice import run_all

from mlp_lib.core.errors import RunDirectoryError, SettingsError
from mlp_lib.core.values import Architecture
from mlp_lib.evidence.transfer import answer_transfer
from mlp_lib.run.files import RunFiles, read_table, read_yaml
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
    said = read_yaml(some.answers)["hyperparameter_transfer"]["sentence"]
    assert "Of 6 pairs 3 were trained, drawn at random, which the interval allows for." in said
    done = command("run", "--run-dir", some.root, "-p", "transfer_pairs", "all")
    assert done.returncode == 0, done.stderr
    assert differing(some.root, tmp_path / "all") == []


def test_a_pair_that_is_not_there_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mlp_9 is no architecture"):
        run_all(tmp_path, transfer_pairs=[["mlp_4", "mlp_9"]])


def simulated(draws: np.random.Generator, spread: float) -> tuple[pd.DataFrame, float]:
    """8 architectures, 5 seeds; the pairs' true log costs have that spread; the losses, and the true mean effect."""
    names = [f"mlp_{i + 1}" for i in range(8)]
    cost = np.where(np.eye(8, dtype=bool), 0, draws.normal(0.03, spread, (8, 8)))
    logs = -2.8 + cost[:, :, None] + draws.normal(0, 0.02, (8, 8, 5))
    rows = [
        (t, s, k, np.exp(logs[i, j, k])) for i, t in enumerate(names) for j, s in enumerate(names) for k in range(5)
    ]
    truth = np.expm1(cost[~np.eye(8, dtype=bool)].mean())
    return pd.DataFrame(rows, columns=["target", "source", "seed", "test_loss"]), truth


@pytest.mark.parametrize("number", [1, 3])
def test_the_interval_of_drawn_pairs_holds_the_mean_of_all(number: int) -> None:
    """Without the pairs' variance it would hold it in less than two thirds of the studies."""
    draws, held, naive = np.random.default_rng(number), 0, 0
    for _ in range(200):
        losses, truth = simulated(draws, spread=0.05)
        architectures = [Architecture.from_name(name) for name in losses["target"].unique()]
        order = draws.permutation(8)  # the library's draw is of the pair's names: other names, other pairs
        names = {a.name: architectures[i].name for a, i in zip(architectures, order, strict=True)}
        pairs = {(names[t], names[s]) for t, s in select_pairs(number, architectures)}
        some = losses[[pair in pairs for pair in zip(losses["target"], losses["source"], strict=True)]]
        low, high = answer_transfer(some, 0.05, 0.95, drawn=True)["interval"]
        held += low <= truth <= high
        low, high = answer_transfer(some, 0.05, 0.95)["interval"]
        naive += low <= truth <= high
    assert held >= 184
    assert naive < 140


def test_all_pairs_are_as_without_a_draw() -> None:
    losses, _ = simulated(np.random.default_rng(0), 0.05)
    assert answer_transfer(losses, 0.05, 0.95, drawn=True) == answer_transfer(losses, 0.05, 0.95)
    assert "were trained" not in answer_transfer(losses, 0.05, 0.95)["sentence"]


def test_chosen_pairs_speak_for_themselves_alone() -> None:
    losses, _ = simulated(np.random.default_rng(0), 0.05)
    some = losses[(losses["target"] == losses["source"]) | (losses["source"] == "mlp_1")]
    assert (
        "Of 56 pairs 7 were trained, so the answer is about these alone."
        in answer_transfer(some, 0.05, 0.95)["sentence"]
    )
