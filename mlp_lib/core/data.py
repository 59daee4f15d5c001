"""A data set as whole tensors: train, validation, test."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mlp_lib.core.errors import DataError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.streams import Stream, generator
from mlp_lib.core.values import CLASSES, DATASETS, ROOT, DataSettings


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


Arrays = tuple[np.ndarray, np.ndarray]  # images [N, D] and labels [N], as bytes


@dataclass(frozen=True)
class RawData:
    """A data set as it came, before it is split: training and test arrays."""

    name: str
    train: Arrays
    test: Arrays

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load(
    dataset: str = "mnist",
    data_root: str = "data",
    validation_size: int | None = None,
    split_seed: int = 0,
    device: str = "auto",
) -> Dataset:
    """A data set by its name in DATASETS, on the device; digits needs no network.

    validation_size: images of the training data (a sixth if not given), chosen by split_seed alone. torchvision's files
    are looked for, and downloaded to, in the folder that the environment variable MLP_DATA_ROOT names, or else in
    data_root, from the repository's root. Raises DataError for files that are missing, damaged or can't be downloaded.
    """
    if dataset not in DATASETS:
        raise DataError(f"there is no data set {dataset!r}: {', '.join(DATASETS)}")
    settings = DataSettings(
        dataset=dataset, data_root=data_root, validation_size=validation_size, split_seed=split_seed
    )
    return load_dataset(settings, resolve_device(device), ROOT)


def load_dataset(settings: DataSettings, device: torch.device, base: Path = Path()) -> Dataset:
    """The data set, split by `split_seed` alone, on the device that `preload` asks for.

    Raises DataError for files that are missing, damaged or can't be downloaded.
    """
    return split_dataset(read_raw(settings, base), settings, device)


def read_raw(settings: DataSettings, base: Path = Path()) -> RawData:
    """The data set as it came; DataError for files that are missing, damaged or can't be downloaded."""
    if DATASETS[settings.dataset].torchvision is None:
        return RawData(settings.dataset, *_read_digits())
    return RawData(settings.dataset, *_read_torchvision(settings.dataset, data_root(settings, base)))


def split_dataset(raw: RawData, settings: DataSettings, device: torch.device) -> Dataset:
    """The data set split by `split_seed` alone, on the device that `preload` asks for."""
    images, labels = raw.train
    size = settings.validation_size or len(images) // 6
    if not 0 < size < len(images):
        raise DataError(f"{raw.name}: {len(images)} training images leave none beside {size} for validation")
    order = generator(settings.split_seed, Stream.SPLIT).permutation(len(images))
    validation, train = np.sort(order[:size]), np.sort(order[size:])
    home, brightest = _home(settings, device), DATASETS[raw.name].brightest
    workers = settings.loader_workers if settings.preload is False else None
    return Dataset(
        _split(images[train], labels[train], brightest, home, workers),
        _split(images[validation], labels[validation], brightest, home),
        _split(*raw.test, brightest, home),
        raw.digest,
    )


def _home(settings: DataSettings, device: torch.device) -> torch.device:
    """The device that holds the tensors."""
    if settings.preload == "cuda" and device.type != "cuda":
        raise DataError("preload = 'cuda' needs a training device of cuda; preload = auto follows the device")
    return torch.device("cpu") if settings.preload in ("cpu", False) else device


def _split(
    images: np.ndarray, labels: np.ndarray, brightest: int, home: torch.device, workers: int | None = None
) -> Split:
    scaled = torch.from_numpy(images).to(torch.float32).div_(brightest)
    return Split(scaled.to(home), torch.from_numpy(labels.astype(np.int64)).to(home), workers)


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

    kind = getattr(datasets, DATASETS[name].torchvision)
    folder = root / kind.__name__ / "raw"
    missing = f"put its files there, or set data_root or MLP_DATA_ROOT to a folder that has {kind.__name__}/raw"
    damaged = "delete its files there, and they are downloaded again"
    parts = []
    for train in (True, False):
        try:
            part = _open(kind, root, train)
        except _DownloadError as error:
            raise DataError(f"{name} is not in {folder} and could not be downloaded ({error}); {missing}") from error
        except Exception as error:  # torchvision raises asserts, KeyError, ... for bytes that it can't make sense of
            found = f"{type(error).__name__} {error}".strip().splitlines()[0]
            raise DataError(f"{_name_damaged(name, folder, train)} is damaged ({found}); {damaged}") from error
        images, labels = part.data.numpy(), part.targets.numpy()
        labels = labels[:, 0] if labels.ndim == 2 else labels  # qmnist: the first column is the digit
        if images.shape != (len(labels), 28, 28) or not len(labels) or labels.max() >= CLASSES:
            found = f"images {list(images.shape)}, labels {list(labels.shape)} up to {labels.max(initial=0)}"
            raise DataError(f"{_name_damaged(name, folder, train)} is damaged ({found}); {damaged}")
        parts.append((images.reshape(len(images), -1), labels.astype(np.uint8)))
    if len(parts[0][1]) < len(parts[1][1]):
        raise DataError(f"{name} in {folder}: fewer training than test images, the files are swapped; {damaged}")
    return parts[0], parts[1]


def _name_damaged(name: str, folder: Path, train: bool) -> str:
    """The files that torchvision can't read, or all of this half where they only don't fit each other."""
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    prefixes = ("train", "qmnist-train") if train else ("t10k", "qmnist-test")
    files = [path for path in sorted(folder.glob("*[!z]")) if path.name.startswith(prefixes)]
    damaged = []
    for path in files:
        try:
            read_sn3_pascalvincent_tensor(str(path))
        except Exception:  # asserts, KeyError, ValueError, ...
            damaged.append(path)
    return f"{name}: {', '.join(path.name for path in damaged or files)} in {folder}"


class _DownloadError(Exception):
    """Why files that are not there could not be fetched, in one line."""


def _open(kind: type, root: Path, train: bool) -> Any:
    """torchvision's data set, downloaded if it is not there (_DownloadError); a damaged file's error passes."""
    # torchvision draws a progress bar on stderr; a bar in a saved notebook is a wall of red lines
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return kind(str(root), train=train)
        except RuntimeError as error:
            if "not found" not in str(error):
                raise
        try:
            return kind(str(root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise _DownloadError(" ".join(str(error).split())[:200]) from error
