"""Training by hand: by a line of code or between clicks, stopped between epochs, as `train` would have trained it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from test_notebooks import FOLDER

from mlp_lib.core import training
from mlp_lib.core.data import load_dataset
from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.values import GUESSING, Architecture, Hyperparameters
from mlp_lib.lab import explore, panel
from mlp_lib.lab.explore import FAILED, FIRST, STOPPED, Explorer, find_stored
from mlp_lib.lab.panel import Panel
from mlp_lib.run.files import ROOT
from mlp_lib.run.parameters import ExploreSettings

VALUES: dict[str, Any] = {"dataset": "digits", "device": "cpu", "preload": "cpu", "validation_size": None}
VALUES |= {"batch_size": 256, "max_epochs": 12, "patience": 5}
ENDLESS = {"max_epochs": 10**9, "patience": 10**9}
SLOW_S = 60
NOTEBOOK = FOLDER / "00_explore.ipynb"


def settings(**changes: Any) -> ExploreSettings:
    return ExploreSettings(**VALUES | changes)


@pytest.fixture
def explorer() -> Iterator[Explorer]:
    explorer = Explorer(settings())
    yield explorer
    explorer.stop()


# --- trainings ------------------------------------------------------------------------------------------------------


def test_an_attempt_is_what_train_makes(explorer: Explorer) -> None:
    attempt = explorer.begin((8, 4), lr=1e-2, seed=3)
    explorer.wait()
    dataset = load_dataset(settings(), torch.device("cpu"))
    chosen = Hyperparameters(**FIRST.model_dump() | {"lr": 1e-2})
    trained = training.train(dataset.train, dataset.validation, Architecture((8, 4)), [chosen], [3], settings())
    assert [row["train_loss"] for row in attempt.history] == trained.history["train_loss"].tolist()
    checks = [row["val_loss"] for row in attempt.history if np.isfinite(row["val_loss"])]
    assert checks == trained.history["val_loss"].dropna().tolist()
    assert attempt.status == "completed"
    assert attempt.best()["val_loss"] == trained.val_loss[0]
    assert attempt.best()["epoch"] == trained.best_epoch[0]


def test_a_stopped_attempt_ends_with_its_epoch_and_keeps_its_curve(explorer: Explorer) -> None:
    """Whatever else the loop has to do gets its turn while it trains."""

    async def stop_after_some() -> None:
        following = asyncio.create_task(explorer.follow())
        while len(explorer.attempts[0].history) < 3:
            await asyncio.sleep(0)
        explorer.stop()
        reached = len(explorer.attempts[0].history)
        await following
        assert len(explorer.attempts[0].history) == reached

    attempt = explorer.begin((512, 512), batch_size=1000, **ENDLESS)
    asyncio.run(asyncio.wait_for(stop_after_some(), SLOW_S))
    assert attempt.status == STOPPED
    assert not explorer.running
    assert explorer.table()["epochs"].tolist() == [len(attempt.history)]
    assert explorer.begin((4,)).number == 2


def test_a_stopped_attempt_does_not_end_the_next(explorer: Explorer) -> None:
    async def stop_and_begin() -> None:
        first = explorer.begin(**ENDLESS)
        following = asyncio.create_task(explorer.follow())
        while not first.history:
            await asyncio.sleep(0)
        explorer.stop()
        second = explorer.begin((4,))
        await following
        assert second.running
        await explorer.follow()

    asyncio.run(asyncio.wait_for(stop_and_begin(), SLOW_S))
    assert [attempt.status for attempt in explorer.attempts] == [STOPPED, "completed"]


def test_an_attempt_stopped_before_its_first_turn_lets_others_train(explorer: Explorer) -> None:
    explorer.begin(**ENDLESS)
    explorer.stop()
    explorer.begin((4,))
    explorer.wait()
    assert explorer.table()["status"].tolist() == [STOPPED, "completed"]


def test_training_leaves_the_callers_numerics_alone(explorer: Explorer) -> None:
    """Between two epochs, too, where other cells compute."""
    before = torch.get_num_threads(), torch.is_inference_mode_enabled()
    seen: list[tuple] = []

    async def look() -> None:
        following = asyncio.create_task(explorer.follow())
        while not following.done():
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
            await asyncio.sleep(0)

    attempt = explorer.begin((64,))
    asyncio.run(look())
    assert attempt.status == "completed"
    assert set(seen) == {before}


def test_one_attempt_at_a_time(explorer: Explorer) -> None:
    explorer.begin(**ENDLESS)
    with pytest.raises(SettingsError, match="attempt 1 is still training"):
        explorer.begin()
    assert len(explorer.attempts) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": -1.0}, "lr = -1.0: should be a number above 0"),
        ({"architecture": ()}, "architecture: list"),
        ({"architecture": (4, 0)}, "architecture: list"),
        ({"dataset": "minst"}, "dataset = 'minst'"),
        ({"batchsize": 3}, "did you mean batch_size"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_tried(explorer: Explorer, changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said.replace("(", r"\(")):
        explorer.begin(**changes)
    assert explorer.attempts == []
    assert not explorer.running


def test_another_split_is_trained_on(explorer: Explorer) -> None:
    losses = []
    for changes in ({}, {"split_seed": 1}, {"validation_size": 500}, {}):
        attempt = explorer.begin((4,), max_epochs=2, val_interval=1, **changes)
        explorer.wait()
        losses.append(attempt.best()["val_loss"])
    assert losses[0] == losses[3]
    assert len({*losses}) == 3


def test_data_that_is_missing_fails_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.delenv("MLP_DATA_ROOT", raising=False)
    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", refuse)
    explorer = Explorer(settings(dataset="mnist", data_root=str(tmp_path)))
    attempt = explorer.begin()
    explorer.wait()
    assert attempt.status == FAILED
    assert "mnist is incomplete in" in explorer.say()
    explorer.begin(dataset="digits")
    explorer.wait()
    assert explorer.table()["status"].tolist() == [FAILED, "completed"]


def test_an_interrupt_stops_the_training_and_leaves_things_usable(explorer: Explorer) -> None:
    attempt = explorer.begin(**ENDLESS)
    shown = []

    def interrupted() -> None:
        shown.append(explorer.say())
        if attempt.history and attempt.running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explorer.wait(interrupted)
    assert attempt.status == STOPPED
    assert "stopped" in shown[-1]
    explorer.begin()
    explorer.wait()
    assert explorer.attempts[-1].status == "completed"


def test_a_line_of_code_shows_the_curves_to_the_end(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Handle:
        update = staticmethod(shown.append)

    monkeypatch.setattr(explore, "display", lambda output, display_id: shown.append(output) or Handle)
    explorer.train((8,), lr=1e-2)
    assert all(isinstance(output, Figure) for output in shown)
    assert "completed, epoch 12 of at most 12" in shown[-1].get_label()
    with pytest.raises(MlpError):
        explorer.train((8,), seed=-1)


def test_a_diverged_attempt_is_shown_all_the_same(explorer: Explorer) -> None:
    explorer.begin((8,), lr=1e3, weight_decay=1e3)
    explorer.wait()
    explorer.begin((8,), lr=1e-9)
    explorer.wait()
    assert explorer.table()["status"].tolist() == ["diverged", "not_trained"]
    assert explorer.attempts[-1].best()["val_loss"] >= GUESSING
    assert explorer.figure()


# --- stored runs ----------------------------------------------------------------------------------------------------


def test_the_stored_runs_are_those_with_the_same_data() -> None:
    found = find_stored(settings(), ROOT / "executed")
    assert {stored.run for stored in found} >= {"example"}
    assert not [s for s in find_stored(settings(dataset="mnist"), ROOT / "executed") if s.run == "example"]
    assert not [s for s in find_stored(settings(split_seed=1), ROOT / "executed") if s.run == "example"]
    figure = Explorer(settings()).figure(found[0])
    assert [line.get_label() for line in figure.axes[0].lines] == [str(found[0])]


def test_a_damaged_run_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bad" / "search").mkdir(parents=True)
    for text in ("", "parameters: {}\nphases: {}", "parameters: [", "parameters: {dataset: 3}\nphases: {}"):
        (tmp_path / "bad" / "search" / "search_meta.yaml").write_text(text)
        assert find_stored(settings(), tmp_path) == []


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_a_wrong_parameter_is_named_with_the_nearest_right_one() -> None:
    for name, nearest in (("bach_size", "batch_size"), ("run_root", "runs_root")):
        with pytest.raises(SettingsError, match=f"did you mean {nearest}"):
            explore.start(VALUES | {name: 3, "In": [f"# Parameters\n{name} = 3", ""]})


def test_run_headless_it_leaves_figures_and_a_table(tmp_path: Path) -> None:
    """From another working directory, and no widget that would be dead in what is kept."""
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(str(NOTEBOOK), str(out), {"max_epochs": 8}, cwd=str(tmp_path), progress_bar=False)
    kinds = [
        kind for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", []) for kind in o.get("data", ())
    ]
    assert kinds.count("image/png") == 2
    assert kinds[-2:] == ["text/html", "text/plain"]
    assert "application/vnd.jupyter.widget-view+json" not in kinds


# --- the panel ------------------------------------------------------------------------------------------------------


def test_the_panel_trains_what_its_sliders_say_and_stops(explorer: Explorer) -> None:
    async def press() -> None:
        panel = Panel(explorer)
        panel.sliders["lr"].value = 0.01
        panel.architecture.value = "16 x 8"
        panel.max_epochs.value = 10**9
        explorer.settings = settings(patience=10**9)
        before = panel.curves.value
        panel.train.click()
        assert panel.train.disabled
        assert not panel.stop.disabled
        while len(explorer.attempts[0].history) < 5 or panel.curves.value == before:
            await asyncio.sleep(0.01)
        grown = panel.curves.value
        panel.stop.click()
        assert panel.stop.disabled
        while panel.train.disabled:
            await asyncio.sleep(0.01)
        assert grown != before
        assert "stopped" in panel.said.value
        assert "stopped" in panel.table.value

    asyncio.run(asyncio.wait_for(press(), SLOW_S))
    attempt = explorer.attempts[0]
    assert attempt.architecture == Architecture((16, 8))
    assert attempt.hyperparameters.lr == pytest.approx(0.01)
    assert attempt.status == STOPPED


@pytest.mark.parametrize("text", ["", "12y", "12x", "0", "3.5", "-4", "x"])
def test_a_wrong_architecture_is_said_in_the_panel(explorer: Explorer, text: str) -> None:
    panel = Panel(explorer)
    panel.architecture.value = text
    panel.train.click()
    assert "architecture" in panel.said.value
    assert not panel.train.disabled
    assert explorer.attempts == []


def test_the_panel_takes_a_stored_runs_values(explorer: Explorer) -> None:
    panel = Panel(explorer)
    assert panel.take.disabled
    plain = panel.curves.value
    stored = next(value for _, value in panel.stored.options[1:] if value.run == "example")
    panel.stored.value = stored
    assert panel.curves.value != plain
    panel.take.click()
    values = {name: slider.value for name, slider in panel.sliders.items()}
    assert values == pytest.approx(stored.hyperparameters.model_dump())
    assert panel.architecture.value == stored.architecture.name.removeprefix("mlp_")
    assert panel.max_epochs.value == stored.training.max_epochs


@pytest.mark.parametrize(("name", "value"), [("lr", 2.0), ("dropout", 0.95), ("beta1", 0.0), ("eps", 1e-12)])
def test_a_slider_makes_room_for_a_value(explorer: Explorer, name: str, value: float) -> None:
    slider = Panel(explorer).sliders[name]
    panel._set(slider, value)
    assert slider.value == pytest.approx(value)


def test_where_nobody_can_press_there_is_a_note(explorer: Explorer) -> None:
    assert isinstance(panel.show(explorer), Markdown)


def test_the_table_of_nothing_is_empty(explorer: Explorer) -> None:
    assert explorer.table().empty
    assert explorer.say() == "Nothing was tried yet."
    assert np.array_equal(explorer.figure().axes[0].lines, [])
