"""What each phase wrote, held against what is on the disk: files.csv, a row a file."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlp_lib.run.files import RunFiles, read_table, write_table

_READ = (".csv", ".yaml", ".npz")  # of others, pictures and pages, it counts that they are there
_ONCE = ("trainings.csv", "learning_curves.csv", "metrics.csv", "config.yaml", "image_losses.npz")  # by training alone
_COLUMNS = ["phase", "file", "rows", "sha256"]


@dataclass(frozen=True)
class Lost:
    """A file of a phase, by its path in the run, that is not there as it was written; `text` says so."""

    name: str
    text: str
    changed: bool = False  # and not gone

    @property
    def matters(self) -> bool:
        """Whether results are lost: git doesn't take checkpoints along, and a notebook or page is only a report."""
        return not self.name.endswith((".pt", ".ipynb", ".html"))

    @property
    def is_view(self) -> bool:
        """Whether it can be written again from the ledger."""
        return Path(self.name).name not in _ONCE


def note(files: RunFiles, phase: str) -> None:
    """Record what there is of a phase that has ended: names, rows of tables, digests."""
    paths = files.of_phase(phase)
    rows = [(phase, path.relative_to(files.root).as_posix(), *_measure(path, phase)) for path in paths]
    table = pd.DataFrame(rows, columns=_COLUMNS).astype({"rows": "Int64"})
    known = _read(files)
    table = pd.concat([known[known["phase"] != phase], table]) if len(known) else table
    write_table(files.record, table.sort_values(["phase", "file"]))


def compare(files: RunFiles, phase: str) -> list[Lost]:
    """What a phase wrote, and is not there as it was written."""
    known = _read(files)
    known = known[known["phase"] == phase]
    if known.empty:
        return [Lost(files.record.name, f"{files.record.name} is gone")]
    lost = []
    for name, rows, digest in known[_COLUMNS[1:]].itertuples(index=False, name=None):
        path = files.root / name
        if not path.exists():
            lost.append(Lost(name, f"{name} is gone"))
            continue
        rows_now, digest_now = _measure(path, phase)
        if path == files.trainings and rows_now < rows:
            lost.append(Lost(name, f"{rows - rows_now} of {rows} trainings of {phase} are gone from {name}"))
        elif digest_now != digest:
            what = f"what {name} holds of {phase}" if path == files.trainings else name
            lost.append(Lost(name, f"{what} is not as it was written", changed=True))
    return lost


def _measure(path: Path, phase: str) -> tuple[int | None, str]:
    """The rows of a table, of the ledger those of the phase; the SHA-256 of what is read. Ends of lines don't count."""
    if path.suffix not in _READ:
        return None, ""
    content = path.read_bytes().replace(b"\r\n", b"\n")
    if path.name == "trainings.csv":
        lines = sorted(line for line in content.splitlines() if line.startswith(f"{phase},".encode()))
        return len(lines), hashlib.sha256(b"\n".join(lines)).hexdigest()
    rows = content.count(b"\n") - 1 if path.suffix == ".csv" else None
    return rows, hashlib.sha256(content).hexdigest()


def _read(files: RunFiles) -> pd.DataFrame:
    """files.csv; without rows where there is none that can be read."""
    if files.record.exists():
        with contextlib.suppress(ValueError):
            table = read_table(files.record)
            if list(table.columns) == _COLUMNS:
                return table.fillna({"sha256": ""})
    return pd.DataFrame(columns=_COLUMNS)
