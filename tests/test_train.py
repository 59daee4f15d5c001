"""A member's result is its own, whoever shares its population; early stopping; evaluation."""

import dataclasses
import math
import multiprocessing
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mlp_lib.core import kernels, network, training
from mlp_lib.core.data import Split
from mlp_lib.core.machine import training_mode
from mlp_lib.core.network import to_sequential
from mlp_lib.core.training import Trained, Training
from mlp_lib.core.values import (
    COMPLETED,
    DIVERGED,
    GUESSING,
    NOT_TRAINED,
    Architecture,
    Hyperparameters,
    TrainingSettings,
)

BASE = Hyperparameters(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=1e-3, dropout=0.2, leaky_relu_alpha=0.05)
DIVERGING = BASE.model_copy(update={"lr": 1e3, "weight_decay": 1e3})  # each step multiplies the weights by -1e6


def vary(number: int, draws: np.random.Generator) -> list[Hyperparameters]:
    return [
        BASE.model_copy(update={"lr": 10 ** draws.uniform(-4, -1), "dropout": draws.uniform(0, 0.6)})
        for _ in range(number)
    ]


@dataclasses.dataclass(frozen=True)
class Case:
    """One training of a population."""

    train: Split
    validation: Split
    architecture: Architecture
    hyperparameters: list[Hyperparameters]
    seeds: list[int]
    settings: TrainingSettings

    def run(self, members: list[int]) -> list[tuple]:
        """What those members, trained together in that order, end as: one comparable tuple a member."""
        chosen = [self.hyperparameters[i] for i in members], [self.seeds[i] for i in members]
        trained = training.train(self.train, self.validation, self.architecture, *chosen, self.settings)
        scores = trained.score(self.validation)
        return [member_bits(trained, i, scores) for i in range(len(members))]


def member_bits(trained: Trained, i: int, scores: tuple[np.ndarray, np.ndarray]) -> tuple:
    history = trained.history[trained.history.member == i].drop(columns="member")
    arrays = (trained.best_epoch, trained.epochs_trained, trained.val_loss, trained.val_accuracy, *scores)
    return (
        trained.status[i],
        *(array[i].tobytes() for array in arrays),
        history.to_csv(index=False),  # to the bit, but for which NaN it is
        *(weight[i].numpy().tobytes() for weight in trained.weights),
    )


def draw_case(make_split: Callable[..., Split], seed: int) -> Case:
    """A random shape: widths and batches of one, a last batch of one, up to ten members, one seed or several."""
    draws = np.random.default_rng(seed)
    widths = tuple(int(w) for w in draws.choice([1, 1, 2, 3, 5, 8, 17, 32, 33, 64, 100], draws.integers(1, 4)))
    inputs = int(draws.choice([3, 16, 64, 100, 784]))
    batch_size = int(draws.choice([1, 7, 16, 33, 64, 100, 513]))
    number = int(draws.integers(20, 30 if batch_size < 8 else 200))
    if draws.random() < 0.3:
        number = number // batch_size * batch_size + 1  # a last batch of one
    members = int(draws.integers(2, 11))
    hyperparameters = vary(members, draws)
    hyperparameters[0] = draws.choice([BASE.model_copy(update={"lr": 1e3}), DIVERGING])
    seeds = [3] * members if draws.random() < 0.6 else [int(s) for s in draws.integers(0, 3, members)]
    precision = ("highest", "medium", "high", "auto")[seed // 2 % 4]
    settings = TrainingSettings(
        batch_size=batch_size, max_epochs=5, patience=2, val_interval=2, matmul_precision=precision, deterministic=False
    )
    splits = make_split(number, inputs), make_split(int(draws.integers(1, 90)), inputs, seed=1)
    return Case(*splits, Architecture(widths), hyperparameters, seeds, settings)


@pytest.mark.parametrize("seed", range(40))
def test_the_law(make_split, monkeypatch, seed: int):
    """Alone, among neighbours, in another order, in other tiles: the same bits, though member 0 runs wild."""
    if kernels._onednn_linear:  # the products of a processor that is Intel's, and of one that is not
        monkeypatch.setattr(kernels, "_ONEDNN", bool(seed % 2))
        monkeypatch.setattr(kernels, "_LARGE", 0)
    case = draw_case(make_split, seed)
    members = list(range(len(case.seeds)))
    together = case.run(members)
    draws = np.random.default_rng(seed)
    for i in draws.permutation(members)[:3]:
        assert case.run([i]) == [together[i]], f"member {i} alone"
    order = draws.permutation(members).tolist()
    monkeypatch.setattr(network, "_TILE_VALUES", int(draws.choice([1, 2**10, 2**13, 2**30])))
    assert case.run(order) == [together[i] for i in order], "another order and other tiles"


@pytest.mark.parametrize(("precision", "batch"), [("highest", 1025), ("medium", 4097)])
def test_the_law_in_several_row_tiles(make_split, monkeypatch, training_settings, precision: str, batch: int):
    """Batches of more images than a tile has, a last tile of one row, members in tiles of different sizes."""
    settings = training_settings.model_copy(update={"batch_size": batch, "matmul_precision": precision})
    splits = make_split(2 * batch + 1, 64), make_split(600, 64, seed=1)
    case = Case(*splits, Architecture((40, 1, 30)), vary(7, np.random.default_rng(0)), [3] * 5 + [4, 5], settings)
    together = case.run(list(range(7)))
    assert case.run([6]) == [together[6]]
    monkeypatch.setattr(network, "_TILE_VALUES", 2 * 512 * 71)
    assert case.run([4, 0, 2, 1, 3]) == [together[i] for i in (4, 0, 2, 1, 3)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_streamed_training_has_one_loader_whose_workers_live_as_long(make_split, training_settings, method: str):
    """However processes are started (forkserver is the default of Python 3.14), and when a member has left."""
    train, validation = make_split(70, 16), make_split(30, 16, seed=1)
    arguments = (validation, Architecture((8,)), [BASE, DIVERGING], [1, 2], training_settings)
    whole = training.train(train, *arguments)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        streamed, workers = Training(dataclasses.replace(train, loader_workers=2), *arguments), set()
        for _ in streamed:
            workers |= {process.pid for process in multiprocessing.active_children()}
        result = streamed.result()
        assert len(workers) == 2
        del streamed
        assert not multiprocessing.active_children()
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert [member_bits(result, i, ()) for i in (0, 1)] == [member_bits(whole, i, ()) for i in (0, 1)]


def test_a_diverged_member_has_no_loss(make_split, training_settings):
    train, validation = make_split(100, 16), make_split(50, 16, seed=1)
    trained = training.train(train, validation, Architecture((8,)), [BASE, DIVERGING], [1, 1], training_settings)
    assert trained.status == [COMPLETED, DIVERGED]
    losses, accuracies = trained.score(validation)
    for array in (losses, accuracies, trained.val_loss, trained.val_accuracy):
        assert np.isfinite(array).tolist() == [True, False]
        assert math.isnan(array[1])
    assert trained.best_epoch[1] == 0
    assert trained.epochs_trained[0] == 6
    assert trained.epochs_trained[1] < 6


def test_all_members_diverge(make_split, training_settings):
    train, validation = make_split(100, 16), make_split(50, 16, seed=1)
    trained = training.train(train, validation, Architecture((8,)), [DIVERGING] * 2, [1, 2], training_settings)
    assert trained.status == [DIVERGED] * 2
    assert np.isnan(trained.score(validation)[0]).all()


def test_a_bad_call_is_refused(make_split, training_settings):
    split = make_split(10, 4)
    for hyperparameters, seeds in [([], []), ([BASE], [1, 2])]:
        with pytest.raises(ValueError, match="one of each a member"):
            training.train(split, split, Architecture((3,)), hyperparameters, seeds, training_settings)


# ---- early stopping, against hand-made curves

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def scripted(make_split, monkeypatch) -> Callable[..., tuple[Trained, list[list[torch.Tensor]]]]:
    """A function that trains one member a curve of validation losses, told apart by their learning rates.

    It returns what came out, and the weights that each member had at each of its checks.
    """

    def run(*curves: list[float], max_epochs: int = 1000, patience: int = 2, val_interval: int = 1):
        hyperparameters = [BASE.model_copy(update={"lr": 1e-3 * (i + 1)}) for i in range(len(curves))]
        member_of = {h.lr: i for i, h in enumerate(hyperparameters)}
        seen: list[list[list[torch.Tensor]]] = [[] for _ in curves]

        def read_script(network, split, rows):
            losses = []
            for place, h in enumerate(network.hyperparameters):
                member = member_of[h.lr]
                losses.append(curves[member][len(seen[member])])
                seen[member].append([weight[place].clone() for weight in network.weights])
            losses = torch.tensor(losses, dtype=torch.float64)
            return losses, torch.exp(-losses)

        monkeypatch.setattr(training, "measure", read_script)
        settings = TrainingSettings(batch_size=16, max_epochs=max_epochs, patience=patience, val_interval=val_interval)
        split = make_split(40, 6)
        trained = training.train(split, split, Architecture((4,)), hyperparameters, [1] * len(curves), settings)
        return trained, seen

    return run


def holds_weights_of_check(trained: Trained, member: int, weights: list[torch.Tensor]) -> bool:
    return all(torch.equal(stack[member], weight) for stack, weight in zip(trained.weights, weights, strict=True))


@pytest.mark.parametrize(
    ("curve", "settings", "best", "checks"),
    [
        ([3.0, 1.0, 2.0, 1.5, 0.1], {}, 2, [1, 2, 3, 4]),  # two checks without a better one end it
        ([1.0, 1.0, 1.0, 0.5], {}, 1, [1, 2, 3]),  # a tie is not better
        ([3, 4, 2, 4, 1, 4, 4, 0], {}, 5, [1, 2, 3, 4, 5, 6, 7]),  # a better check renews the patience
        ([1, 2, 3, 0], {"val_interval": 5}, 5, [5, 10, 15]),  # which counts checks, not epochs
        ([3, 2, 1], {"max_epochs": 10, "val_interval": 4}, 10, [4, 8, 10]),  # the last epoch has a check
        ([3, 2], {"max_epochs": 8, "val_interval": 4}, 8, [4, 8]),  # and no second one
        ([1.0], {"max_epochs": 3, "val_interval": 4}, 3, [3]),
    ],
)
def test_patience_and_best_weights(scripted, curve, settings, best, checks):
    """The rest of a curve is never asked for."""
    trained, seen = scripted(curve, **settings)
    assert (trained.best_epoch[0], trained.epochs_trained[0]) == (best, checks[-1])
    assert trained.history[trained.history.val_loss.notna()].epoch.tolist() == checks
    assert trained.val_loss[0] == curve[checks.index(best)]
    assert trained.val_accuracy[0] == pytest.approx(math.exp(-trained.val_loss[0]))
    assert [holds_weights_of_check(trained, 0, weights) for weights in seen[0]] == [check == best for check in checks]


def test_members_stop_each_at_its_own_time(scripted):
    trained, seen = scripted([1, 2, 2], [3, 2, 1, 0, 0.5, 0.5], [5, NAN], [2, 1, 1, 1])
    assert trained.status == [COMPLETED, COMPLETED, DIVERGED, COMPLETED]
    assert trained.best_epoch.tolist() == [1, 4, 0, 2]
    assert trained.epochs_trained.tolist() == [3, 6, 2, 4]
    assert np.array_equal(trained.val_loss, [1, 0, NAN, 1], equal_nan=True)
    for member, check in [(0, 0), (1, 3), (3, 1)]:
        assert holds_weights_of_check(trained, member, seen[member][check])


def test_what_never_comes_below_guessing_is_not_trained(scripted):
    """Its losses, and the weights of its best check, are what they are."""
    below = np.nextafter(GUESSING, 0)
    trained, seen = scripted([9, 2.4, 5, 5], [GUESSING] * 3, [3, below, 3, 3], [3, 2.4, INF])
    assert trained.status == [NOT_TRAINED, NOT_TRAINED, COMPLETED, DIVERGED]
    assert np.array_equal(trained.val_loss, [2.4, GUESSING, below, NAN], equal_nan=True)
    assert trained.best_epoch.tolist() == [2, 1, 2, 0]
    assert holds_weights_of_check(trained, 0, seen[0][1])


def test_history_has_a_row_an_epoch(scripted):
    trained, _ = scripted([1, 2, 2], [3, 2, 2, 2], val_interval=2)
    frame = trained.history
    assert frame.columns.tolist() == ["member", "epoch", "train_loss", "val_loss", "val_accuracy"]
    assert frame.groupby("member").epoch.apply(list).tolist() == [list(range(1, 7)), list(range(1, 9))]
    assert frame.train_loss.notna().all()
    checked = frame[frame.member == 1].set_index("epoch").val_loss
    expected = pd.Series({1: NAN, 2: 3, 3: NAN, 4: 2, 5: NAN, 6: 2, 7: NAN, 8: 2})
    assert np.array_equal(checked, expected, equal_nan=True)


def test_an_iterator_gives_each_epochs_rows(make_split, training_settings):
    split = make_split(40, 6)
    by_epoch = Training(split, split, Architecture((4,)), [BASE, DIVERGING], [1, 1], training_settings)
    told = pd.concat(by_epoch).sort_values(["member", "epoch"], ignore_index=True)
    pd.testing.assert_frame_equal(told, by_epoch.result().history, check_exact=True)
    assert next(by_epoch, None) is None


def test_between_epochs_nothing_of_the_training_is_in_force(make_split, training_settings):
    """Inference mode and the number of threads are the caller's."""
    before, split = torch.get_num_threads(), make_split(40, 6)
    for _ in Training(split, split, Architecture((4,)), BASE, settings=training_settings):
        assert not torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == before


def test_a_newcomers_call(make_split):
    """One set of hyperparameters, no seeds: a member of run seed 0, with the defaults of the field."""
    split = make_split(40, 6)
    settings = TrainingSettings(batch_size=16, max_epochs=3)
    one = training.train(split, split, Architecture((4,)), Hyperparameters(), settings=settings)
    other = training.train(split, split, Architecture((4,)), [Hyperparameters(lr=1e-3)], [0], settings)
    assert one.val_loss.tobytes() == other.val_loss.tobytes()
    assert one.model(0)(split.images).argmax(1).eq(split.labels).float().mean() == pytest.approx(one.score(split)[1][0])


# ---- the two numbers


def test_evaluate_equals_nn_sequential(make_split, training_settings):
    train, test = make_split(200, 16), make_split(777, 16, seed=1)
    hyperparameters = vary(3, np.random.default_rng(0))
    trained = training.train(train, train, Architecture((8, 1, 6)), hyperparameters, [1, 1, 2], training_settings)
    np.testing.assert_array_equal(trained.score(train)[0], trained.val_loss)  # on what it was validated with
    losses, accuracies = trained.score(test)
    for i, h in enumerate(hyperparameters):
        layers = to_sequential(trained.architecture, [stack[i] for stack in trained.weights], h).eval()
        with torch.no_grad():
            logits = layers(test.images)
        assert losses[i] == pytest.approx(float(nn.functional.cross_entropy(logits.double(), test.labels)), rel=1e-5)
        assert accuracies[i] == pytest.approx(float((logits.argmax(1) == test.labels).double().mean()), abs=1e-12)


@pytest.mark.parametrize("flushed", [False, True])
def test_torch_settings_are_restored(make_split, training_settings, flushed):
    def numerics():
        asked = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
        return *asked, torch.get_num_threads(), torch.is_inference_mode_enabled(), bool(torch.tensor(1e-40) * 1)

    try:
        torch.set_float32_matmul_precision("high")
        torch.set_flush_denormal(flushed)
        before, split = numerics(), make_split(40, 6)
        assert before[-1] != flushed
        settings = training_settings.model_copy(update={"deterministic": True})
        with training_mode(settings, torch.device("cpu")):
            assert numerics() == ("highest", True, 1, True, False)
        training.train(split, split, Architecture((4,)), [BASE], [1], settings)
        assert numerics() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
def test_cuda_is_near_the_cpu(make_split, training_settings, deterministic):
    train, validation = make_split(2000, 16), make_split(1000, 16, seed=1)
    settings = training_settings.model_copy(update={"batch_size": 600, "deterministic": deterministic})
    hyperparameters, seeds = [*vary(4, np.random.default_rng(0)), DIVERGING], [1, 1, 2, 3, 1]
    on_cpu, on_cuda = (
        training.train(
            train, validation, Architecture((32, 16)), hyperparameters, seeds, settings, device=torch.device(name)
        )
        for name in ("cpu", "cuda")
    )
    assert on_cuda.weights[0].device.type == "cuda"
    assert on_cuda.status == on_cpu.status == [COMPLETED] * 4 + [DIVERGED]
    assert np.allclose(on_cuda.val_loss, on_cpu.val_loss, rtol=0.02, equal_nan=True)
    assert np.allclose(on_cuda.score(validation)[0], on_cuda.val_loss, rtol=1e-5, equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_cuda_repeats_bit_for_bit_when_deterministic(make_split, training_settings):
    split = make_split(2000, 16)
    settings = training_settings.model_copy(update={"batch_size": 600, "deterministic": True})
    hyperparameters, seeds = vary(8, np.random.default_rng(0)), [1, 1, 2, 3, 1, 4, 4, 5]
    one, other = (
        training.train(split, split, Architecture((32, 16)), hyperparameters, seeds, settings, torch.device("cuda"))
        for _ in range(2)
    )
    assert all(torch.equal(*pair) for pair in zip(one.weights, other.weights, strict=True))
    pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("members", [1, 5])
def test_cuda_has_the_cpus_losses_epoch_by_epoch(make_split, training_settings, members):
    """Graphs, fused kernels and a smaller last batch: the same training but for rounding."""
    split = make_split(1000, 16)
    settings = training_settings.model_copy(update={"batch_size": 300, "max_epochs": 4, "patience": 4})
    hyperparameters = vary(members, np.random.default_rng(1))
    cpu, cuda = (
        training.train(
            split, split, Architecture((24, 12)), hyperparameters, [7] * members, settings, torch.device(name)
        )
        for name in ("cpu", "cuda")
    )
    for name in ("train_loss", "val_loss"):
        assert np.allclose(cuda.history[name], cpu.history[name], rtol=1e-4, equal_nan=True)
