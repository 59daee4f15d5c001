"""A data set as whole tensors: train, validation, test."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mlp_lib.errors import DataError
from mlp_lib.runtime import Stream, generator
from mlp_lib.settings import DataSettings

CLASSES = 10


@dataclass(frozen=True)
class Split:
    """Images [N, D] in [0, 1] and labels [N]; `loader_workers` is None when the tensors are read directly."""

    images: Tensor
    labels: Tensor
    loader_workers: int | None = None

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [n, D], labels [n]) on the device for each index tensor [n] of `order`, in that order.

        What it yields may be overwritten by the next.
        """
        if self.loader_workers is None:
            buffers: dict[int, Tensor] = {}
            for index in order:
                index = index.to(self.images.device)
                if len(index) not in buffers:
                    buffers[len(index)] = self.images.new_empty(len(index), self.images.shape[1])
                images = torch.index_select(self.images, 0, index, out=buffers[len(index)])
                yield images.to(device), self.labels.index_select(0, index).to(device)
        else:
            loader = DataLoader(
                TensorDataset(self.images, self.labels),
                batch_sampler=[index.tolist() for index in order],
                num_workers=self.loader_workers,
                generator=torch.Generator().manual_seed(0),  # its workers draw nothing; seeded all the same
            )
            for images, labels in loader:
                yield images.to(device), labels.to(device)


@dataclass(frozen=True)
class Dataset:
    """The three splits, and the digest of the data they were cut from."""

    train: Split
    validation: Split
    test: Split
    digest: str


def data_root(settings: DataSettings, base: Path) -> Path:
    """Where torchvision's files lie: MLP_DATA_ROOT, or `data_root`, relative to `base`."""
    return base / Path(os.environ.get("MLP_DATA_ROOT") or settings.data_root).expanduser()


def load_dataset(settings: DataSettings, device: torch.device, base: Path = Path()) -> Dataset:
    """The data set, split by `split_seed` alone, on the device that `preload` asks for.

    Raises DataError for files that are missing, damaged or can't be downloaded.
    """
    if settings.dataset == "digits":
        (images, labels), test = _read_digits()
    else:
        (images, labels), test = _read_torchvision(settings.dataset, data_root(settings, base))
    digest = hashlib.sha256()
    for array in (images, labels, *test):
        digest.update(str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    size = settings.validation_size or len(images) // 6
    order = generator(settings.split_seed, Stream.SPLIT).permutation(len(images))
    validation, train = np.sort(order[:size]), np.sort(order[size:])
    home = _home(settings, device)
    workers = settings.loader_workers if settings.preload is False else None
    return Dataset(
        _split(images[train], labels[train], home, workers),
        _split(images[validation], labels[validation], home),
        _split(*test, home),
        digest.hexdigest(),
    )


def _home(settings: DataSettings, device: torch.device) -> torch.device:
    """The device that holds the tensors."""
    if settings.preload == "cuda" and device.type != "cuda":
        raise DataError("preload = 'cuda' needs a training device of cuda; preload = auto follows the device")
    return torch.device("cpu") if settings.preload in ("cpu", False) else device


def _split(images: np.ndarray, labels: np.ndarray, home: torch.device, workers: int | None = None) -> Split:
    top = 16 if images.max(initial=0) <= 16 and images.shape[1] == 64 else 255
    scaled = torch.from_numpy(images).to(torch.float32).div_(top)
    return Split(scaled.to(home), torch.from_numpy(labels.astype(np.int64)).to(home), workers)


Arrays = tuple[np.ndarray, np.ndarray]


def _read_digits() -> tuple[Arrays, Arrays]:
    """scikit-learn's 1,797 digits of 8x8: a fixed stratified fifth is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images.astype(np.uint8), labels.astype(np.uint8), test_size=0.2, stratify=labels, random_state=0
    )
    return (train, train_labels), (test, test_labels)


def _read_torchvision(name: str, root: Path) -> tuple[Arrays, Arrays]:
    """(images [N, 784], labels [N]) of the training and the test files, as bytes; downloaded once if missing."""
    from torchvision import datasets

    kind = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "kmnist": datasets.KMNIST,
        "qmnist": datasets.QMNIST,
    }[name]
    remedy = f"put the files under {root / kind.__name__ / 'raw'}, or set data_root or MLP_DATA_ROOT"
    parts = []
    for train in (True, False):
        try:
            # torchvision draws a progress bar on stderr; a bar in a saved notebook is a wall of red lines
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                part = kind(str(root), train=train, download=True)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(f"{name} is not in {root} and could not be downloaded ({reason}); {remedy}") from error
        except Exception as error:
            raise DataError(f"{name} in {root} is damaged ({error}); delete its files there, then {remedy}") from error
        images, labels = part.data.numpy(), part.targets.numpy()
        labels = labels[:, 0] if labels.ndim == 2 else labels  # qmnist: the first column is the digit
        if images.ndim != 3 or len(images) != len(labels) or not len(images):
            raise DataError(f"{name} in {root} is damaged: {images.shape} images, {len(labels)} labels; {remedy}")
        parts.append((images.reshape(len(images), -1), labels.astype(np.uint8)))
    return parts[0], parts[1]
