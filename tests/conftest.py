"""Data that several tests share: the real MNIST where it is at hand, and small made-up splits."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mlp_lib.core.data import Split
from mlp_lib.core.values import TrainingSettings

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
