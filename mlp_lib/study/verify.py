"""Recorded trainings drawn at random, done again and compared with what the ledger has of them."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from mlp_lib.core.errors import DataError
from mlp_lib.run.files import RunDirectoryError, RunFiles, plain
from mlp_lib.run.ledger import RESULT, wanted_of
from mlp_lib.run.meta import read_meta
from mlp_lib.study.study import Study

TOLERANCE = 0.2  # of losses, relative, where another kind of machine or another torch computes (docs/trouble.md)


def verify(study: Study, sample: int, seed: int) -> tuple[bool, str]:
    """Train so many of the run's recorded trainings again; whether all agree, and a report.

    To the bit where the run was made by this kind of machine and torch alone, and not on CUDA; else status and losses
    must agree within TOLERANCE, since other hardware and populations round otherwise. The run is only read. Raises
    DataError if the data is another, RunDirectoryError if nothing is recorded.
    """
    meta, recorded = read_meta(study.files), study.trainings()
    if recorded.empty:
        raise RunDirectoryError(f"{study.files.root} holds no trainings: nothing to verify")
    if meta.get("data_digest") not in (None, study.digest):
        raise DataError(f"{study.settings.dataset} is not the data of {study.files.root}: its digest differs")
    conditions = study.conditions
    here = {"machine": study.workers.machine, "device": conditions.device, "torch": conditions.torch}
    made = {name: dict.fromkeys(_find(meta, name)) for name in here}
    others = [f"{name} {one}" for name in here for one in made[name] if one.split("+")[0] != here[name].split("+")[0]]
    if not others and conditions.device == "cuda":
        others = ["other populations, which decide the rounding on CUDA"]
    drawn = recorded.sample(min(sample, len(recorded)), random_state=seed).reset_index(drop=True)
    found = _train_again(study, drawn)
    pairs = zip(drawn.to_dict("records"), found.to_dict("records"), strict=True)
    differences = [_differ(then, now, bool(others)) for then, now in pairs]
    wrong = [line for line in differences if line]
    ratio = found["test_loss"] / drawn["test_loss"]
    bound = scipy.stats.binomtest(len(wrong), len(drawn), alternative="less").proportion_ci(0.95).high
    what = "; ".join(others)
    how = f"within {TOLERANCE:.0%}, since the run has {what}, and here is {here['machine']}" if others else "to the bit"
    lines = [*wrong, f"{len(drawn) - len(wrong)} of {len(drawn)} trainings drawn from {len(recorded)} agree {how}"]
    if others:
        lines.append(f"test losses, now over then: {ratio.min():.4f} to {ratio.max():.4f}, median {ratio.median():.4f}")
    lines.append(f"with 95 % confidence at most {bound:.1%} of all are wrong")
    return not wrong, "\n".join(lines)


def _train_again(study: Study, drawn: pd.DataFrame) -> pd.DataFrame:
    """The results of the drawn trainings, in their order. Where trials were halved each ends when it did."""
    halved = study.settings.search_method == "successive_halving"
    results = []
    for epochs, rows in drawn.groupby("epochs_trained") if halved else [(study.settings.max_epochs, drawn)]:
        settings = study.settings.model_copy(update={"max_epochs": int(epochs)})
        with tempfile.TemporaryDirectory() as folder:
            again = replace(study, settings=settings, files=RunFiles(Path(folder)))
            places = zip(rows.index, rows.to_dict("records"), strict=True)
            wanted = [replace(wanted_of(row), trial=place) for place, row in places]
            for unit, result in again.train(wanted, "verify"):
                results.append(pd.DataFrame(result.rows).set_axis(unit.trials))
    return pd.concat(results).sort_index()


def _differ(then: dict[str, Any], now: dict[str, Any], tolerant: bool) -> str:
    """A line on how a training differs from what is recorded of it; empty if it agrees."""
    if tolerant:
        close = [np.isclose(now[n], then[n], rtol=TOLERANCE, equal_nan=True) for n in ("val_loss", "test_loss")]
        names = [] if then["status"] == now["status"] and all(close) else ["status", "val_loss", "test_loss"]
    else:
        names = [name for name in RESULT if plain(then[name]) != plain(now[name])]
    told = ", ".join(f"{name} {plain(then[name])} recorded, {plain(now[name])} now" for name in names)
    return f"{then['phase']}, {then['architecture']}, seed {then['seed']}: {told}" if names else ""


def _find(meta: Any, name: str) -> Iterator[str]:
    """What the record says under a name, or its plural, wherever it says so; but for what was asked for."""
    if isinstance(meta, list):
        meta = dict(enumerate(meta))
    if isinstance(meta, dict):
        for key, value in meta.items():
            if key == f"{name}s" or (key == name and isinstance(value, str)):
                yield from value if isinstance(value, list) else [value]
            elif key not in ("parameters", "analysis", "search_report", "benchmark"):  # none of these trained it
                yield from _find(value, name)
