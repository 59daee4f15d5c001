"""Every file of a run: names, whole-or-nothing writing, strict reading."""

import contextlib
import csv
import datetime
import io
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.values import ROOT as ROOT
from mlp_lib.core.values import Architecture

NOTEBOOKS = {"search": "01_search", "retrain": "02_retrain", "transfer": "03_transfer", "analysis": "04_analysis"}
REPORTS = {**NOTEBOOKS, "benchmark": "05_benchmark"}  # the phases of a study, and what stands beside it
# pandas 3.1 reads floats to the bit by default and warns of the argument that earlier ones need for it
_ROUND_TRIP = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
OLD_NUMBER = r"[-+]?(0[0-9_box].*|[0-9.].*[:_].*)"  # octal, to base 60, with underscores
_OLD = re.compile(f"{OLD_NUMBER}|yes|no|on|off", re.IGNORECASE)
_WHOLE = ("trial", "epoch", "seed", "best_epoch", "epochs_trained", "n", "parameters", "rung", "rows")
TEMPORARY = ".mlp_lib_tmp_"  # how the name of a file begins that is not whole yet
_OF_PHASE = {  # what each phase writes, beside its notebook and page; of what phases share the ledger alone
    "search": ("trainings.csv", "search/*/*.csv", "search/*/best_hyperparameters.yaml", "search/*/best_trial/*"),
    "retrain": ("trainings.csv", "search/*.csv", "search/*.png", "search/**/summary.yaml", "search/*/retrain/**/*"),
    "transfer": ("trainings.csv", "transfer/*"),
    "analysis": ("analysis/*",),
    "benchmark": ("benchmark/*",),
}
_KINDS = (".csv", ".yaml", ".npz", ".png", ".pt", ".ipynb", ".html")


class RunDirectoryError(MlpError):
    """A run directory is in use, holds other settings or lacks what a phase reads."""


class ArchitectureFiles:
    """The files of one architecture's search and retraining."""

    def __init__(self, root: Path):
        self.root = root
        self.results = root / "search_results.csv"
        self.curves = root / "learning_curves.csv"
        self.best = root / "best_hyperparameters.yaml"
        self.metrics = root / "best_trial" / "metrics.csv"
        self.epochs = root / "best_trial" / "epochs.csv"  # metrics of every trial, until the best is known
        self.loss_curve = root / "best_trial" / "loss_curve.png"
        self.seed_losses = root / "retrain" / "seed_losses.csv"
        self.image_losses = root / "retrain" / "image_losses.npz"
        self.summary = root / "summary.yaml"

    def config(self, seed: int) -> Path:
        return self.root / "retrain" / f"seed_{seed}" / "config.yaml"

    def model(self, seed: int) -> Path:
        return self.root / "retrain" / f"seed_{seed}" / "model.pt"


class WorkFiles:
    """What is kept of trainings in progress; gone once they are recorded."""

    def __init__(self, root: Path):
        self.root = root
        self.progress = root / "progress.txt"

    def counter(self, unit: int) -> Path:
        """The epochs that a unit has trained since its start."""
        return self.root / f"epochs_{unit}"

    def counters(self) -> list[Path]:
        return list(self.root.glob("epochs_*"))

    def state(self, key: str) -> Path:
        """Where a training stands."""
        return self.root / f"state_{key}.npz"


class RunFiles:
    """The files of a run."""

    def __init__(self, root: Path):
        self.root = root
        self.search = root / "search"
        self.meta = self.search / "search_meta.yaml"
        self.summary = self.search / "summary.yaml"
        self.population_sizes = self.search / "population_sizes.yaml"  # on a CUDA device that could not hold all
        self.seed_losses = self.search / "search_seed_losses.csv"
        self.stats = self.search / "search_test_loss_stats.csv"
        self.distribution = self.search / "search_test_loss_over_seeds.png"
        self.transfer = root / "transfer"
        self.trainings = root / "trainings.csv"  # the ledger
        self.sources = self.transfer / "sources.csv"
        self.contenders = self.transfer / "contenders.csv"
        self.contender_losses = self.transfer / "contender_losses.csv"
        self.transfer_losses = self.transfer / "transfer_seed_losses.csv"
        self.transfer_results = self.transfer / "transfer_results.csv"
        self.regret = self.transfer / "regret_matrix.csv"
        self.relative_regret = self.transfer / "relative_regret_matrix.csv"
        self.transfer_figure = self.transfer / "transfer_test_loss.png"
        self.regret_figure = self.transfer / "regret_matrix_mean.png"
        self.relative_regret_figure = self.transfer / "relative_regret_matrix.png"
        self.analysis = root / "analysis"
        self.answers = self.analysis / "answers.yaml"
        self.benchmark = root / "benchmark" / "benchmark.csv"
        self.measurements = self.benchmark.with_name("measurements.csv")
        self.benchmark_figure = self.benchmark.with_name("benchmark.png")
        self.record = root / "files.csv"  # what each phase wrote
        self.index = root / "index.html"
        self.log = root / "log.txt"  # what the command said
        self.work = WorkFiles(root / ".work")

    def architecture(self, architecture: Architecture) -> ArchitectureFiles:
        return ArchitectureFiles(self.search / architecture.name)

    def models(self) -> list[Path]:
        """The checkpoints that there are."""
        return sorted(self.search.glob("*/retrain/seed_*/model.pt"))

    def notebook(self, phase: str) -> Path:
        """The executed notebook of a phase, or of another report by its name."""
        return self.root / f"{REPORTS.get(phase, phase)}.ipynb"

    def unfinished_notebook(self, phase: str) -> Path:
        return self.root / f"{TEMPORARY}running_{self.notebook(phase).name}"

    def page(self, phase: str) -> Path:
        return self.notebook(phase).with_suffix(".html")

    def of_phase(self, phase: str) -> list[Path]:
        """The files that there are of a phase."""
        patterns = (*_OF_PHASE.get(phase, ()), self.notebook(phase).name, self.page(phase).name)
        paths = (path for pattern in patterns for path in self.root.glob(pattern))
        return [path for path in paths if path.suffix in _KINDS and not path.name.startswith(".")]

    def leftovers(self) -> list[Path]:
        """Files that are not whole, in the folders that are the run's own."""
        folders = (self.search, self.transfer, self.analysis, self.benchmark.parent, self.work.root)
        below = (path for folder in folders for path in folder.rglob(f"{TEMPORARY}*"))
        return [*self.root.glob(f"{TEMPORARY}*"), *below]


def write_bytes(path: Path, content: bytes, parents: bool = True) -> None:
    """Write a file whole or not at all, with its directories if `parents`; RunDirectoryError if it can't be written."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"can't write {path}: {error.strerror or error}; what was finished before is kept, "
        "and the same run directory goes on when that is mended"
    )


def write_table(path: Path, table: pd.DataFrame, index: bool = False) -> None:
    """A CSV that `read_table` reads back to the bit: floats with the fewest digits that round-trip."""
    write_bytes(path, table.to_csv(index=index, lineterminator="\n").encode())


def append_table(path: Path, table: pd.DataFrame) -> None:
    """Add a table's rows to a CSV: see `append_rows`."""
    append_rows(path, table.columns, table.to_numpy(dtype=object))


def append_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Add rows to a CSV, which is made if it isn't there; they are on the disk when this returns.

    A torn last line, of a process that died while it wrote, goes; the first rows come whole with their header, or not
    at all. RunDirectoryError if it can't be written. Without a table of pandas, which takes milliseconds for a row.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerows(["" if pd.isna(cell) else cell for cell in row] for row in rows)
    try:
        end = _end_of_lines(path)
        if not end:
            return write_bytes(path, f"{','.join(columns)}\n{text.getvalue()}".encode())
        with path.open("rb+") as file:
            file.truncate(end)
            file.seek(end)
            try:
                file.write(text.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise _not_written(path, error) from error


def _end_of_lines(path: Path) -> int:
    """Bytes up to the end of the last line that is whole: the file's end but after a write that was cut."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                end = file.read().rfind(b"\n") + 1
    return end


def read_table(path: Path, index: str | None = None) -> pd.DataFrame:
    """What was written or appended; whole numbers are int64, or Int64 where some are missing.

    A torn last line is no row.
    """
    content = path.read_bytes()
    lines = io.BytesIO(content[: content.rfind(b"\n") + 1])
    table = pd.read_csv(lines, dtype=dict.fromkeys(_WHOLE, "Int64"), index_col=index, **_ROUND_TRIP)
    complete = [name for name in _WHOLE if name in table and table[name].notna().all()]
    return table.astype(dict.fromkeys(complete, "int64"))


def read_of_all(files: RunFiles, architectures: Iterable[Architecture], name: str) -> pd.DataFrame:
    """The tables that ArchitectureFiles calls so, of the architectures that have one, with `architecture`."""
    paths = {a.name: getattr(files.architecture(a), name) for a in architectures}
    return joined(read_table(path).assign(architecture=of) for of, path in paths.items() if path.exists())


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all; empty where there is none."""
    found = list(tables)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def read_image_losses(path: Path) -> dict[int, np.ndarray]:
    """image_losses.npz: by run seed the loss of each test image [N], float32, NaN if the training diverged."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["seeds"].tolist(), file["losses"], strict=True))


def write_figure(path: Path, figure: Any) -> None:
    """A figure of mlp_lib.figures as PNG."""
    write_bytes(path, figure.png())


def write_yaml(path: Path, value: Any) -> None:
    """Plain values as YAML, keys in their order."""
    write_bytes(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120).encode())


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which YAML would silently take the last.

    What only YAML 1.1 takes for a number (010 is 8 there, 1:30 is 90), for true or false, or for a date is text.
    """

    def resolve(self, kind: type, value: str, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        if tag == "tag:yaml.org,2002:timestamp" or (kind is yaml.ScalarNode and _OLD.fullmatch(value)):
            return self.DEFAULT_SCALAR_TAG
        return tag

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a name", node.start_mark)
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The plain value of a YAML text; SettingsError that names `where` if it isn't strict, safe YAML."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SettingsError(f"{where}{line}: not valid YAML: {' '.join(reason.split())}") from None
    except (RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:  # PyYAML's, of a tag's value
        raise SettingsError(f"{where}: not valid YAML: {type(error).__name__}") from None


def flow_yaml(value: Any) -> str:
    """Plain values as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def read_yaml(path: Path) -> Any:
    """The value in a YAML file; SettingsError if it can't be read."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8 text") from None


def from_repository(path: Path) -> str:
    """The path as a notebook takes it and one types it: from the repository's root if it lies there."""
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def runs_below(folder: Path) -> list[RunFiles]:
    """The runs at most two levels below a folder."""
    metas = (path for levels in ("*", "*/*") for path in folder.glob(f"{levels}/search/search_meta.yaml"))
    return [RunFiles(path.parents[1]) for path in sorted(metas)]


def name_run(project_name: str) -> str:
    """The name of a run that is made now."""
    return f"{project_name}_{datetime.datetime.now():%Y%m%d_%H%M%S}"


def make_run_directory(runs_root: Path, name: str) -> Path:
    """A new directory below `runs_root`; a number is added to a name that is taken."""
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = runs_root / (name if number == 1 else f"{name}_{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise RunDirectoryError(f"can't make a run directory in {runs_root}: {error.strerror or error}") from None


def plain(value: Any) -> Any:
    """A table's cell as YAML knows it; missing is null."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
