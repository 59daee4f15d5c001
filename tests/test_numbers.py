"""Numbers at their edges, through the whole command: equal trials, one validation image, one batch for all."""

from pathlib import Path

from study import ARCHITECTURES, FIXED, succeed, write_parameters

from mlp_lib.run.files import read_table, read_yaml

EDGES = {
    "search_space": FIXED,  # all trials tie, and all sources share their hyperparameters
    "validation_size": 1,
    "batch_size": 5000,  # more than there are images
    "max_epochs": 200,
    "val_interval": 300,  # the only check is the one after the last epoch
}


def test_a_study_at_its_edges(tmp_path: Path) -> None:
    parameters = write_parameters(tmp_path / "edges.yaml", **EDGES)
    succeed("run", "-f", parameters, "--runs-root", tmp_path, "--run-name", "edges")
    run_dir = tmp_path / "edges"
    for name in ARCHITECTURES:
        results = read_table(run_dir / "search" / name / "search_results.csv")
        assert results["val_loss"].nunique() == 1
        assert set(results["best_epoch"]) == {200}
        assert set(results["val_accuracy"]) <= {0.0, 1.0}
        assert read_yaml(run_dir / "search" / name / "best_hyperparameters.yaml")["trial"] == 0
        metrics = read_table(run_dir / "search" / name / "best_trial" / "metrics.csv")
        assert metrics["val_loss"].notna().tolist() == [False] * 199 + [True]
    regret = read_table(run_dir / "transfer" / "regret_matrix.csv", index="target")
    assert (regret == 0).all(axis=None)  # exactly: equal hyperparameters share their trainings
    assert read_table(run_dir / "transfer" / "transfer_seed_losses.csv")["reused"].all()
    assert {*read_table(run_dir / "trainings.csv")["phase"]} == {"search", "retrain"}
    for answer in read_yaml(run_dir / "analysis" / "answers.yaml").values():
        assert answer["verdict"]
        assert answer["sentence"]
