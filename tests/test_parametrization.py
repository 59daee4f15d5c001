"""The parametrizations: their table, their twin in torch, the base width's bits, and the coordinate checks."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from twin import Twin, draw_hyperparameters, fresh

from mlp_lib.core import training
from mlp_lib.core.machine import training_mode
from mlp_lib.core.optimizer import LayerScale, layer_scales
from mlp_lib.core.population import prepare
from mlp_lib.core.training import Training
from mlp_lib.core.values import PARAMETRIZATIONS, Architecture, TrainingSettings
from mlp_lib.figures.curves import coordinate_sizes
from mlp_lib.lab.coordinate_check import coordinate_check


@pytest.fixture
def mup(training_settings) -> TrainingSettings:
    return training_settings.model_copy(update={"parametrization": "mup", "base_width": 16})


@pytest.fixture(params=[name for name in PARAMETRIZATIONS if name != "standard"])
def scaled(training_settings, request) -> TrainingSettings:
    """Each parametrization but the standard one."""
    return training_settings.model_copy(update={"parametrization": request.param, "base_width": 16})


def test_the_table(mup, training_settings):
    """Four times the base width: a quarter of the learning rate, half the output's initial size, twice a bias's."""
    wide, half = Architecture((64, 64)), Architecture((64, 4))
    assert layer_scales(wide, mup) == [LayerScale(), LayerScale(1, 2, 0.25), LayerScale(0.5, 2, 0.25)]
    assert layer_scales(half, mup) == [LayerScale(), LayerScale(1, 2, 0.25), LayerScale(2, 0.5, 4)]
    assert layer_scales(wide, training_settings) == [LayerScale()] * 3
    independent = mup.model_copy(update={"parametrization": "mup_independent_decay"})
    for coupled, own in zip(layer_scales(wide, mup), layer_scales(wide, independent), strict=True):
        assert own == coupled._replace(decay=1 / own.lr)
    by_layer = mup.model_copy(update={"parametrization": "standard_by_layer"})
    hidden, output = LayerScale(lr=0.25, eps=0.5), LayerScale(lr=0.25)
    assert layer_scales(wide, by_layer) == [LayerScale(eps=0.5), hidden, output]
    assert layer_scales(half, by_layer) == [LayerScale(eps=0.5), LayerScale(lr=0.25, eps=2), LayerScale(lr=4)]


@pytest.mark.parametrize("widths", [(16,), (16, 16)], ids=str)
def test_the_base_width_is_trained_as_standard_to_the_bit(make_split, training_settings, scaled, widths):
    hyperparameters = draw_hyperparameters(3)
    found = []
    for settings in (training_settings, scaled):
        arguments = make_split(100, 9), make_split(40, 9, seed=1), Architecture(widths), hyperparameters, [1, 2, 2]
        found.append(training.train(*arguments, settings))
    assert all(torch.equal(*pair) for pair in zip(*(trained.weights for trained in found), strict=True))
    assert found[0].history.equals(found[1].history)
    other = training.train(*arguments, scaled.model_copy(update={"base_width": 8}))
    assert not found[0].history.equals(other.history)


class GroupedTwin(Twin):
    """nn.Sequential under torch.optim.AdamW with a group for the weights and one for the biases of each layer."""

    def __init__(self, architecture, h, seed, inputs, dtype, scales):
        super().__init__(architecture, h, seed, inputs, dtype)
        linears = [layer for layer in self.layers if isinstance(layer, torch.nn.Linear)]
        groups = []
        for linear, scale in zip(linears, scales, strict=True):
            with torch.no_grad():
                linear.weight *= scale.weight
                linear.bias *= scale.bias
            rate = {"lr": h.lr * scale.lr, "weight_decay": h.weight_decay * scale.decay}
            eps = h.eps * scale.eps
            groups += [{"params": [linear.weight], "eps": eps, **rate}, {"params": [linear.bias], "eps": eps}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=h.lr, betas=(h.beta1, h.beta2), eps=h.eps, weight_decay=h.weight_decay, foreach=False
        )


def test_training_is_torchs_with_groups_a_layer(make_split, scaled):
    """In float64, also after two of the members left; with an eps and a decay that matter."""
    architecture = Architecture((8, 24, 5))
    hyperparameters = [h.model_copy(update={"eps": 1e-3, "weight_decay": 0.3}) for h in draw_hyperparameters(3)]
    train, scales = make_split(50, 6, dtype=torch.float64), layer_scales(architecture, scaled)
    twin = GroupedTwin(architecture, hyperparameters[1], 4, 6, torch.float64, scales)
    settings = scaled.model_copy(update={"batch_size": 16})
    population = fresh(architecture, hyperparameters, [3, 4, 5], settings, prepare(train).images)
    for epoch in range(1, 21):
        with training_mode(settings, torch.device("cpu")):
            population.train_epoch(prepare(train), epoch)
            if epoch == 10:
                population = population.select([1])
        twin.train_epoch(train, epoch, 16)
    for stack, weight in zip(population.network.weights, twin.weights(), strict=True):
        assert torch.allclose(stack[0], weight, rtol=0, atol=1e-10)


def test_a_member_alone_has_the_same_bits(make_split, scaled):
    arguments = make_split(70, 9), make_split(40, 9, seed=1), Architecture((12, 1, 7))
    hyperparameters = draw_hyperparameters(4)
    together = training.train(*arguments, hyperparameters, [1] * 4, scaled)
    alone = training.train(*arguments, hyperparameters[2:3], [1], scaled)
    assert all(torch.equal(a[0], b[2]) for a, b in zip(alone.weights, together.weights, strict=True))


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_coordinate_check(make_split, scaled, precision: str):
    """In a step, activations move as far at any width under muP, and farther the wider under standard.

    Slopes of log change against log width: 0 under muP; under standard 1 for the logits in the limit of great width;
    with rates by layer 0 for the hidden layers and up to 1/2 for the logits, whose weights stand in line with them.
    """
    name = scaled.parametrization
    settings = scaled.model_copy(update={"base_width": 32, "matmul_precision": precision})
    table = coordinate_check(make_split(300, 64), settings, [32, 128, 512], steps=3)
    assert len(table) == 2 * 3 * 3 * 3
    last = table[table["step"] == 3]
    slopes = {}
    for (of, layer), rows in last.groupby(["parametrization", "layer"]):
        slopes[of, layer] = np.polyfit(np.log(rows["width"]), np.log(rows["change"]), 1)[0]
    assert all(abs(slopes[name, layer]) < 0.1 for layer in (1, 2)), slopes
    logits = slopes[name, 3]
    assert 0.2 < logits < 0.5 if name == "standard_by_layer" else abs(logits) < 0.1
    assert slopes["standard", 2] > 0.3
    assert slopes["standard", 3] > 0.6
    base = last[last["width"] == 32].pivot(index="layer", columns="parametrization", values="change")
    assert (base[name] == base["standard"]).all()


def test_the_figure_of_the_coordinate_check_draws_every_curve(make_split, mup):
    table = coordinate_check(make_split(50, 9), mup, [4, 8], steps=2)
    figure = coordinate_sizes(table)
    assert isinstance(figure, Figure)
    for ax, name in zip(figure.axes, ("standard", "mup"), strict=True):
        assert name in ax.get_title()
        rows = table[(table["parametrization"] == name) & (table["step"] == 2)].groupby("layer")["change"].apply(list)
        drawn = [list(line.get_ydata()) for line in ax.lines]
        assert all(values in drawn for values in rows)
        assert len(drawn) == 3 * 2


def test_a_training_goes_on_from_a_state_to_the_same_bits(make_split, mup):
    arguments = make_split(70, 9), make_split(40, 9, seed=1), Architecture((24, 7)), draw_hyperparameters(3), [1] * 3
    first = Training(*arguments, mup)
    for _ in range(3):
        next(first)
    second = Training(*arguments, mup, state=first.state())
    for _ in itertools.chain(first, second):
        pass
    whole, resumed = first.result(), second.result()
    assert all(torch.equal(*pair) for pair in zip(whole.weights, resumed.weights, strict=True))
    assert whole.history.equals(resumed.history)
