"""The batched network and its optimizer against their slow twin, and what its random draws depend on."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from twin import Twin, draw_hyperparameters, fresh

from mlp_lib.core import kernels, network, training
from mlp_lib.core.data import Split
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import draw_uniforms, draw_weights, keep_threshold
from mlp_lib.core.population import prepare
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads are slower on products this small, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distances(
    train: Split, widths: tuple[int, ...], seeds: list[int], settings: TrainingSettings, epochs: int, same: bool = False
) -> list[float]:
    """The largest difference of a weight or a mean loss between the population and its twins, after each epoch."""
    architecture = Architecture(widths)
    hyperparameters = draw_hyperparameters(len(seeds))
    inputs, dtype = train.images.shape[1], train.images.dtype
    population = fresh(architecture, hyperparameters, seeds, settings, prepare(train).images)
    twins = [Twin(architecture, h, s, inputs, dtype) for h, s in zip(hyperparameters, seeds, strict=True)]
    found = []
    for epoch in range(1, epochs + 1):
        with training_mode(settings, torch.device("cpu")):
            losses = population.train_epoch(prepare(train, population.network.bfloat16), epoch).tolist()
        gaps = []
        for i, twin in enumerate(twins):
            gaps.append(abs(twin.train_epoch(train, epoch, settings.batch_size) - losses[i]))
            pairs = zip(population.network.weights, twin.weights(), strict=True)
            gaps += [float((stack[i] - weight).abs().max()) for stack, weight in pairs]
        found.append(max(gaps))
    return found


@pytest.mark.parametrize("seeds", [[3, 3, 3], [3, 4, 3, 5]], ids=["one seed", "own seeds"])
@pytest.mark.parametrize("widths", [(9,), (8, 5), (7, 1, 6)], ids=str)
def test_twin_in_float64(make_split, training_settings, widths, seeds):
    """200 optimizer steps, 4 an epoch of which the last has 2 images."""
    train = make_split(50, 6, dtype=torch.float64)
    settings = training_settings.model_copy(update={"batch_size": 16})
    assert max(distances(train, widths, seeds, settings, epochs=50)) < 1e-10


@pytest.mark.parametrize("batch_size", [600, 512, 513, 1025, 5000])
def test_twin_in_several_row_tiles(make_split, training_settings, batch_size):
    """A step of more than 512 images is computed in tiles and its gradient is their sum."""
    train = make_split(1300, 6, dtype=torch.float64)
    settings = training_settings.model_copy(update={"batch_size": batch_size})
    assert max(distances(train, (8, 5), [3, 3, 4], settings, epochs=5)) < 1e-10


def test_twin_in_several_member_tiles(make_split, training_settings, monkeypatch):
    monkeypatch.setattr(network, "_TILE_VALUES", 2 * 16 * 13)
    train = make_split(50, 6, dtype=torch.float64)
    settings = training_settings.model_copy(update={"batch_size": 16})
    for seeds in ([3] * 5, [3, 4, 3, 5, 6]):
        assert max(distances(train, (8, 5), seeds, settings, epochs=10)) < 1e-10


def test_twin_in_float32(make_split, training_settings):
    """40 steps agree within what rounding makes of them."""
    train = make_split(300, 20)
    assert max(distances(train, (32, 16), [3, 3, 4], training_settings, epochs=4)) < 1e-4


@pytest.mark.skipif(not kernels.BFLOAT16, reason="this processor multiplies no bfloat16")
def test_medium_rounds_factors_of_products_alone(make_split, training_settings):
    """To bfloat16, as close as that is; the same units are dropped; what is measured is measured in float32."""
    train, medium = make_split(300, 20), training_settings.model_copy(update={"matmul_precision": "medium"})
    assert 1e-4 < max(distances(train, (32, 16), [3, 3, 4], medium, epochs=4)) < 3e-2
    vectors = [Hyperparameters(dropout=dropout) for dropout in (0.0, 1 / 65536, 0.5, 0.75, 65535 / 65536)]
    trained = training.train(train, train, Architecture((32, 16)), vectors, settings=medium)
    for i, loss in enumerate(trained.score(train)[0]):
        logits = trained.model(i)(train.images).detach()
        assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, train.labels)), rel=1e-5)
    kept = []
    for settings in (training_settings, medium):
        population = fresh(Architecture((32, 16)), vectors, [3] * 5, settings, prepare(train).images)
        with training_mode(settings, torch.device("cpu")):
            population.train_epoch(prepare(train, population.network.bfloat16), 1)
        (tile,) = population.network.tiles(300 % settings.batch_size)
        kept.append([factors != 0 for factors in tile.factors])
    assert all(torch.equal(*pair) for pair in zip(*kept, strict=True))
    assert [int(layer[0].sum()) for layer in kept[0]] == [layer[0].numel() for layer in kept[0]]


def test_adamw_state_follows_the_members_that_stay(make_split, training_settings):
    """After the others leave, a member goes on as its twin does."""
    architecture, hyperparameters = Architecture((8, 5)), draw_hyperparameters(4)
    train, settings = make_split(50, 6, dtype=torch.float64), training_settings.model_copy(update={"batch_size": 16})
    twin = Twin(architecture, hyperparameters[2], 5, 6, torch.float64)
    population = fresh(architecture, hyperparameters, [3, 4, 5, 6], settings, prepare(train).images)
    for epoch in range(1, 13):
        with training_mode(training_settings, torch.device("cpu")):
            population.train_epoch(prepare(train), epoch)
            if epoch == 4:
                population = population.select([0, 2])
            if epoch == 8:
                population = population.select([1])
        twin.train_epoch(train, epoch, 16)
    assert population.seeds == [5]
    for stack, weight in zip(population.network.weights, twin.weights(), strict=True):
        assert torch.allclose(stack[0], weight, rtol=0, atol=1e-10)


# ---- random draws


def test_initial_weights_follow_pytorch():
    """Uniform in +-1/sqrt(in), weight and bias, as nn.Linear's."""
    architecture = Architecture((80, 60))
    sizes = architecture.layer_sizes(100)
    for (n_in, n_out), weight in zip(sizes, draw_weights(architecture, 100, 0), strict=True):
        bound = 1 / math.sqrt(n_in)
        linear = nn.Linear(n_in, n_out)
        assert weight.shape == (n_out, n_in + 1)
        assert np.abs(weight).max() <= bound
        assert np.abs(weight[:, :-1]).max() > 0.98 * bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.06)
        assert float(linear.weight.detach().abs().max()) == pytest.approx(np.abs(weight[:, :-1]).max(), rel=0.02)
        assert float(linear.bias.detach().abs().max()) <= bound


def test_streams_differ():
    """No two draws of a training are alike: not by architecture, layer, step, epoch, seed or purpose."""
    places = [(Architecture(widths), layer) for widths in ((8, 8), (8, 9)) for layer in (0, 1)]
    moments = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]
    uniforms = {draw_uniforms(*place, *moment, 16)[:8].tobytes() for place in places for moment in moments}
    weights = {draw_weights(of, 8, seed)[layer][:8].tobytes() for of, layer in places for seed in (0, 1)}
    assert (len(uniforms), len(weights)) == (len(places) * len(moments), len(places) * 2)
    keys = [(seed, stream, key) for seed in (0, 1) for stream in Stream for key in (0, 1)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_uniforms_are_uniform():
    uniforms = draw_uniforms(Architecture((400,)), 0, 0, 1, 0, 1000)
    assert uniforms.dtype == np.int16
    assert uniforms.shape == (400, 1000)
    counts = np.histogram(uniforms, bins=16, range=(-(2**15), 2**15))[0]
    assert np.abs(counts / 25000 - 1).max() < 0.03
    for dropout in (0, 0.01, 0.25, 0.5, 0.999):
        assert (uniforms > keep_threshold(dropout)).mean() == pytest.approx(1 - dropout, abs=3e-3)


def test_mask_is_uniform_not_below_dropout():
    levels = np.arange(-(2**15), 2**15)
    for dropout in (0.0, 1 / 65536, 0.01, 0.3, 0.5, 0.9, 65535 / 65536):
        assert np.array_equal(levels > keep_threshold(dropout), (levels + 2**15) / 2**16 >= dropout)
    assert (levels > keep_threshold(1 - 1e-9)).sum() == 1, "something is always kept"


def test_global_generators_are_left_alone(make_split, training_settings):
    random.seed(0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with training_mode(training_settings, torch.device("cpu")):
        train = prepare(make_split(40, 6))
        population = fresh(Architecture((4,)), draw_hyperparameters(2), [1, 2], training_settings, train.images)
        population.train_epoch(train, 1)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
