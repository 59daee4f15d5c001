"""Successive halving: the rungs by hand, and a search whose result depends on nothing but its parameters."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study import ARCHITECTURES, Stopping, differing, evidence_of, fixed_space, refusing, settings_of, study_of, tables

from mlp_lib.core.training import Training
from mlp_lib.evidence.comparisons import compare_search
from mlp_lib.reports.analysis import Evidence
from mlp_lib.run.files import RunDirectoryError, RunFiles, read_table, read_yaml
from mlp_lib.run.meta import merge_parameters
from mlp_lib.study import phases
from mlp_lib.study.draws import rung_epochs, survivors
from mlp_lib.workers import units
from mlp_lib.workers.pool import Workers

HALVING = {"search_method": "successive_halving", "num_trials": 5, "max_epochs": 16, "val_interval": 2, "patience": 4}


def test_epochs_double_at_each_rung() -> None:
    assert rung_epochs(8, 80, 2) == [10, 20, 40, 80]
    assert rung_epochs(30, 1000, 4) == [64, 128, 252, 500, 1000]
    assert rung_epochs(1, 50, 4) == [50]
    assert rung_epochs(4, 6, 4) == [4, 4, 6]  # up to a check, and no further than max_epochs


def curves_of(losses: dict[int, list[float]]) -> pd.DataFrame:
    rows = [(t, 2 * (i + 1), loss) for t, values in losses.items() for i, loss in enumerate(values)]
    return pd.DataFrame(rows, columns=["trial", "epoch", "val_loss"])


def results_of(epochs: list[int], diverged: tuple[int, ...] = ()) -> pd.DataFrame:
    status = ["diverged" if i in diverged else "completed" for i in range(len(epochs))]
    return pd.DataFrame({"trial": range(len(epochs)), "status": status, "epochs_trained": epochs})


def test_the_better_half_goes_on_by_the_best_loss_so_far() -> None:
    """Trial 0 is best at 2 epochs but beaten at 4; trial 3 would have been best after 8, and is dropped at 2."""
    curves = curves_of({0: [0.1, 0.4, 0.4, 0.4], 1: [0.2, 0.05], 2: [0.4], 3: [0.3]})
    found = survivors(results_of([8, 4, 2, 2]), curves, [2, 4, 8])
    assert found == [[0, 1, 2, 3], [0, 1], [1]]
    later = pd.concat([curves, curves_of({3: [0.3, 0.2, 0.1, 0.0]})])  # what is known of later rungs changes no earlier
    assert survivors(results_of([8, 4, 2, 8]), later, [2, 4, 8])[1] == [0, 1]


def test_odd_numbers_ties_and_divergence() -> None:
    curves = curves_of({0: [0.2], 1: [0.1], 2: [0.1], 3: [0.1], 4: [0.05]})
    assert survivors(results_of([2] * 5), curves, [2, 4])[1] == [1, 2, 4]
    assert survivors(results_of([2] * 5, diverged=(4,)), curves, [2, 4])[1] == [1, 2, 3]
    later = results_of([2, 2, 2, 2, 3], diverged=(4,))  # it diverged after the rung's end
    assert survivors(later, curves, [2, 4])[1] == [1, 2, 4]


def run_search(run_dir: Path, by: Workers | None = None, **changes: Any) -> pd.DataFrame:
    run_dir.mkdir(exist_ok=True)
    return phases.search(study_of(run_dir, "search", by, **HALVING | changes))


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("halved")
    run_search(run_dir)
    return run_dir


def test_half_of_the_trials_is_dropped_at_each_rung(halved: Path) -> None:
    for name in ARCHITECTURES:
        results = read_table(halved / "search" / name / "search_results.csv")
        rungs = results["rung"].to_numpy()
        assert [(rungs >= rung).sum() for rung in (0, 1, 2)] == [5, 3, 2]
        assert (results["epochs_trained"] <= np.take([4, 8, 16], rungs)).all()
        assert results.loc[results["rung"] < 2, "epochs_trained"].max() <= 8
        best = results.loc[results["val_loss"].idxmin()]
        assert best["rung"] == 2
        assert read_yaml(halved / "search" / name / "best_hyperparameters.yaml")["trial"] == best["trial"]
        metrics = read_table(halved / "search" / name / "best_trial" / "metrics.csv")
        assert len(metrics) == best["epochs_trained"]


def test_a_trial_that_went_on_is_as_if_it_had_never_been_cut(halved: Path, tmp_path: Path) -> None:
    run_search(tmp_path, search_method="random")
    for name in ARCHITECTURES:
        plain, ours = (read_table(d / "search" / name / "search_results.csv") for d in (tmp_path, halved))
        last = ours["rung"] == 2
        pd.testing.assert_frame_equal(ours[last].drop(columns="rung"), plain[last], check_exact=True, check_dtype=False)


@pytest.mark.parametrize("name", ["learning_curves.csv", "best_trial/metrics.csv"])
def test_curves_that_are_gone_are_trained_again(halved: Path, tmp_path: Path, name: str) -> None:
    run_dir = Path(shutil.copytree(halved, tmp_path / "again"))
    (run_dir / "search" / ARCHITECTURES[0] / name).unlink()
    run_search(run_dir)
    assert differing(run_dir, halved) == []


def test_what_goes_on_is_not_begun_anew(halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is trained once, and no state is left behind."""
    epochs = []

    class Counting(Training):
        def __next__(self) -> pd.DataFrame:
            rows = super().__next__()
            epochs.append(len(rows))
            return rows

    monkeypatch.setattr(units, "Training", Counting)
    trained = run_search(tmp_path)["epochs_trained"].sum()
    assert sum(epochs) == trained
    assert tables(tmp_path) == tables(halved)
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_search_goes_on_to_the_same_files(halved: Path, tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, Stopping(settings_of("search", **HALVING), after))
    assert phases.left_trials(study_of(tmp_path, "search", **HALVING))
    run_search(tmp_path, workers=16)  # units of one trial each
    assert not phases.left_trials(study_of(tmp_path, "search", **HALVING))
    assert tables(tmp_path) == tables(halved)


def test_trials_cannot_be_added() -> None:
    stored = {"architectures": {}, **HALVING}
    with pytest.raises(RunDirectoryError, match="num_trials"):
        merge_parameters(stored, {"num_trials": 6}, Path("x"))
    assert merge_parameters(stored | {"search_method": "sobol"}, {"num_trials": 6}, Path("x"))


def test_a_trial_that_has_learned_nothing_yet_goes_on(tmp_path: Path) -> None:
    """It is not trained when its first rungs end, and may be later; where none ever is, the best of all is chosen."""
    slow = {"search_space": fixed_space(lr=2e-4), "num_trials": 4}
    results = run_search(tmp_path, **slow)
    assert results["rung"].tolist() == [2, 1, 0, 0] * 2
    assert results["epochs_trained"].tolist() == [16, 8, 4, 4] * 2
    assert results["status"].tolist() == ["completed", *["not_trained"] * 7]
    assert results[results["chosen"]]["trial"].tolist() == [0, 0]
    before = tables(tmp_path)
    run_search(tmp_path, refusing(), **slow)
    assert tables(tmp_path) == before


# --- at equal cost --------------------------------------------------------------------------------------------------


def test_searches_are_compared_at_equal_cost_by_hand() -> None:
    """30 epochs buy 3 of the other's 4 trials of 10; the best of 3 of 1, 2, 3, 4 is 1 in 3 of 4 subsets, else 2."""
    here = pd.DataFrame({"architecture": "a", "trial": [0, 1], "val_loss": [0.5, math.nan], "epochs_trained": [25, 5]})
    there = pd.DataFrame({"architecture": "a", "trial": range(4), "val_loss": [2.0, 1.0, 4.0, 3.0]}).assign(
        epochs_trained=10
    )
    row = compare_search(here, pd.concat([there, there.assign(architecture="b")])).iloc[0]
    assert (row["best"], row["epochs"], row["trials_there"], row["epochs_there"]) == (0.5, 30, 3, 40)
    assert row[["low", "expected_there", "high"]].tolist() == pytest.approx([1.0, 1.25, 3.0])  # .25^3 is below .025
    assert row["quotient"] == pytest.approx(0.4)


def test_the_analysis_compares_with_another_run(halved: Path, tmp_path: Path) -> None:
    run_search(tmp_path, search_method="random")
    evidence_of(tmp_path, **HALVING | {"search_method": "random"})
    ours = evidence_of(halved, **HALVING)
    table = Evidence(RunFiles(halved), settings_of("analysis", compare_with=str(tmp_path))).search_comparison()
    assert table["architecture"].tolist() == list(ARCHITECTURES)
    assert (
        table["epochs"] == [ours.trials.groupby("architecture")["epochs_trained"].sum()[a] for a in ARCHITECTURES]
    ).all()
    assert ours.search_comparison().empty
    assert any("shorter trainings" in warning for warning in ours.search_warnings())
