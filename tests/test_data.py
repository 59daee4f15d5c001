"""Data sets: sizes, the split, scaling, streaming, and what is said of missing or damaged files."""

import contextlib
import gzip
import hashlib
import http.server
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study import environment, no_space
from torchvision import datasets

from mlp_lib.core.data import CLASSES, Dataset, Split, load_dataset
from mlp_lib.core.errors import DataError
from mlp_lib.core.values import DataSettings
from mlp_lib.reports.pages import describe_status

CPU = torch.device("cpu")
MNIST_DIGEST = "1cbaf5ed6c9d5148b83c29239d070591e4759e91f33b8e85c56e044879c8ba9c"
DIGITS_DIGEST = "e0c7fb4ac95642dcbd65913e95e35f65a7bb9bc1a81291a5053c15b0a7d1db48"
DIGITS = DataSettings(
    dataset="digits", data_root="data", preload="auto", validation_size=None, split_seed=0, loader_workers=0
)
PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def load(**changes: Any) -> Dataset:
    return load_dataset(DIGITS.model_copy(update=changes), CPU)


def rows(*splits: Split) -> list[bytes]:
    """Each image with its label as bytes."""
    return [i.numpy().tobytes() + bytes([int(y)]) for s in splits for i, y in zip(s.images, s.labels, strict=True)]


def equal(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def all_equal(a: Dataset, b: Dataset) -> bool:
    return equal(a.train, b.train) and equal(a.validation, b.validation) and equal(a.test, b.test)


def sizes(data: Dataset) -> list[int]:
    """Images of training, validation and test, as many as there are labels."""
    splits = (data.train, data.validation, data.test)
    assert all(len(split.images) == len(split.labels) for split in splits)
    return [len(split.labels) for split in splits]


# ---- digits


def test_digits_sizes():
    assert sizes(load()) == [1198, 239, 360]
    assert sizes(load(validation_size=100)) == [1337, 100, 360]


def test_digits_are_scaled_and_flat():
    data = load()
    for split in (data.train, data.validation, data.test):
        assert split.images.shape[1:] == (64,)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert (float(split.images.min()), float(split.images.max())) == (0.0, 1.0)
        assert set(split.labels.tolist()) == set(range(CLASSES))


def test_splits_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    data = load()
    images, labels = load_digits(return_X_y=True)
    everything = Split(torch.from_numpy(images / 16).float(), torch.from_numpy(labels))
    assert sorted(rows(data.train, data.validation, data.test)) == sorted(rows(everything))
    parts = [set(rows(s)) for s in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)), "an image is in two splits"


def test_digits_test_set_is_stratified_and_fixed():
    counts = np.bincount(load().test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 37
    assert equal(load(split_seed=5, validation_size=7).test, load().test)


def test_split_depends_on_the_split_seed_alone():
    first = load()
    torch.manual_seed(1)
    np.random.seed(1)
    again = load(preload="cpu", loader_workers=3, data_root="elsewhere")
    assert equal(first.train, again.train)
    assert equal(first.validation, again.validation)
    other = load(split_seed=1)
    assert not torch.equal(other.validation.images, first.validation.images)
    assert other.digest == first.digest == again.digest == DIGITS_DIGEST


# ---- streaming


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_preloaded_ones(workers: int):
    """Of training data alone; the rest is never streamed."""
    data, preloaded = load(preload=False, loader_workers=workers), load().train
    streamed = data.train
    assert streamed.loader_workers == workers
    assert preloaded.loader_workers == data.validation.loader_workers == data.test.loader_workers == 0
    order = torch.randperm(len(preloaded.labels), generator=torch.Generator().manual_seed(0)).split(256)
    seen = 0
    both = zip(preloaded.batches(list(order), CPU), streamed.batches(list(order), CPU), strict=True)
    for index, ((images, labels), (streamed_images, streamed_labels)) in zip(order, both, strict=True):
        assert torch.equal(images, preloaded.images[index])
        assert torch.equal(labels, preloaded.labels[index])
        assert torch.equal(images, streamed_images)
        assert torch.equal(labels, streamed_labels)
        seen += len(labels)
    assert seen == 1198


# ---- MNIST


def mnist(root: Path, **changes: Any) -> Dataset:
    changes = {"dataset": "mnist", "data_root": str(root), "validation_size": 10000} | changes
    return load_dataset(DIGITS.model_copy(update=changes), CPU)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that refuses every connection but to this machine, and the data root is what a test says."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("MLP_DATA_ROOT", raising=False)
    urllib.request.install_opener(urllib.request.build_opener())  # which reads the proxies
    yield
    urllib.request.install_opener(None)


def test_mnist(mnist_root: Path):
    before = sorted(mnist_root.rglob("*"))
    data = mnist(mnist_root)
    assert sizes(data) == [50000, 10000, 10000]
    assert data.train.images.shape[1:] == (784,)
    assert (float(data.train.images.min()), float(data.train.images.max())) == (0.0, 1.0)
    assert float(data.train.images.mean()) == pytest.approx(0.1307, abs=1e-3)
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.digest == MNIST_DIGEST
    assert sorted(mnist_root.rglob("*")) == before


def test_environment_variable_overrides_the_root(mnist_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MLP_DATA_ROOT", str(mnist_root))
    assert len(mnist(tmp_path).test.labels) == 10000


# ---- missing or damaged files


def write_idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A small well-formed MNIST/raw: 60 training and 20 test images."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part, number in (("train", 60), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte", draws.integers(0, 256, (number, 28, 28), np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", draws.integers(0, 10, number).astype(np.uint8))
    return folder


def refusal(root: Path, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        mnist(root, **{"validation_size": None} | changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("dataset", "folder"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_sister_data_sets_lie_in_files_of_the_same_names(raw: Path, tmp_path: Path, dataset: str, folder: str):
    expected = mnist(tmp_path, validation_size=None)
    assert sizes(expected) == [50, 10, 20]
    shutil.move(raw.parent, tmp_path / folder)
    assert all_equal(mnist(tmp_path, dataset=dataset, validation_size=None), expected)


def test_qmnist_has_a_table_of_labels_whose_first_column_is_the_digit(tmp_path: Path):
    folder, draws = tmp_path / "QMNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    digits = {}
    for part, number in (("train", 60), ("test", 20)):
        write_idx(folder / f"qmnist-{part}-images-idx3-ubyte", draws.integers(0, 256, (number, 28, 28), np.uint8))
        labels = draws.integers(0, 10, (number, 8)).astype(">i4")
        labels[:, 1:] += 100  # writer, place in the original, ...
        header = bytes([0, 0, 12, 2]) + np.array(labels.shape, ">i4").tobytes()
        (folder / f"qmnist-{part}-labels-idx2-int").write_bytes(header + labels.tobytes())
        digits[part] = labels[:, 0].tolist()
    data = mnist(tmp_path, dataset="qmnist", validation_size=None)
    assert sizes(data) == [50, 10, 20]
    assert data.test.labels.tolist() == digits["test"]
    assert sorted([*data.train.labels.tolist(), *data.validation.labels.tolist()]) == sorted(digits["train"])
    labels[0, 0] = -1
    (folder / "qmnist-test-labels-idx2-int").write_bytes(header + labels.tobytes())
    assert "is damaged (int32 [20, 8] from -1 to " in refusal(tmp_path, dataset="qmnist")


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "kmnist", "qmnist"])
def test_missing_data_without_network(dataset: str, tmp_path: Path):
    message = refusal(tmp_path, dataset=dataset)
    assert message.startswith(f"{dataset} is incomplete in {tmp_path}")
    assert "which has none of its files: " in message
    assert "could not be downloaded (http" in message
    assert "Connection refused" in message
    assert "put what is missing there, or set data_root or MLP_DATA_ROOT" in message


def zip_up(path: Path) -> None:
    """Leave a file as an archive alone, which is not that of the mirror."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def move(path: Path, place: str) -> None:
    target = path.parent / place
    path.rename(path.with_name("moving"))
    target.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("moving").rename(target)


LABELS = "t10k-labels-idx1-ubyte"
FOUND = {
    "missing": (lambda raw: (raw / LABELS).unlink(), None),
    "an archive": (lambda raw: zip_up(raw / LABELS), "unzip, or delete if damaged, {raw}/t10k-labels-idx1-ubyte.gz"),
    "too deep": (lambda raw: move(raw / LABELS, "raw/" + LABELS), "move {raw}/raw/t10k-labels-idx1-ubyte"),
    "in a folder of its name": (
        lambda raw: move(raw / LABELS, f"{LABELS}/t10k-labels.idx1-ubyte"),
        "move {raw}/t10k-labels-idx1-ubyte/t10k-labels.idx1-ubyte",
    ),
    "not deep enough": (lambda raw: move(raw / LABELS, "../" + LABELS), "move {home}/t10k-labels-idx1-ubyte"),
    "in the root": (lambda raw: move(raw / LABELS, "../../" + LABELS), "move {root}/t10k-labels-idx1-ubyte"),
    "in raw below the root": (lambda raw: move(raw / LABELS, f"../../raw/{LABELS}"), "move {root}/raw/t10k-labels"),
    "a folder too high": (lambda raw: move(raw / LABELS, f"../../x/MNIST/raw/{LABELS}"), "move {root}/x/MNIST/raw/"),
}


@pytest.mark.parametrize("case", FOUND)
def test_one_of_four_files_is_elsewhere_or_nowhere(raw: Path, tmp_path: Path, case: str):
    """The message names what is there, what is missing, and what lies about: no other file is to be downloaded."""
    deed, remedy = FOUND[case]
    deed(raw)
    message = refusal(tmp_path)
    there, said = message.split(": ", 1)
    assert there == f"mnist is incomplete in {raw}, which has {', '.join(f'{part}-ubyte' for part in PARTS[:3])}"
    assert said.startswith(f"{LABELS} could not be downloaded (")
    assert said.count("Connection refused") == said.count(f"/{LABELS}.gz:") == 1
    ways = remedy.format(raw=raw, home=raw.parent, root=tmp_path) if remedy else "put what is missing there, or set"
    assert ways in said


def test_what_is_missing_alone_is_downloaded(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected, content = mnist(tmp_path, validation_size=None), gzip.compress((raw / LABELS).read_bytes())
    (raw / LABELS).unlink()
    resources = [(f"{part}-ubyte.gz", hashlib.md5(content).hexdigest()) for part in PARTS]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    with serving(content, len(content), monkeypatch) as asked:
        data = mnist(tmp_path, validation_size=None)
    assert asked == {f"/{LABELS}.gz"}
    assert all_equal(data, expected)


def test_a_root_that_is_a_file(tmp_path: Path):
    (tmp_path / "data").write_text("")
    assert "could not be downloaded (" in refusal(tmp_path / "data")


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", no_space)
    assert "No space left on device" in refusal(tmp_path)


def patch(path: Path, at: int, *values: int) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(values)] = bytes(values)
    path.write_bytes(content)


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def swap_parts(raw: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        swap(raw / f"train-{kind}-ubyte", raw / f"t10k-{kind}-ubyte")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "three bytes": lambda path: path.write_bytes(path.read_bytes()[:3]),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[: 4 * (1 + path.read_bytes()[3])]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "wrong magic": lambda path: patch(path, 0, 1),
    "wrong type": lambda path: patch(path, 2, 9),
    "unknown type": lambda path: patch(path, 2, 10),
    "wide type": lambda path: patch(path, 2, 13),
    "fewer dimensions": lambda path: patch(path, 3, path.read_bytes()[3] - 1),
    "more dimensions": lambda path: patch(path, 3, path.read_bytes()[3] + 1),
    "wrong count": lambda path: patch(path, 7, path.read_bytes()[7] - 1),
    "huge count": lambda path: patch(path, 4, 127, 255),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file(raw: Path, tmp_path: Path, part: str, damage: str):
    DAMAGES[damage](raw / f"{part}-ubyte")
    message = refusal(tmp_path)
    half = part.split("-")[0]
    assert message.startswith(
        (f"mnist: {part}-ubyte in {raw} is damaged (", f"mnist: {half}-images-idx3-ubyte, {half}-")
    )
    assert f"{part}-ubyte" in message
    assert "delete what is damaged" in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: swap(raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"),
        lambda raw: swap(raw / "train-images-idx3-ubyte", raw / "t10k-images-idx3-ubyte"),
        lambda raw: swap(raw / "train-labels-idx1-ubyte", raw / "t10k-labels-idx1-ubyte"),
        swap_parts,
        lambda raw: write_idx(raw / "train-images-idx3-ubyte", np.zeros((60, 14, 56), np.uint8)),
        lambda raw: write_idx(raw / "train-images-idx3-ubyte", np.zeros((59, 28, 28), np.uint8)),
        lambda raw: write_idx(raw / "train-labels-idx1-ubyte", np.full(60, 10, np.uint8)),
        lambda raw: [write_idx(raw / f"t10k-{k}-ubyte", np.zeros(s, np.uint8)) for k, s in EMPTY.items()],
    ],
    ids=["images and labels", "images", "labels", "train and test", "shape", "one less", "label 10", "no images"],
)
def test_inconsistent_files(raw: Path, tmp_path: Path, damage: Any):
    damage(raw)
    message = refusal(tmp_path)
    assert str(raw) in message
    assert "damaged" in message or "swapped" in message
    assert "delete what is damaged" in message


EMPTY = {"images-idx3": (0, 28, 28), "labels-idx1": (0,)}


def test_a_data_set_too_small_for_its_validation(raw: Path, tmp_path: Path):
    assert "60 training images leave none beside 10000" in refusal(tmp_path, validation_size=10000)


# ---- the real command, and a download that breaks off


@contextlib.contextmanager
def serving(content: bytes, promised: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """A server on this machine as MNIST's one mirror, which promises so many bytes; the paths that it is asked for."""
    asked = set()

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield asked
        server.shutdown()


@pytest.fixture
def refused_by_the_command(tmp_path: Path) -> Callable[..., str]:
    """The one line of a search on MNIST below tmp_path, with a network that refuses every connection."""

    def refused(*arguments: str) -> str:
        line = [sys.executable, "-m", "mlp_lib", "search", "-p", "data_root", str(tmp_path), *arguments]
        line += ["-p", "validation_size", "null", "-p", "device", "cpu", "--runs-root", str(tmp_path / "runs")]
        done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not list((tmp_path / "runs").rglob("*.csv"))  # nothing was trained
        return done.stderr

    return refused


def test_the_command_without_data_or_network(refused_by_the_command: Callable[..., str], tmp_path: Path):
    said = refused_by_the_command()
    why = f"mnist is incomplete in {tmp_path / 'MNIST' / 'raw'}, which has none of its files: train-images-"
    assert why in said
    assert "MLP_DATA_ROOT" in said
    (run_dir,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert re.search(f"search +failed +{re.escape(why)}", describe_status(run_dir))  # though it had not begun
    assert why in (run_dir / "index.html").read_text()


def test_the_command_on_a_damaged_file(refused_by_the_command: Callable[..., str], raw: Path):
    DAMAGES["truncated"](raw / "t10k-images-idx3-ubyte")
    assert f"mnist: t10k-images-idx3-ubyte in {raw} is damaged" in refused_by_the_command()


def test_a_download_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that sends half of what it promised: an error, and nothing on disk that is taken for data afterwards."""
    with serving(bytes(50_000), 100_000, monkeypatch):
        first, second = refusal(tmp_path), refusal(tmp_path)
    for message in (first, second):
        assert message.startswith(f"mnist is incomplete in {tmp_path}")
        assert "could not be downloaded" in message
