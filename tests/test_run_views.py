"""Single trainings of a run, closely: its networks, its views, the explorer over them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import picture
from IPython.display import HTML, Markdown
from ipywidgets import VBox
from matplotlib.figure import Figure
from study import ARCHITECTURES, evidence_of, kinds, run_all, settings_of, study_of
from torch import nn

from mlp_lib.core.data import load_dataset
from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import Architecture
from mlp_lib.figures import images as image_figures
from mlp_lib.lab import run_explorer
from mlp_lib.lab.run_explorer import Choice, RunViews
from mlp_lib.reports.analysis import Evidence
from mlp_lib.run import meta
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, read_yaml, write_yaml
from mlp_lib.study.checkpoints import load_model, predict

OWN_DRAWS = {"same_trials_for_all_architectures": False}  # so that two architectures choose differently


def make_run(run_dir: Path) -> Path:
    """The tables of 01 to 03 with checkpoints, and the record that the notebooks would have left."""
    run_all(run_dir, **OWN_DRAWS)
    evidence_of(run_dir, **OWN_DRAWS)  # stores the parameters
    digest = study_of(run_dir, "search", **OWN_DRAWS).digest
    write_yaml(RunFiles(run_dir).meta, meta.read_meta(RunFiles(run_dir)) | {"data_digest": digest})
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def evidence(run_dir: Path) -> Evidence:
    return evidence_of(run_dir, **OWN_DRAWS)


@pytest.fixture
def views(evidence: Evidence) -> RunViews:
    return RunViews(evidence)


@pytest.fixture
def moved(run_dir: Path) -> Iterator[Path]:
    """A checkpoint that is put aside, and back."""
    path = RunFiles(run_dir).architecture(Architecture.from_name("mlp_4")).model(1)
    content = path.read_bytes()
    path.unlink()
    yield path
    path.write_bytes(content)


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_checkpoint_is_an_ordinary_network_with_the_result_it_says(run_dir: Path, name: str, seed: int) -> None:
    """By hand, as config.yaml says what it is of, and as load_model loads it."""
    folder = run_dir / "search" / name / "retrain" / f"seed_{seed}"
    config = read_yaml(folder / "config.yaml")
    hyperparameters, width = config["hyperparameters"], 64
    layers: list[nn.Module] = []
    for size in config["architecture"]:
        layers += [nn.Linear(width, size), nn.LeakyReLU(hyperparameters["leaky_relu_alpha"])]
        layers += [nn.Dropout(hyperparameters["dropout"])]
        width = size
    network = nn.Sequential(*layers, nn.Linear(width, 10))
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    loaded = load_model(run_dir, name, seed)
    assert str(loaded) == str(network)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    test = load_dataset(settings_of("search"), torch.device("cpu")).test
    logits = network.eval()(test.images)
    assert torch.equal(loaded(test.images), logits)
    loss = nn.functional.cross_entropy(logits, test.labels.long()).item()
    accuracy = (logits.argmax(1) == test.labels).double().mean().item()
    assert loss == pytest.approx(config["result"]["test_loss"], abs=1e-6)
    assert accuracy == pytest.approx(config["result"]["test_accuracy"], abs=1e-9)
    assert config["seed"] == seed
    assert predict(loaded, test.images).sum(1) == pytest.approx(np.ones(len(test.labels)), abs=1e-5)


def test_a_missing_checkpoint_says_why(run_dir: Path, moved: Path) -> None:
    with pytest.raises(RunDirectoryError, match="save_checkpoints"):
        load_model(run_dir, "mlp_4", 1)


def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(run_dir: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"mlp_5/retrain/seed_1/model.pt is missing; there is mlp_3x2, mlp_4: "):
        load_model(run_dir, "mlp_5", 1)
    with pytest.raises(RunDirectoryError, match="is missing; there is seed 1, seed 2: "):
        load_model(run_dir, "mlp_4", 9)


def test_a_wrong_name_is_said() -> None:
    for name in ("mlp_wide", "12x"):
        with pytest.raises(SettingsError, match="a name like mlp_256x128"):
            load_model("executed/example", name, 1)


def test_a_run_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"{ROOT}/executed/example/search/mlp_64/.*save_checkpoints"):
        load_model("executed/example", "mlp_64", 99)


DAMAGED = [b"", b"nothing of torch", b"PK\x03\x04 cut short", [], {"a": torch.zeros(2)}, nn.Linear(3, 3).state_dict()]


@pytest.mark.parametrize("content", [*DAMAGED, nn.Linear(3, 3)], ids=[*range(len(DAMAGED)), "it would run code"])
def test_what_is_no_checkpoint_of_the_network_is_refused(run_dir: Path, moved: Path, content: Any) -> None:
    moved.write_bytes(content) if isinstance(content, bytes) else torch.save(content, moved)
    with pytest.raises(RunDirectoryError, match="is damaged"):
        load_model(run_dir, "mlp_4", 1)


def test_a_config_that_says_nothing_of_its_checkpoint_is_refused(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run/search/mlp_4/retrain/seed_1/config.yaml").write_text("seed: 1\n")
    with pytest.raises(RunDirectoryError, match=r"config.yaml is damaged .'hyperparameters'"):
        load_model(tmp_path / "run", "mlp_4", 1)


# --- views ----------------------------------------------------------------------------------------------------------


def test_the_typical_choice_is_the_best_architecture_and_the_costliest_pair(views: RunViews) -> None:
    choice = views.typical()
    stats = pd.read_csv(views.files.stats).set_index("architecture")
    assert choice.architecture == stats["mean"].idxmin()
    best = read_yaml(views.files.search / choice.architecture / "best_hyperparameters.yaml")
    assert choice.trial == best["trial"]
    effects = views.effects.set_index(["target", "source"])["quotient"]
    assert (choice.target, choice.source) == effects.idxmax()


def test_the_views_show_what_is_on_disk(views: RunViews) -> None:
    choice = views.typical()
    assert isinstance(views.curve(choice), Figure)
    assert isinstance(views.mistakes(choice), Figure)
    best = read_yaml(views.files.search / choice.architecture / "best_hyperparameters.yaml")
    numbers = views.numbers(choice)
    assert list(numbers) == [f"trial {choice.trial} (chosen)"]
    assert float(numbers.loc["lr"].iloc[0]) == pytest.approx(best["hyperparameters"]["lr"], rel=1e-3)
    other = next(t for t in views.trials(choice.architecture)["trial"] if t != choice.trial)
    both = views.numbers(Choice(choice.architecture, other, 1, None, None))
    assert list(both) == [f"trial {choice.trial} (chosen)", f"trial {other}"]
    unknown = Choice("mlp_9", choice.trial, 1, None, None)
    assert views.curve(unknown) == "No learning curve of this architecture is on disk."
    row = views.effects.set_index(["target", "source"]).loc[(choice.target, choice.source)]
    said = views.regret(choice)
    for number in (f"{row['quotient']:.3f} times", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['n']:.0f} seeds"):
        assert number in said
    own = Choice(choice.architecture, choice.trial, 1, choice.target, choice.target)
    assert "own hyperparameters" in views.regret(own)


def test_a_run_that_has_only_begun_says_what_is_missing(tmp_path: Path) -> None:
    views = RunViews(evidence_of(tmp_path))
    choice = views.typical()
    assert choice == Choice(ARCHITECTURES[0], None, None, None, None)
    assert "No trial" in views.curve(choice)
    assert views.numbers(choice).empty
    assert "02_retrain" in views.mistakes(choice)
    assert "03_transfer" in views.regret(choice)
    assert len(run_explorer.explorer(views).children) == 5


def test_without_checkpoints_or_data_the_views_say_so(run_dir: Path, moved: Path, views: RunViews) -> None:
    said = views.mistakes(Choice("mlp_4", 0, 1, None, None))
    assert "No confusion matrix" in said
    assert "save_checkpoints" in said
    assert str(run_dir) not in said


def test_other_data_than_the_runs_is_refused(run_dir: Path, views: RunViews) -> None:
    record = read_yaml(views.files.meta)
    write_yaml(views.files.meta, record | {"data_digest": "0"})
    try:
        assert "not the data that this run was made with" in views.mistakes(Choice("mlp_4", 0, 1, None, None))
    finally:
        write_yaml(views.files.meta, record)


def test_the_mistakes_are_counted_and_the_surest_come_first() -> None:
    images, labels = np.zeros((5, 4)), np.array([0, 1, 2, 1, 0])
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0, 0.2], [0, 1, 0], [0, 0.3, 0.7]])
    figure = image_figures.mistakes(images, labels, probabilities)
    left, right = figure.subfigs
    counts = [text.get_text() for text in left.axes[0].texts]
    assert counts == ["1", "", "1", "1", "1", "", "1", "", ""]
    assert right._suptitle.get_text().startswith("3 of 5 test images")
    assert [ax.get_title() for ax in right.axes if ax.get_title()] == ["2, 0", "0, 2", "1, 0"]


# --- the explorer ---------------------------------------------------------------------------------------------------


def test_the_explorer_follows_its_drop_downs(views: RunViews, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its outputs display, where no kernel takes it from them."""
    shown: list = []
    monkeypatch.setattr(run_explorer, "display", shown.append)
    top, _, pair, *_ = run_explorer.explorer(views).children
    (architecture, trial, seed), (source, target) = top.children, pair.children
    first, before = views.typical(), kinds(shown)
    assert (architecture.value, trial.value.trial, seed.value.seed) == (first.architecture, first.trial, first.seed)
    assert before == [Figure, HTML, Markdown, Figure]
    curve, _, _, mistakes = shown
    shown.clear()
    other = next(name for name in ARCHITECTURES if name != architecture.value)
    architecture.value = other
    assert trial.value == Choice(other, views.trials(other)["trial"].iloc[0])
    assert kinds(shown) == [Figure, HTML, Figure]
    assert picture(shown[0]) != picture(curve)
    assert picture(shown[2]) != picture(mistakes)
    shown.clear()
    trial.index = len(trial.options) - 1
    assert f"trial {views.trials(other)['trial'].iloc[-1]}" in shown[1].data
    source.value = target.value = other
    assert "own hyperparameters" in shown[-1].data


@pytest.mark.parametrize("interactive", [False, True])
def test_a_saved_page_holds_the_views_as_pictures_and_tables(
    interactive: bool, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was run by hand, whose widgets are dead."""
    shown: list = []
    monkeypatch.setattr(run_explorer, "display", shown.append)
    monkeypatch.setattr(run_explorer, "is_interactive", lambda: interactive)
    assert run_explorer.show(evidence) is None
    assert any(isinstance(output, VBox) for output in shown) == interactive
    assert kinds(shown[-4:]) == [Figure, HTML, Figure, Markdown]
    assert "Confusion matrix" in shown[-2].get_label()
