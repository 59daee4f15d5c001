"""Numbers at their edges, through the whole command: equal trials, one validation image, one batch for all."""

from pathlib import Path

from study import ARCHITECTURES, command, write_parameters

from mlp_lib.run import meta
from mlp_lib.run.files import RunFiles, read_table, read_yaml

FIXED = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 1e-3,
    "dropout": 0.1,
    "leaky_relu_alpha": 0.05,
}


def fixed_space(**changes: float) -> dict:
    """A search space of single values: every trial is the same."""
    values = FIXED | changes
    return {name: {"distribution": "uniform", "low": value, "high": value} for name, value in values.items()}


EDGES = {
    "search_space": fixed_space(),  # all trials tie, and all sources share their hyperparameters
    "validation_size": 1,
    "batch_size": 5000,  # more than there are images
    "max_epochs": 2,
    "val_interval": 4,  # the only check is the one after the last epoch
}


def test_a_study_at_its_edges(tmp_path: Path) -> None:
    write_parameters(tmp_path / "edges.yaml", **EDGES)
    done = command("run", "-f", tmp_path / "edges.yaml", "--runs-root", tmp_path / "runs", "--run-name", "edges")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "edges"
    for name in ARCHITECTURES:
        results = read_table(run_dir / "search" / name / "search_results.csv")
        assert results["val_loss"].nunique() == 1
        assert set(results["best_epoch"]) == {2}
        assert set(results["val_accuracy"]) <= {0.0, 1.0}
        assert read_yaml(run_dir / "search" / name / "best_hyperparameters.yaml")["trial"] == 0
        metrics = read_table(run_dir / "search" / name / "best_trial" / "metrics.csv")
        assert metrics["val_loss"].notna().tolist() == [False, True]
    regret = read_table(run_dir / "transfer" / "regret_matrix.csv", index="target")
    assert (regret == 0).all(axis=None)  # exactly: equal hyperparameters share their trainings
    assert read_table(run_dir / "transfer" / "transfer_seed_losses.csv")["reused"].all()
    assert not (run_dir / "transfer" / "trainings.csv").exists()
    for answer in read_yaml(run_dir / "analysis" / "answers.yaml").values():
        assert answer["verdict"]
        assert answer["sentence"]


def test_an_architecture_whose_trials_all_diverge_is_told(tmp_path: Path) -> None:
    write_parameters(tmp_path / "wild.yaml", search_space=fixed_space(lr=1000, weight_decay=1000), max_epochs=60)
    done = command("run", "-f", tmp_path / "wild.yaml", "--runs-root", tmp_path / "runs", "--run-name", "wild")
    assert done.returncode == 1
    assert "all 3 trials of mlp_4 diverged" in done.stderr
    assert "lower the learning rates in search_space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    files = RunFiles(tmp_path / "runs" / "wild")
    states = meta.read_states(files, meta.read_meta(files)["phases"])
    assert states["search"]["status"] == meta.FAILED
    assert "diverged" in states["search"]["error"]
    results = read_table(files.search / "mlp_4" / "search_results.csv")
    assert set(results["status"]) == {"diverged"}
    assert results[["val_loss", "test_loss", "best_epoch"]].isna().all(axis=None)
