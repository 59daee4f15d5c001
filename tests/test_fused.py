"""What a CUDA device does otherwise, held on a CPU against the kernels there: the same numbers, the same training."""

import contextlib
import functools
import shutil

import numpy as np
import pytest
import torch
from study import SETTINGS, in_process, units_of
from twin import draw_hyperparameters

from mlp_lib.core import kernels, population, training
from mlp_lib.core.kernels import Graph
from mlp_lib.core.network import Network, draw_weights
from mlp_lib.core.optimizer import AdamW, LayerScale
from mlp_lib.core.values import COMPLETED, DIVERGED, Architecture, Hyperparameters
from mlp_lib.run.files import WorkFiles
from mlp_lib.workers.jobs import Job

ARCHITECTURE = Architecture((12, 1, 7))
INPUTS, ROWS = 9, 33


def network(members: int, streams: int) -> Network:
    weights = [
        torch.from_numpy(np.stack([layer] * members)).float() for layer in draw_weights(ARCHITECTURE, INPUTS, seed=3)
    ]
    return Network(weights, draw_hyperparameters(members), streams)


@pytest.fixture(params=["as it is", "compiled"])
def how(request, monkeypatch) -> str:
    """The kernels as plain functions, and fused by torch.compile for this machine's processor."""
    if request.param == "as it is":
        monkeypatch.setattr(kernels, "compiled", lambda function: function)
    elif not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    return request.param


@pytest.fixture
def on_fused(monkeypatch):
    """Calling it makes networks from then on behave as on a CUDA device."""
    return lambda: monkeypatch.setattr(Network, "fused", True)


@pytest.mark.parametrize(("members", "streams"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("dropout", [False, True])
def test_units_are_the_same_bits_as_member_by_member(how, on_fused, members, streams, dropout):
    images = torch.rand(streams, ROWS, INPUTS + 1)
    results = []
    for make_fused in (False, True):
        if make_fused:
            on_fused()
        (tile,) = network(members, streams).tiles(ROWS)
        for uniform in tile.uniforms:
            drawn = np.random.default_rng(5).integers(-(2**15), 2**15, uniform.shape)
            uniform.copy_(torch.from_numpy(drawn) if dropout else torch.full(uniform.shape, torch.nan))
        tile.forward(images, dropout)
        results.append([tile.logits, *tile.factors, *tile.activations])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


OF_LAYERS = [
    LayerScale(lr=lr, decay=decay, eps=eps) for lr, decay, eps in ((1, 1, 2), (0.5, 2, 1), (2, 1, 3), (1, 4, 1))
]


@pytest.mark.parametrize("scales", [[LayerScale()] * 4, OF_LAYERS], ids=["one rate", "a rate a layer"])
def test_adamw_is_torchs(how, on_fused, scales):
    stack = network(3, 1)
    torch.manual_seed(0)
    gradients = [[torch.randn_like(w) for w in stack.weights] for _ in range(20)]
    results = []
    for make_fused in (False, True):
        if make_fused:
            on_fused()
        fresh = Network([w.clone() for w in stack.weights], stack.hyperparameters)
        moments = tuple([torch.zeros_like(w) for w in fresh.weights] for _ in range(2))
        optimizer = AdamW(fresh.weights, fresh.gradients, moments, 0, fresh.hyperparameters, scales, fused=make_fused)
        for step in gradients:
            for place, gradient in zip(fresh.gradients, step, strict=True):
                place.copy_(gradient)
            optimizer.step()
        results.append([*fresh.weights, *moments[0], *moments[1]])
    for ours, torchs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=2e-5, atol=1e-7)


class FakeGraph:
    """Captures as CUDA does: what runs while it captures isn't done, but done at every replay, in the same places."""

    def __init__(self):
        self.calls = []

    def replay(self) -> None:
        for call in self.calls:
            call()
        FakeGraph.replays += 1


@pytest.fixture
def deferring(monkeypatch):
    """CUDA's graphs, faked: a function to wrap what may be captured in."""
    capturing = []

    @contextlib.contextmanager
    def capture(graph):
        capturing.append(graph)
        yield
        capturing.pop()

    def wrap(function):
        def called(*inputs, **numbers):
            if capturing:
                capturing[-1].calls.append(lambda: function(*inputs, **numbers))
            else:
                function(*inputs, **numbers)

        return called

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(FakeGraph, "replays", 0, raising=False)
    return wrap


def test_a_graph_does_every_call_once(deferring):
    sums = {2: torch.zeros(2), 3: torch.zeros(3)}
    add = Graph(deferring(lambda values, times: sums[len(values)].add_(values * times)))
    for i in range(4):
        add(torch.full((2,), float(i)), times=1)
        add(torch.ones(3), times=2)
    assert sums[2].tolist() == [6, 6]
    assert sums[3].tolist() == [8, 8, 8]
    assert FakeGraph.replays == 6


@pytest.mark.parametrize("seeds", [[1] * 5, [1, 1, 2, 3, 1]])
def test_training_with_graphs_and_fused_kernels_is_near_the_cpus(
    deferring, on_fused, monkeypatch, make_split, training_settings, seeds
):
    """Graphs, compaction, a smaller last batch and a diverging member; the rounding of AdamW differs."""
    data, validation = make_split(200, 16), make_split(100, 16, seed=1)
    vectors = [*draw_hyperparameters(4), Hyperparameters().model_copy(update={"lr": 1e30})]
    arguments = data, validation, Architecture((16, 8)), vectors, seeds, training_settings
    plain = training.train(*arguments)
    assert FakeGraph.replays == 0
    monkeypatch.setattr(kernels, "compiled", lambda function: function)
    monkeypatch.setattr(population, "_train_rows", deferring(population._train_rows))
    on_fused()
    trained = training.train(*arguments)
    assert FakeGraph.replays > 20
    assert trained.status == plain.status == [COMPLETED] * 4 + [DIVERGED]
    assert np.allclose(trained.val_loss, plain.val_loss, rtol=1e-3, equal_nan=True)
    assert trained.epochs_trained.tolist() == plain.epochs_trained.tolist()


def test_without_a_compiler_kernels_are_plain_and_that_is_said_once(deferring, on_fused, monkeypatch, tmp_path, capsys):
    """torch raises what it makes of Triton's error."""

    def find_compiler(*_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    on_fused()
    torch._dynamo.reset()  # forgets what was compiled
    kernels.compiled.cache_clear()
    monkeypatch.setattr(kernels, "unfused", set())
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=find_compiler))
    monkeypatch.setattr(population, "_train_rows", deferring(population._train_rows))
    settings = SETTINGS.model_copy(update={"max_epochs": 2})
    workers = in_process(settings)
    job = Job(settings, workers.load(settings).digest, "test", WorkFiles(tmp_path / "work"))
    plain = [result.rows for _, result in workers.train(units_of(2), job)]
    said = capsys.readouterr().out
    assert said.count("\n") == said.count("trains with plain kernels") == 1
    assert "Failed to find C compiler" in said
    kernels.compiled.cache_clear()
    monkeypatch.setattr(kernels, "compiled", lambda function: function)
    again = [result.rows for _, result in workers.train(units_of(2), job)]
    np.testing.assert_equal(plain, again)
