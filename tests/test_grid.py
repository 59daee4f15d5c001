"""A search on a grid: its points by hand, and a run whose tables depend on nothing but its parameters."""

import html
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML, Markdown
from matplotlib.figure import Figure
from study import (
    FIXED,
    Stopping,
    evidence_of,
    fail,
    grown_as_fresh,
    kinds,
    refusing,
    run_all,
    settings_of,
    store_parameters,
    study_of,
    succeed,
    tables,
    write_parameters,
)

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.evidence.summaries import by_trial
from mlp_lib.figures.curves import trial_curve
from mlp_lib.reports import pages, pieces
from mlp_lib.reports.analysis import Evidence
from mlp_lib.run.files import RunFiles, read_table, read_yaml
from mlp_lib.run.ledger import read_trainings
from mlp_lib.run.meta import read_architectures
from mlp_lib.run.parameters import SearchSpace
from mlp_lib.run.parsing import check_all, merge
from mlp_lib.study import phases
from mlp_lib.study.draws import grid_trials
from mlp_lib.study.phases import read_sources
from mlp_lib.study.sources import read_trials

LR = {"lr": {"distribution": "log_uniform", "low": 1e-2, "high": 1.0}}
GRID = {
    "search_method": "grid",
    "grid_points": 4,
    "grid_seeds": [101, 102],
    "search_space": FIXED | LR,
    "architectures": {"list": [[4], [8], [3, 2]]},
}
NAMES = ("mlp_4", "mlp_8", "mlp_3x2")


# --- its points -----------------------------------------------------------------------------------------------------


def test_points_are_evenly_spaced_on_the_scale_of_their_range() -> None:
    dropout = {"dropout": {"distribution": "uniform", "low": 0.0, "high": 0.5}}
    trials = grid_trials(SearchSpace(**FIXED | LR | dropout), 5)
    assert len(trials) == 25
    assert [t.dropout for t in trials[:5]] == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert [t.lr for t in trials[::5]] == pytest.approx([10 ** (-2 + i / 2) for i in range(5)])
    assert (trials[0].lr, trials[-1].lr) == (1e-2, 1.0)  # the ends exactly
    assert len({t.beta1 for t in trials}) == 1
    assert len(grid_trials(SearchSpace(**FIXED), 9)) == 1


def test_seeds_of_a_grid_matter_to_a_grid_alone() -> None:
    """What a grid refuses: see test_bad_input."""
    same = [("retrain_seeds", "[1, 102]"), ("training_seed", "1000")]
    check_all(merge(None, [], same))
    grid = [("search_method", "grid"), ("search_space", str(FIXED)), ("grid_seeds", "[1000]")]
    check_all(merge(None, [], same + grid))  # no training has the training seed


def test_a_trial_is_the_mean_over_its_seeds() -> None:
    """Whole numbers are rounded; one that diverged at a seed has no loss."""
    rows = [("completed", 10, 0.5), ("completed", 13, 0.7), ("completed", 4, 0.1), ("diverged", 2, math.nan)]
    results = pd.DataFrame(rows, columns=["status", "epochs_trained", "val_loss"]).assign(trial=[0, 0, 1, 1])
    losses = dict.fromkeys(("val_accuracy", "test_loss", "test_accuracy"), results["val_loss"])
    best = pd.array([4, 5, 2, None], dtype="Int64")
    results = results.assign(seed=[101, 102] * 2, best_epoch=best, lr=[0.1, 0.1, 0.2, 0.2], **losses)
    found = by_trial(results)
    assert found["status"].tolist() == ["completed", "diverged"]
    assert found["epochs_trained"].tolist() == [12, 3]
    assert found["best_epoch"].tolist() == [4, 2]
    assert found["test_loss"].tolist() == [pytest.approx(0.6), pytest.approx(math.nan, nan_ok=True)]
    assert found["lr"].tolist() == [0.1, 0.2]
    alone = results.drop(columns="seed")
    assert by_trial(alone) is alone


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gridded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("gridded")
    run_all(run_dir, **GRID)
    return run_dir


def test_every_architecture_has_every_point_at_every_seed(gridded: Path) -> None:
    vectors = []
    for name in NAMES:
        files = RunFiles(gridded).search / name
        results = read_table(files / "search_results.csv")
        assert results[["trial", "seed"]].to_numpy().tolist() == [[t, s] for t in range(4) for s in (101, 102)]
        vectors.append(results[list(HYPERPARAMETERS)])
        losses = results.groupby("trial")["val_loss"].mean()
        best = read_yaml(files / "best_hyperparameters.yaml")
        assert (best["trial"], best["num_trials"]) == (losses.idxmin(), 4)
        assert best["val_loss"] == pytest.approx(losses.min())
        curves = read_table(files / "learning_curves.csv")
        own = curves[(curves["trial"] == best["trial"]) & (curves["seed"] == 101)]
        metrics = read_table(files / "best_trial" / "metrics.csv")
        assert metrics.equals(own[metrics.columns].reset_index(drop=True))
        assert metrics["val_accuracy"].notna().all()
    assert all(table.equals(vectors[0]) for table in vectors)


def test_the_choice_is_retrained_and_transferred_without_contenders(gridded: Path) -> None:
    trainings = read_trainings(RunFiles(gridded))
    vectors = trainings[trainings["phase"] == "retrain"]["lr"].nunique()
    assert trainings.groupby("phase").size().to_dict() == {"search": 24, "retrain": 6, "transfer": 6 * (vectors - 1)}
    assert vectors > 1
    assert not RunFiles(gridded).contenders.exists()
    assert read_table(RunFiles(gridded).transfer_losses)["source"].nunique() == 3


def test_an_interrupted_grid_goes_on_to_the_same_tables(gridded: Path, tmp_path: Path) -> None:
    """Stopped after two units, and gone on with by other workers, which cut other units."""
    with pytest.raises(KeyboardInterrupt):
        phases.search(study_of(tmp_path, "search", Stopping(settings_of("search", **GRID), 2), **GRID))
    done = read_trainings(RunFiles(tmp_path), "search")
    assert 0 < len(done) == 24 - len(phases.missing_trials(study_of(tmp_path, "search", **GRID)))
    run_all(tmp_path, **GRID, workers=16)
    run_all(tmp_path, refusing(), **GRID)
    assert tables(tmp_path) == tables(gridded)


def test_seeds_may_be_added_and_the_points_not(gridded: Path, tmp_path: Path) -> None:
    run_all(tmp_path / "grown", **GRID | {"grid_seeds": [102]})
    run_all(tmp_path / "grown", **GRID)
    assert grown_as_fresh(tmp_path / "grown", gridded)


def test_a_consensus_ranks_the_means(gridded: Path) -> None:
    files = RunFiles(gridded)
    sources = read_sources(study_of(gridded, "transfer", **GRID, transfer_extra_sources=["consensus"]))
    trials = read_trials(files, read_architectures(files))
    assert len(trials) == 3 * 4
    others = trials[trials["architecture"] != "mlp_8"]
    ranks = others.pivot(index="trial", columns="architecture", values="val_loss").rank().mean(axis=1)
    assert sources["mlp_8"]["consensus"].lr == trials.loc[trials["trial"] == ranks.idxmin(), "lr"].iloc[0]


# --- its analysis ---------------------------------------------------------------------------------------------------

OF_DRAWS = ("expected_best", "winner_instability", "search_comparison", "importance")


@pytest.fixture
def copied(gridded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(gridded, tmp_path / "copied")


def test_the_analysis_has_the_optima_and_nothing_about_draws(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list = []
    monkeypatch.setattr(pieces, "display", shown.append)
    evidence = evidence_of(copied, **GRID)
    assert all(evidence.table(name).empty for name in OF_DRAWS)
    evidence.show("optimum_by_width")
    assert kinds(shown) == [Markdown, Markdown, Figure, HTML]
    table = read_table(copied / "analysis" / "optimum_by_width.csv")
    of = ["parametrization", "architecture", "width", "hyperparameter"]
    numbers = ["optimum", "low", "high", "at_edge", "loss", "loss_at_narrowest", "regret", "regret_low", "regret_high"]
    assert list(table.columns) == [*of, *numbers]
    assert table[["architecture", "width"]].to_numpy().tolist() == [["mlp_4", 4], ["mlp_8", 8]]
    assert evidence.drift_by_width()["widths"].tolist() == [2]
    assert evidence.grid_map().empty
    assert evidence.answers()["hyperparameter_transfer"]["sentence"].endswith("(search_method = grid).")
    for name in pieces.PIECES:
        evidence.show(name)
    pages.write_run_index(copied)  # opens on them
    index = (copied / "index.html").read_text()
    assert all(html.escape(sentence) in index for sentence in evidence.findings())
    assert index.index("the best lr goes as width") < index.index("analysis/optimum_by_width.png")


def test_runs_that_are_compared_stand_side_by_side(copied: Path, tmp_path: Path) -> None:
    mup = GRID | {"parametrization": "mup", "base_width": 4}
    phases.search(study_of(tmp_path, "search", **mup))
    evidence_of(tmp_path, **mup)
    store_parameters(copied, **GRID)
    evidence = Evidence(RunFiles(copied), settings_of("analysis", compare_with=[str(tmp_path), str(copied)]))
    table = evidence.optimum_by_width().set_index(["parametrization", "architecture"])
    again = f"standard ({copied.name})"
    assert list(table.index.unique(0)) == ["standard", "mup", again]
    assert table.loc["standard"].equals(table.loc[again])
    numbers = ["optimum", "low", "high", "loss"]
    assert table.loc[("mup", "mlp_4"), numbers].equals(table.loc[("standard", "mlp_4"), numbers])  # the base width
    assert table.loc[("mup", "mlp_8"), "loss"] != table.loc[("standard", "mlp_8"), "loss"]
    assert len(evidence.figures["optimum_by_width"].axes) == 3


def test_the_curve_of_a_trial_is_drawn_by_seed(gridded: Path) -> None:
    curves = read_table(RunFiles(gridded).search / NAMES[0] / "learning_curves.csv")
    lines = trial_curve(curves, NAMES[0], 0, 0).axes[0].lines
    assert len(lines) == 2 * 2 + 3 * 2 + 1  # two seeds of it, of three others, and the legend's
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines)


def test_a_run_without_a_grid_tells_of_none(copied: Path) -> None:
    store_parameters(copied, **GRID)
    evidence = Evidence(RunFiles(copied), settings_of("analysis", compare_with=str(copied)))
    evidence.grid = evidence.grid.iloc[:0]
    assert evidence.optimum_by_width().empty


def test_two_ranges_give_a_map(tmp_path: Path) -> None:
    decay = {"weight_decay": {"distribution": "log_uniform", "low": 1e-3, "high": 1.0}}
    two = GRID | {"search_space": FIXED | LR | decay, "architectures": {"list": [[4], [8]]}}
    phases.search(study_of(tmp_path, "search", **two))
    evidence = evidence_of(tmp_path, **two)
    assert evidence.optimum_by_width()["hyperparameter"].tolist() == ["lr", "lr", "weight_decay", "weight_decay"]
    assert len(evidence.grid_map()) == 2 * 16
    panels = evidence.figures["grid_map"].axes[:2]
    assert [ax.get_title() for ax in panels] == ["4", "8"]
    assert np.isfinite(panels[0].collections[0].get_array()).all()
    nothing = evidence_of(tmp_path, **two)
    nothing.trials = nothing.trials.assign(test_loss=np.nan)
    assert nothing.grid_map().empty


def test_the_command_runs_a_grid(tmp_path: Path) -> None:
    """Planned, run up to its report, gone on with by a seed, and refused where it would see a retrain seed."""
    small = GRID | {"architectures": {"list": [[4], [8]]}, "retrain_seeds": [1], "transfer_seeds": [1]}
    given = ["-f", write_parameters(tmp_path / "grid.yaml", **small)]
    said = succeed("run", *given, "--dry-run")
    assert "search: 16 trainings, 16 new" in said
    assert "transfer: at most 4 trainings, 2 new" in said
    succeed("search", *given, "--runs-root", tmp_path, "--run-name", "here")
    here = tmp_path / "here"
    succeed("search", "--run-dir", here, "-p", "grid_seeds", "[101, 102, 103]")
    assert len(read_table(RunFiles(here).trainings)) == 2 * (4 * 3 + 1)
    assert "nothing to train" in succeed("search", "--run-dir", here, "--dry-run")
    assert "to go on" not in succeed("status", here)
    assert "No answer yet" not in (here / "index.html").read_text()
    assert "is this run itself" in fail("search_report", "--run-dir", here, "-p", "compare_with", here, code=2)
    there = shutil.copytree(here, tmp_path / "there")
    succeed("search_report", "--run-dir", here, "-p", "compare_with", f"[{there}]")
    page = (here / "search_report.html").read_text()
    assert "Does the optimum move with the width?" in page
    assert "Expected best validation loss" not in page
    assert "grid_points" in fail("search", "--run-dir", here, "-p", "grid_points", 5, code=2)
