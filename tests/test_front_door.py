"""The front door as a newcomer uses it: from an empty folder, in a process of its own."""

import os
import pydoc
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mlp_lib
from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import ROOT

SHOWN = textwrap.dedent(mlp_lib.__doc__.split("\n\n")[2])  # the lines that help(mlp_lib) shows
SHORT = "import mlp_lib\nsettings = mlp_lib.TrainingSettings(batch_size=256, max_epochs=6, val_interval=2)\n"
MNIST = Path(os.environ.get("MLP_DATA_ROOT", ROOT / "data")) / "MNIST" / "raw"


def run(code: str, folder: Path) -> str:
    """What the code prints, run in the folder; MLP_DATA_ROOT, if it is set, is made independent of that."""
    paths = {"PYTHONPATH": str(ROOT)}
    if "MLP_DATA_ROOT" in os.environ:
        paths["MLP_DATA_ROOT"] = str(Path(os.environ["MLP_DATA_ROOT"]).resolve())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name", ["digits", pytest.param("mnist", marks=pytest.mark.skipif(not MNIST.exists(), reason="no MNIST at hand"))]
)
def test_the_lines_that_help_shows_do_what_they_say(tmp_path: Path, name: str) -> None:
    """Run as they stand, but for the data set's name and, since a thousand epochs take minutes, the training's end."""
    assert 'load("mnist")' in SHOWN
    lines = SHOWN.replace('load("mnist")', f"load({name!r})").replace(", sweep)", ", sweep, settings=settings)")
    assert "settings=settings" in lines
    code = (
        SHORT.replace("max_epochs=6", "max_epochs=2" if name == "mnist" else "max_epochs=6")
        + lines
        + textwrap.dedent("""
        import sys, torch
        losses, accuracies = trained.score(data.test)
        luck = torch.random.get_rng_state()
        model = trained.model(1)
        assert torch.equal(luck, torch.random.get_rng_state())  # the user's own
        others = data.train.images.is_cuda or "torchvision" in sys.modules  # which load these for themselves
        assert others or not {"torch._dynamo", "sympy"} & {*sys.modules}  # which take a second
        assert type(model) is torch.nn.Sequential and not model.training
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        own = torch.nn.functional.cross_entropy(model(data.test.images.cpu()), data.test.labels.cpu()).item()
        assert abs(own - losses[1]) < 1e-5, (own, losses)
        assert losses.shape == accuracies.shape == trained.val_loss.shape == (3,)
        assert accuracies[1:].min() > 0.3, accuracies
        assert set(trained.history["member"]) == {0, 1, 2}
        """)
    )
    run(code, tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_a_training_goes_on_from_a_saved_state_in_another_process(tmp_path: Path) -> None:
    start = SHORT + textwrap.dedent("""
        import sys, torch
        data = mlp_lib.load("digits")
        given = data.train, data.validation, mlp_lib.Architecture((16, 8))
        sweep = [mlp_lib.Hyperparameters(lr=lr, dropout=0.2) for lr in (1e-3, 1e-2)]
        """)
    save = start + textwrap.dedent("""
        training = mlp_lib.Training(*given, sweep, seeds=[1, 2], settings=settings)
        for rows in training:
            if rows["epoch"].iloc[0] == 3:
                break
        torch.save(training.state(), "state.pt")
        """)
    resume = start + textwrap.dedent("""
        training = mlp_lib.Training(
            *given, sweep, seeds=[1, 2], settings=settings, state=torch.load("state.pt", weights_only=True)
        )
        epochs = [int(rows["epoch"].iloc[0]) for rows in training]
        resumed, whole = training.result(), mlp_lib.train(*given, sweep, seeds=[1, 2], settings=settings)
        assert resumed.history.equals(whole.history)
        assert all(torch.equal(a, b) for a, b in zip(resumed.weights, whole.weights, strict=True))
        print(epochs)
        """)
    run(save, tmp_path)
    assert run(resume, tmp_path).split() == ["[4,", "5,", "6]"]


def test_the_door_opens_without_torch_and_says_its_names(tmp_path: Path) -> None:
    """What reads tables alone does not wait for torch."""
    printed = run("import sys, mlp_lib; mlp_lib.Hyperparameters(lr=1e-2); print('torch' in sys.modules)", tmp_path)
    assert printed.strip() == "False"
    assert set(mlp_lib.__all__) <= set(dir(mlp_lib))
    for name in mlp_lib.__all__:
        assert getattr(mlp_lib, name).__doc__, name
    assert all(line.strip() in pydoc.render_doc(mlp_lib) for line in SHOWN.splitlines())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlp_lib.nothing  # noqa: B018


def test_what_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(SettingsError, match="device = 'gpu': should be auto, cpu or cuda"):
        mlp_lib.load("digits", device="gpu")
    for widths in ((), (8, 0)):
        with pytest.raises(ValueError, match="should be one width or more, each 1 or more"):
            mlp_lib.Architecture(widths)
    data = mlp_lib.load("digits", device="cpu")
    train, of = data.train, (data.train, data.validation)
    for images, labels in ((train.images, train.labels[:9]), (train.images[:0], train.labels[:0])):
        with pytest.raises(ValueError, match="labels: one or more of each"):
            type(train)(images, labels)
    assert mlp_lib.Architecture([8]) == mlp_lib.Architecture((8,))
    state = mlp_lib.Training(*of, mlp_lib.Architecture([16]), mlp_lib.Hyperparameters(), device="cpu").state()
    for widths, members in ((8,), 1), ((16,), 2):
        with pytest.raises(ValueError, match="the state is of another architecture, or of other numbers of members"):
            mlp_lib.Training(*of, mlp_lib.Architecture(widths), [mlp_lib.Hyperparameters()] * members, state=state)
