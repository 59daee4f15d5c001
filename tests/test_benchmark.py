"""The benchmark: its methods train the same thing, its table says what was measured, the command makes its report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from study import in_this_process
from torch import nn

from mlp_lib.__main__ import execute_phases
from mlp_lib.figures import losses as loss_figures
from mlp_lib.lab import benchmark, peers
from mlp_lib.lab.peers import METHODS
from mlp_lib.reports.voice import Voice
from mlp_lib.run.files import read_table
from mlp_lib.run.parameters import BenchmarkCase
from mlp_lib.run.parsing import merge

CASE = BenchmarkCase(architecture=(6, 4), members=3, batch_size=32, workers=1)


@pytest.fixture
def without_dropout(monkeypatch):
    still = peers.HYPERPARAMETERS.model_copy(update={"dropout": 0.0})
    monkeypatch.setattr(peers, "HYPERPARAMETERS", still)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_its_time(method, make_split):
    if method in ("jax", "optuna"):
        pytest.importorskip(method, reason=f"{method} is not installed (the extra `peers`)")
    work = METHODS[method](make_split(100, 16), CASE)
    assert work.members == {"vmap": 3, "jax": 3, "population": 3, "medium": 3, "limit": 128 * 3 / 100}.get(method, 1)
    assert peers.timed(work.epoch)[1] > 0


def test_jax_trains_as_the_plain_loop_does(make_split, monkeypatch, without_dropout):
    """After five epochs of one batch, without dropout."""
    pytest.importorskip("jax", reason="jax is not installed (the extra `peers`)")
    from mlp_lib.lab import jax_peer

    data, ends = make_split(32, 16), []
    within, sequential = jax_peer._epoch, peers._sequential
    monkeypatch.setattr(jax_peer, "_epoch", lambda *given: ends.append(within(*given)) or ends[-1])
    epoch = METHODS["jax"](data, CASE).epoch
    monkeypatch.setattr(peers, "_sequential", lambda *given: ends.insert(0, sequential(*given)) or ends[0])
    for each in (epoch, METHODS["plain"](data, CASE).epoch):
        for _ in range(5):
            each()
    model, layers = ends[0], ends[-1][0]
    for linear, layer in zip([module for module in model if isinstance(module, nn.Linear)], layers, strict=True):
        for member in np.asarray(layer):
            np.testing.assert_allclose(member[:-1].T, linear.weight.detach(), rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(member[-1], linear.bias.detach(), rtol=1e-3, atol=1e-5)


def test_vmap_trains_as_the_plain_loop_does(make_split, monkeypatch, without_dropout):
    """After five steps of the whole data and without dropout, the stacked members have the plain loop's weights."""
    data, stacks, models = make_split(32, 16), [], []
    stack, sequential = peers.stack_module_state, peers._sequential
    monkeypatch.setattr(peers, "stack_module_state", lambda given: stacks.append(stack(given)) or stacks[0])
    epoch = METHODS["vmap"](data, CASE).epoch
    monkeypatch.setattr(peers, "_sequential", lambda *given: models.append(sequential(*given)) or models[0])
    for each in (epoch, METHODS["plain"](data, CASE).epoch):
        for _ in range(5):
            each()
    for name, weight in models[0].named_parameters():
        for member in stacks[0][0][name]:
            torch.testing.assert_close(member.detach(), weight.detach(), rtol=1e-3, atol=1e-6)


def test_the_limit_counts_every_image(make_split):
    """The faster of one product over the batch and one over 512 rows, scaled to the images that there are."""
    case = CASE.model_copy(update={"batch_size": 1024})
    members = METHODS["limit"](make_split(1536, 16), case).members
    assert members in (3 * 2 / 1.5, 3)  # 2 batches for 1.5; 3 tiles for 3


def measurements() -> pd.DataFrame:
    case = {"architecture": "mlp_6x4", "members": 3, "batch_size": 32, "workers": 1}
    seconds = {"seed_way": [8, 9, 70], "plain": [4, 3, 10], "population": [2, 1, 1], "limit": [1, 0.9, 0.8]}
    return pd.DataFrame(
        {"round": number + 1, **case, "method": method, "seconds_per_member_epoch": float(values[number])}
        for number in range(3)
        for method, values in seconds.items()
    ).assign(start_seconds=1.0)


def test_the_table_holds_medians_and_ratios_within_a_round():
    table = benchmark.summarize(measurements(), "cpu").set_index("method")
    assert [table.index.name, *table] == ["method", *(name for name in benchmark.COLUMNS if name != "method")]
    assert table["seconds_per_member_epoch"].to_dict() == {"seed_way": 9, "plain": 4, "population": 1, "limit": 0.9}
    assert table["ratio_to_plain"]["population"] == 3  # of 2, 3 and 10: not 4 / 1
    assert table["fraction_of_limit"]["population"] == 0.8  # of 0.5, 0.9 and 0.8
    assert (table["device"] == "cpu").all()


def test_without_the_plain_loop_there_is_no_ratio():
    some = measurements().query("method == 'population'")
    table = benchmark.summarize(some, "cpu")
    assert table["ratio_to_plain"].isna().all()
    assert table["seconds_per_member_epoch"].tolist() == [1]


def test_the_figure_shows_every_method_and_case():
    both = pd.concat([measurements(), measurements().assign(members=5)])
    figure = loss_figures.speeds(benchmark.summarize(both, "cpu"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "mlp_6x4, 3 members, batch 32, workers 1",
        "mlp_6x4, 5 members, batch 32, workers 1",
    ]
    assert [len(axes.patches) for axes in figure.axes] == [4, 4]


def test_the_command_makes_a_report(tmp_path: Path):
    options = {
        "benchmark_rounds": 1,
        "benchmark_methods": "[plain, population, limit]",
        "benchmark_cases": "[{architecture: [6, 4], members: 2, batch_size: 256, workers: 2}]",
    }
    merged = merge("quick", [], [(name, str(value)) for name, value in options.items()])
    run_dir = execute_phases("benchmark", merged, tmp_path, "speed", None, Voice())
    table = read_table(run_dir / "benchmark/benchmark.csv")
    assert table["method"].tolist() == ["plain", "population", "limit"]
    assert (table["seconds_per_member_epoch"] > 0).all()
    assert np.isfinite(table[["ratio_to_plain", "fraction_of_limit"]]).all(axis=None)
    index = (run_dir / "index.html").read_text()
    assert "05_benchmark.html" in index
    assert "No answer yet" not in index
    (run_dir / "05_benchmark.ipynb").unlink()  # as by hand
    assert in_this_process("render", run_dir) == 0
    assert read_table(run_dir / "benchmark/benchmark.csv").equals(table)
