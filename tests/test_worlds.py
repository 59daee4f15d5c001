"""Five studies with all their values made by another implementation: the answers over searches agree to 1e-9."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_stored_reports import same

from mlp_lib.evidence import contenders, over_searches

WORLDS = sorted(path.parent for path in Path(__file__).parent.glob("worlds/*/expected.yaml"))
FRAMES = ("regret_by_budget", "tuning_curves", "pairs", "architectures")


def read(world):
    expected = yaml.safe_load((world / "expected.yaml").read_text())
    return pd.read_csv(world / "trials.csv"), pd.read_csv(world / "judged.csv"), expected


def test_there_are_five_worlds():
    assert [world.name for world in WORLDS] == ["broken_pair", "diverged_and_tied", "large", "small", "tiny"]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_every_value_of_a_world(world):
    trials, judged, expected = read(world)
    given = {name: expected.pop(name) for name in ("budget", "confidence", "margin")}
    result = over_searches(trials, judged, **given)
    assert contenders(trials, given["budget"]) == (expected["m"], expected["contenders"])
    for name in FRAMES:
        rows = getattr(result, name).to_dict("records")
        same(expected.pop(name), [{key: value for key, value in row.items() if value == value} for row in rows], 1e-9)
    for name, values in expected.items():
        same(values, getattr(result, name), 1e-9)
