"""Five studies with all their values made by another implementation: the answers over searches agree to 1e-9."""

import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mlp_lib.evidence import contenders, over_searches

WORLDS = sorted(path.parent for path in Path(__file__).parent.glob("worlds/*/expected.yaml"))
FRAMES = ("regret_by_budget", "tuning_curves", "pairs", "architectures")


def read(world):
    expected = yaml.safe_load((world / "expected.yaml").read_text())
    return pd.read_csv(world / "trials.csv"), pd.read_csv(world / "judged.csv"), expected


def assert_same(found, expected, where):
    """Every value of `expected` and nothing else; numbers to 1e-9."""
    if isinstance(expected, dict):
        assert list(found) == list(expected) if "n" not in expected else set(found) == set(expected), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (where, found, expected)
    else:
        assert found == expected, where


def test_there_are_five_worlds():
    assert [world.name for world in WORLDS] == ["broken_pair", "diverged_and_tied", "large", "small", "tiny"]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_every_value_of_a_world(world):
    trials, judged, expected = read(world)
    given = {name: expected.pop(name) for name in ("budget", "confidence", "margin")}
    result = over_searches(trials, judged, **given)
    assert contenders(trials, given["budget"]) == (expected["m"], expected["contenders"])
    for name in FRAMES:
        rows = [
            {key: value for key, value in row.items() if value == value}
            for row in getattr(result, name).to_dict("records")
        ]
        assert_same(
            [dict(sorted(row.items())) for row in rows], [dict(sorted(row.items())) for row in expected.pop(name)], name
        )
    for name, values in expected.items():
        assert_same(getattr(result, name), values, name)
