"""Twenty whole studies that differ in their draws and run seeds alone: what is said of one holds for the others."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from study import in_process, run_all, settings_of, study_of

from mlp_lib.evidence import over_searches
from mlp_lib.evidence.searches import OverSearches
from mlp_lib.run.files import RunFiles, read_table
from mlp_lib.study.sources import read_trials

STUDIES, BUDGET = 20, 6
CONTRADICTIONS = ({"transfers", "does_not_transfer"}, {"equivalent", "different_beyond_margin"})


def study(run_dir: Path, number: int) -> OverSearches:
    """The answers over searches of a study with draws and run seeds of its own."""
    seeds = [100 * number + place for place in (1, 2, 3)]
    changes = {
        "num_trials": 18,
        "search_seed": 1000 + number,
        "training_seed": 10_000 + number,
        "retrain_seeds": seeds,
        "transfer_seeds": seeds,
        "architectures": {"list": [[32], [64], [32, 16], [64, 32]]},
        "batch_size": 256,
        "max_epochs": 100,
        "patience": 5,
        "val_interval": 4,
    }
    run_all(run_dir, in_process(settings_of("search", **changes)), **changes)
    files = RunFiles(run_dir)
    trials = read_trials(files, study_of(run_dir, "search", **changes).architectures)
    return over_searches(trials, read_table(files.contender_losses), BUDGET)


@pytest.mark.slow
def test_studies_agree(tmp_path: Path) -> None:
    """No two contradict each other; at least 17 intervals hold the mean of the other nineteen's regrets."""
    found = [study(tmp_path / str(number), number) for number in range(STUDIES)]
    for one, other in itertools.combinations(found, 2):
        assert all({one.answers[q], other.answers[q]} not in CONTRADICTIONS for q in one.answers)
    means = [result.regret_by_budget.set_index("n").loc[BUDGET] for result in found]
    regrets = np.array([mean["regret"] for mean in means])
    others = (regrets.sum() - regrets) / (STUDIES - 1)
    held = [mean["low"] <= other <= mean["high"] for mean, other in zip(means, others, strict=True)]
    assert sum(held) >= 17, [result.answers for result in found]
