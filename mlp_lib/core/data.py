"""A data set as whole tensors: train, validation, test."""

import contextlib
import functools
import hashlib
import io
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """Images [N, D] in [0, 1] and labels [N], N > 0, else ValueError; loader_workers: those of a DataLoader, if any."""

    images: Tensor
    labels: Tensor
    loader_workers: int = 0

    def __post_init__(self) -> None:
        if not len(self.images) or len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images and {len(self.labels)} labels: one or more of each, in pairs")

    def batches(self, order: list[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [n, D], labels [n]) on the device for each index tensor [n] of `order`, in that order.

        What it yields may be overwritten by the next.
        """
        if not self.loader_workers or multiprocessing.current_process().daemon:  # which may have no children
            buffers: dict[int, Tensor] = {}
            for index in order:
                index = index.to(self.images.device)
                if len(index) not in buffers:
                    buffers[len(index)] = self.images.new_empty(len(index), self.images.shape[1])
                images = torch.index_select(self.images, 0, index, out=buffers[len(index)])
                yield images.to(device), self.labels.index_select(0, index).to(device)
        else:
            self._loader.sampler[:] = [index.numpy() for index in order]
            for images, labels in self._loader:
                yield images.to(device), labels.to(device)

    @functools.cached_property
    def _loader(self) -> DataLoader:
        """It takes whole batches, in the order that its sampler is given; its workers live as long as the split."""
        return DataLoader(
            TensorDataset(self.images, self.labels),
            batch_size=None,
            sampler=[],
            num_workers=self.loader_workers,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(0),  # its workers draw nothing; seeded all the same
        )


@dataclass(frozen=True)
class Dataset:
    """The three splits, and the digest of the data they were cut from."""

    train: Split
    validation: Split
    test: Split
    digest: str


Arrays = tuple[np.ndarray, np.ndarray]  # images [N, D] and labels [N], as bytes


@dataclass(frozen=True)
class RawData:
    """A data set as it came, before it is split: training and test arrays."""

    train: Arrays
    test: Arrays

    @functools.cached_property
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
    data_root, from the repository's root. Raises DataError for files that are missing, damaged or can't be downloaded,
    SettingsError for a device that isn't there, pydantic's ValidationError for a size or seed that can't be.
    """
    if dataset not in DATASETS:
        raise DataError(f"there is no data set {dataset!r}: {', '.join(DATASETS)}")
    settings = DataSettings(
        dataset=dataset, data_root=data_root, validation_size=validation_size, split_seed=split_seed
    )
    return load_dataset(settings, resolve_device(device))


def load_dataset(settings: DataSettings, device: torch.device) -> Dataset:
    """The data set as the settings split it; DataError for files that are missing, damaged or can't be downloaded."""
    return split_dataset(read_raw(settings), settings, device)


def read_raw(settings: DataSettings) -> RawData:
    """The data set as it came, torchvision's from data_root or MLP_DATA_ROOT; DataError if it can't be had."""
    if DATASETS[settings.dataset].torchvision is None:
        return RawData(*_read_digits())
    root = ROOT / os.path.expanduser(os.environ.get("MLP_DATA_ROOT") or settings.data_root)
    return RawData(*_read_torchvision(settings.dataset, root))


def split_dataset(raw: RawData, settings: DataSettings, device: torch.device) -> Dataset:
    """The data set split by `split_seed` alone, on the device that `preload` asks for."""
    images, labels = raw.train
    size = settings.validation_size or len(images) // 6
    if not 0 < size < len(images):
        raise DataError(f"{settings.dataset}: {len(images)} training images leave none beside {size} for validation")
    order = generator(settings.split_seed, Stream.SPLIT).permutation(len(images))
    validation, train = np.sort(order[:size]), np.sort(order[size:])
    home = torch.device("cpu") if settings.preload in ("cpu", False) else device
    workers = 0 if settings.preload else settings.loader_workers

    def part(images: np.ndarray, labels: np.ndarray, workers: int = 0) -> Split:
        scaled = torch.from_numpy(images).to(torch.float32).div_(DATASETS[settings.dataset].brightest)
        return Split(scaled.to(home), torch.from_numpy(labels.astype(np.int64)).to(home), workers)

    parts = part(images[train], labels[train], workers), part(images[validation], labels[validation]), part(*raw.test)
    return Dataset(*parts, raw.digest)


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
    """(images [N, 784], labels [N]) of the training and the test files, as bytes; what is missing is downloaded."""
    from torchvision import datasets

    kind = getattr(datasets, DATASETS[name].torchvision)
    folder, resources = root / kind.__name__ / "raw", kind.resources
    if isinstance(resources, dict):  # qmnist: by part, of which one more belongs to neither; not by mirror
        resources = [*resources["train"], *resources["test"]]
    files = [folder / Path(url).stem for url, _ in resources]  # images and labels to train on, then to test on
    for file, (url, md5) in zip(files, resources, strict=True):
        if not file.is_file():
            _download(name, files, file, url if "://" in url else kind.mirrors[0] + url, md5)
    train, test = (_read_half(name, *half) for half in (files[:2], files[2:]))
    if len(train[1]) < len(test[1]):
        raise _damaged(name, files, "there are fewer training than test images: swapped?")
    return train, test


def _download(name: str, files: list[Path], file: Path, url: str, md5: str) -> None:
    """Have torchvision fetch a file, or unpack it; DataError, with what there is and what to do, if it can't."""
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        # torchvision draws a progress bar on stderr; a bar in a saved notebook is a wall of red lines
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            download_and_extract_archive(url, str(file.parent), filename=f"{file.name}.gz", md5=md5)
    except (OSError, RuntimeError) as error:
        missing = [other for other in files if not other.is_file()]
        there, home = [other.name for other in files if other not in missing], file.parents[1]
        places = ("", "raw/", f"*/{home.name}/raw/", f"{home.name}/**/")  # below the root, where files may lie instead
        patterns = [place + other.name.replace("-idx", "?idx") + "*" for other in missing for place in places]
        lying = sorted({path for pattern in patterns for path in home.parent.glob(pattern) if path.is_file()})
        ways = [f"{'unzip, or delete if damaged,' if p.suffix == '.gz' else 'move'} {p}" for p in lying]
        raise DataError(
            f"{name} is incomplete in {file.parent}, which has {', '.join(there) or 'none of its files'}: "
            f"{', '.join(other.name for other in missing)} could not be downloaded "
            f"({url}: {' '.join(str(error).split())[:200]}); put what is missing there"
            f"{' (' + '; '.join(ways) + ')' if ways else ''}, or set data_root or MLP_DATA_ROOT to a folder that has "
            f"{home.name}/raw"
        ) from error


def _read_half(name: str, *files: Path) -> Arrays:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    arrays = []
    for file in files:
        try:
            arrays.append(read_sn3_pascalvincent_tensor(str(file)).numpy())
        except Exception as error:  # asserts, KeyError, ... for bytes that it can't make sense of
            raise _damaged(name, [file], f"{type(error).__name__} {error}".strip().splitlines()[0]) from error
    images, labels = arrays
    kind = np.uint8 if labels.ndim == 1 else np.int32  # qmnist's have columns, of which the first is the digit
    digits = labels if labels.ndim < 2 else labels[:, 0]
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise _damaged(name, files[:1], f"{images.dtype} {list(images.shape)}")
    if digits.ndim != 1 or digits.dtype != kind or not 0 <= digits.min(initial=0) <= digits.max(initial=0) < CLASSES:
        ends = f"from {digits.min(initial=0)} to {digits.max(initial=0)}"
        raise _damaged(name, files[1:], f"{labels.dtype} {list(labels.shape)} {ends}")
    if not 0 < len(images) == len(digits):
        raise _damaged(name, files, f"{len(images)} images, {len(digits)} labels")
    return images.reshape(len(images), -1), digits.astype(np.uint8)


def _damaged(name: str, files: Sequence[Path], found: str) -> DataError:
    named = f"{name}: {', '.join(file.name for file in files)} in {files[0].parent}"
    return DataError(f"{named} is damaged ({found}); delete what is damaged, and it is downloaded again")
