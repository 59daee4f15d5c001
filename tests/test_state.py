"""A training goes on from its state to the same bits, alone or with others; what doesn't fit is trained in halves."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import default_collate

from mlp_lib.core.data import Split
from mlp_lib.core.training import State, Trained, Training
from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings
from mlp_lib.run.files import WorkFiles
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers import units
from mlp_lib.workers.units import Keeper, Unit, fit_in_memory, read_state

ARCHITECTURE = Architecture((7, 5))
BASE = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 1e-3, "dropout": 0.2, "leaky_relu_alpha": 0.05}
# one that goes on, one that stops early, one that diverges, one more that goes on
TRIALS = [Hyperparameters(lr=lr, **BASE | {"weight_decay": d}) for lr, d in ((3e-3, 0), (30, 0), (100, 1e3), (1e-2, 0))]
SEEDS = [3, 3, 4, 4]


def equal(a: Trained, b: Trained) -> None:
    assert a.status == b.status
    assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    for name in ("best_epoch", "epochs_trained", "val_loss", "val_accuracy"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)


def run(training: Training, states: list[State] | None = None) -> Trained:
    """The training to its end; its state after each epoch goes into `states`."""
    for _ in training:
        if states is not None:
            states.append(training.state())
    return training.result()


@pytest.fixture
def splits(make_split: Callable[..., Split]) -> tuple[Split, Split]:
    return make_split(100, 6), make_split(40, 6, seed=1)


@pytest.fixture
def settings(training_settings: TrainingSettings) -> TrainingSettings:
    return training_settings.model_copy(update={"max_epochs": 13, "patience": 2})


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_from_every_epoch_a_training_goes_on_to_the_same_bits(
    splits: Any, settings: TrainingSettings, precision: str, tmp_path: Path
) -> None:
    """From a state as a user saves it."""
    states: list[State] = []
    arguments = (*splits, ARCHITECTURE, TRIALS, SEEDS, settings.model_copy(update={"matmul_precision": precision}))
    whole = run(Training(*arguments), states)
    assert len(set(whole.epochs_trained)) > 2, "some members should stop before the others"
    assert "diverged" in whole.status
    assert [s["history"].shape[1] for s in states] == list(range(1, 14))
    for start in states:
        torch.save(start, tmp_path / "state.pt")
        equal(run(Training(*arguments, state=torch.load(tmp_path / "state.pt", weights_only=True))), whole)


def test_members_go_on_alone_or_in_other_company(splits: Any, settings: TrainingSettings) -> None:
    states: list[State] = []
    arguments = (*splits, ARCHITECTURE)
    whole = run(Training(*arguments, TRIALS, SEEDS, settings), states)
    one_by_one = [{name: values[i] for name, values in states[6].items()} for i in range(4)]
    for members in ([0], [1], [3, 0], [2, 1]):
        joined = default_collate([one_by_one[i] for i in members])
        chosen = [TRIALS[i] for i in members], [SEEDS[i] for i in members]
        part = run(Training(*arguments, *chosen, settings, state=joined))
        assert part.val_loss.tobytes() == whole.val_loss[members].tobytes()
        assert all(torch.equal(w, v[members]) for w, v in zip(part.weights, whole.weights, strict=True))


def test_a_state_reads_back_to_the_bit(tmp_path: Path, splits: Any, settings: TrainingSettings) -> None:
    training = Training(*splits, ARCHITECTURE, TRIALS, SEEDS, settings)
    paths = [tmp_path / name for name in "abcd"]
    next(training)
    Keeper(training, paths).write()
    made, joined = training.state(), default_collate([read_state(path) for path in paths])
    assert joined.keys() == made.keys()
    assert all(joined[name].numpy().tobytes() == made[name].numpy().tobytes() for name in made)
    assert sorted(tmp_path.iterdir()) == paths


def test_a_state_is_written_seldom(tmp_path: Path, splits: Any, settings: TrainingSettings) -> None:
    training = Training(*splits, ARCHITECTURE, TRIALS, SEEDS, settings)
    keeper = Keeper(training, [tmp_path / name for name in "abcd"])
    next(training)
    keeper.due = math.inf
    keeper.keep()
    assert not list(tmp_path.iterdir())
    keeper.due = 0
    keeper.keep()
    assert len(list(tmp_path.iterdir())) == len(SEEDS)
    assert keeper.due > time.monotonic()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"half a file", b"\x93NUMPY\x01\x00"])
def test_a_damaged_state_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert read_state(tmp_path / "a.npz") is None
    assert read_state(tmp_path / "missing.npz") is None


def test_a_state_never_runs_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    np.savez(tmp_path / "a.npz", epoch=np.array([Bomb()], dtype=object))
    assert read_state(tmp_path / "a.npz") is None
    assert not (tmp_path / "ran").exists()


# --- units ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path: Path) -> Callable[[Unit], list[tuple[Unit, units.Result]]]:
    """What a worker does, on digits in this process, its states kept below tmp_path."""
    from study import in_process, settings_of

    settings = settings_of("search", max_epochs=8)
    digest = in_process(settings).load(settings).digest
    job = units.Job(settings, digest, "test", WorkFiles(tmp_path), keep_weights=True)

    return lambda unit: units.train_unit(unit, 0, job)


UNIT = Unit([Wanted(ARCHITECTURE, *one, label) for label, one in enumerate(zip(TRIALS, SEEDS, strict=True))])


def by_member(parts: list[tuple[Unit, units.Result]]) -> dict[int, tuple[dict, dict, list[bytes]]]:
    """Rows, history and weights of each trial, whichever part it is in."""
    found = {}
    for unit, result in parts:
        for i, label in enumerate(unit.trials):
            rows = {name: values[i] for name, values in result.rows.items()}
            own = result.history["member"] == i
            history = {name: values[own].tobytes() for name, values in result.history.items() if name != "member"}
            found[label] = rows, history, [weight[i].tobytes() for weight in result.weights]
    return found


def same(a: list[tuple[Unit, units.Result]], b: list[tuple[Unit, units.Result]]) -> None:
    assert len(b) == 1
    np.testing.assert_equal(by_member(a), by_member(b))


def test_a_unit_cut_otherwise_goes_on_from_states_of_different_epochs(
    train: Callable[[Unit], list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units are stopped, one early and one late; the unit of all four then ends as if nothing had happened."""
    whole = train(UNIT)

    class Stop(Exception):
        pass

    def stop_at(epoch: int) -> type:
        class Stopping(Keeper):
            def keep(self) -> None:
                self.write()
                if self.training.epoch == epoch:
                    raise Stop

        return Stopping

    for half, epoch in ((slice(2), 2), (slice(2, 4), 5)):
        monkeypatch.setattr(units, "Keeper", stop_at(epoch))
        with pytest.raises(Stop):
            train(Unit(UNIT.members[half]))
    monkeypatch.undo()
    assert len(list(tmp_path.glob("state_*.npz"))) == 4
    before = int((tmp_path / "epochs_0").read_text())
    same(train(UNIT), whole)
    assert int((tmp_path / "epochs_0").read_text()) < sum(whole[0][1].rows["epochs_trained"])
    assert before > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=repr,
)
def test_what_does_not_fit_in_memory_is_trained_in_halves(
    train: Callable[[Unit], list], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = train(UNIT)
    sizes = []

    def small(*arguments: Any) -> Training:
        sizes.append(len(arguments[3]))
        if sizes[-1] > 1:
            raise error
        return Training(*arguments)

    monkeypatch.setattr(units, "Training", small)
    same(train(UNIT), whole)
    assert sizes == [4, 2, 1, 1, 1, 1]


def test_another_error_is_no_lack_of_memory() -> None:
    def fail(part: Unit) -> Any:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit_in_memory(fail, UNIT)
