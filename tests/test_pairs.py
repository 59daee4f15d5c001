"""Every pair of values of two parameters works, as far as it isn't refused before anything starts: the real command."""

import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from lan import Lan
from study import FIXED, TINY, statuses, succeed

from mlp_lib.run.files import RunFiles, read_table
from mlp_lib.run.parameters import FIELDS, PHASES

VALUES: dict[str, list[Any]] = {
    "scheduler": [None, "of the test"],
    "preload": ["auto", "cpu", False],
    "loader_workers": [0, 2],
    "workers": [1, 2],
    "deterministic": [False, True],
    "mixed_devices": [False, True],
    "matmul_precision": ["highest", "high", "medium", "auto"],
    "parametrization": ["standard", "mup", "mup_independent_decay", "standard_by_layer"],
    "validation_size": [None, 300],
    "batch_size": [128, 5000],
    "max_epochs": [6, 1],
    "val_interval": [2, 10],
    "patience": [2, 1],
    "architectures": [{"list": [[4], [3, 2]]}, {"list": [[4]]}],
    "search_method": ["random", "sobol", "successive_halving", "grid"],
    "search_space": [FIXED | {"lr": {"distribution": "log_uniform", "low": 1e-3, "high": 1e-2}}],
    "grid_points": [2, 3],
    "grid_seeds": [[101], [101, 102]],
    "num_trials": [4, 1],
    "same_trials_for_all_architectures": [True, False],
    "save_checkpoints": [True, False],
    "retrain_seeds": [[1, 2], [1]],
    "transfer_seeds": [[1, 2], [3]],
    "transfer_extra_sources": [[], ["cheapest", "median", "default"]],
    "search_budget": ["auto", 1],
    "contenders": ["auto", "chosen"],
    "search_dir": [None, "another run"],
    "compare_with": [None, "another run"],
    "confidence": [0.95, 0.5],
}


def cover(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows of values in which every pair of two parameters' values comes at least once, each row chosen greedily."""
    draws = random.Random(0)
    choices = {name: [(name, place) for place in range(len(of))] for name, of in values.items()}
    left = {pair for a, b in itertools.combinations(choices.values(), 2) for pair in itertools.product(a, b)}
    rows = []
    while left:
        row = dict(min(left))
        others = [name for name in values if name not in row]
        for name in draws.sample(others, len(others)):
            gains = [len(left & set(_pairs([*row.items(), choice], values))) for choice in choices[name]]
            row[name] = gains.index(max(gains))
        left -= set(_pairs(list(row.items()), values))
        rows.append({name: of[row[name]] for name, of in values.items()})
    return rows


def _pairs(row: list[tuple[str, int]], values: Mapping[str, list[Any]]) -> Iterator[tuple]:
    return itertools.combinations(sorted(row, key=lambda choice: list(values).index(choice[0])), 2)


ROWS = cover(VALUES)


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    lan = Lan(tmp_path_factory.mktemp("lan"))
    lan.start_worker()
    lan.wait_for(1)
    yield lan
    lan.close()


def test_every_pair_is_there() -> None:
    """As many as there are, so few runs."""
    found = {(a, str(row[a]), b, str(row[b])) for row in ROWS for a, b in itertools.combinations(VALUES, 2)}
    assert len(found) == sum(len(a) * len(b) for a, b in itertools.combinations(VALUES.values(), 2))
    assert len(ROWS) <= 24


def test_every_choice_is_there() -> None:
    """Of the parameters of a study that are true or false, or one of some names, as far as this machine has them."""
    names = {name for kind in PHASES.values() for name in kind.model_fields} - {"device", "dataset", "parts"}
    for name in names:
        kind = FIELDS[name].annotation
        choices = {bool: (True, False), Literal: get_args(kind)}.get(get_origin(kind) or kind, ())
        assert all(choice in VALUES.get(name, ()) for choice in choices if choice != "cuda"), name


@pytest.mark.slow
@pytest.mark.parametrize("row", range(len(ROWS)))
def test_every_pair_works(lan: Lan, base: Path, tmp_path: Path, row: int) -> None:
    given = {"scheduler": lan.address, "search_dir": str(base), "compare_with": str(base)}
    values = TINY | ROWS[row] | {name: value for name, value in given.items() if ROWS[row][name]}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    succeed("run", "-f", tmp_path / "values.yaml", "--runs-root", tmp_path, "--run-name", "run")
    assert set(statuses(tmp_path / "run").values()) == {"done"}
    rows = read_table(RunFiles(tmp_path / "run").trainings)
    assert (rows["test_loss"].notna() == (rows["status"] == "completed")).all()
    assert set(rows["status"]) <= {"completed", "not_trained"}  # one epoch of one batch teaches little
    assert set(rows["phase"]) >= {"search", "retrain"}
