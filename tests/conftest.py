"""What several tests share: the real MNIST where it is at hand, small made-up splits, and a whole run."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from study import LONG, succeed, write_parameters

from mlp_lib.core.data import Split
from mlp_lib.core.values import TrainingSettings

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# modules that take minutes
LONG_ONES = ("test_cluster", "test_run", "test_truth", "test_surroundings", "test_bad_input", "test_grid")


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: much of a test is waiting for processes that start."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that in the end no process is left alone with one."""
    order = {name: place for place, name in enumerate(LONG_ONES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds torchvision's MNIST/raw: MLP_DATA_ROOT, or shared/data beside the repository."""
    root = Path(os.environ.get("MLP_DATA_ROOT") or Path(__file__).parents[2] / "shared" / "data").absolute()
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"no MNIST in {root}; MLP_DATA_ROOT says where it is")
    return root


@pytest.fixture
def make_split() -> Callable[..., Split]:
    """A function that makes a Split of n random images of d pixels, whose labels a linear rule gives."""

    def make(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Split:
        images = np.random.default_rng(seed).random((n, d))
        rule = np.random.default_rng(d).standard_normal((d, 10))
        labels = ((images - 0.5) @ rule).argmax(1)
        return Split(torch.from_numpy(images).to(dtype), torch.from_numpy(labels))

    return make


@pytest.fixture
def training_settings() -> TrainingSettings:
    """Settings of a training of a few epochs."""
    return TrainingSettings(
        batch_size=32, max_epochs=6, patience=2, val_interval=2, matmul_precision="highest", deterministic=False
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run by the command, from tiny.yaml two folders above. Not to be changed.

    It is made once, by whichever of pytest's processes comes first.
    """
    temporary = tmp_path_factory.getbasetemp()
    folder = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "study"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            write_parameters(unfinished / "tiny.yaml", **LONG)
            succeed("run", "-f", "tiny.yaml", "--runs-root", "runs", "--run-name", "base", cwd=unfinished)
            unfinished.rename(folder)
    return folder / "runs" / "base"


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A copy of it, with the times of its files."""
    return Path(shutil.copytree(base, tmp_path / "copy"))
