"""Files of a run that are gone or were changed by hand: told, and made again; those of others are left alone."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from study import LONG, differing, settings_of, snapshot, statuses, succeed, tables, told

from mlp_lib import __main__
from mlp_lib.reports import session
from mlp_lib.reports.pages import describe_status
from mlp_lib.run import meta
from mlp_lib.run.files import TEMPORARY, RunDirectoryError, RunFiles, read_table, write_table
from mlp_lib.run.parameters import PHASES


def edit(path: Path, column: str, value: float, row: int = 0) -> None:
    """Change a number in a table as with a text editor."""
    table = read_table(path)
    table.loc[row, column] = value
    write_table(path, table)


def begin(phase: str, run_dir: Path, **changes: object) -> session.Session:
    """What a notebook's first cell does with its globals()."""
    return session.start(phase, settings_of(phase, **LONG | changes).model_dump() | {"run_dir": str(run_dir)})


def test_what_is_lost_is_told_and_made_again(copy: Path, base: Path) -> None:
    """Views, a figure, a page; a config, curves, metrics and rows of the ledger, which take trainings."""
    files = RunFiles(copy)
    one, other = (files.search / name for name in ("mlp_4", "mlp_3x2"))
    gone = [one / "search_results.csv", other / "best_trial/metrics.csv", other / "retrain/seed_1/config.yaml"]
    gone += [files.regret_figure, files.answers, files.page("retrain"), files.notebook("analysis")]
    for path in gone:
        path.unlink()
    edit(other / "search_results.csv", "val_loss", 0.001)
    edit(one / "learning_curves.csv", "val_loss", 0.001)
    edit(one / "retrain/seed_losses.csv", "test_loss", 0.001)
    ledger = read_table(files.trainings)
    write_table(files.trainings, ledger[:-1])  # the last is of the transfer
    said = told(copy)
    assert "metrics.csv is gone, search/mlp_3x2/search_results.csv is not as it was written" in said["search"]
    assert said["search"].endswith(" and 2 more")
    assert "1 of 8 trainings of transfer are gone from trainings.csv" in said["transfer"]
    assert all(said[phase].startswith("outdated") for phase in PHASES)
    assert "to go on: python -m mlp_lib run --run-dir" in describe_status(copy)
    assert "answers.yaml is gone" in (copy / "index.html").read_text()
    said = succeed("run", "--run-dir", copy)
    assert "search/mlp_3x2/best_trial/metrics.csv is gone" in said
    assert "search: 0 of 4 trainings" in said  # the curves of all trials of one architecture, the other's best
    assert differing(copy, base) == []
    assert snapshot(copy).keys() == snapshot(base).keys()
    assert all(line.startswith("done") for line in told(copy).values())


def test_an_analysis_writes_lost_views_again(copy: Path, base: Path, capsys: pytest.CaptureFixture) -> None:
    files = RunFiles(copy)
    (files.search / "mlp_4/search_results.csv").unlink()
    (files.search / "mlp_4/best_trial/loss_curve.png").unlink()
    (files.search / "mlp_4/retrain/seed_losses.csv").write_text("nonsense")
    edit(files.transfer_losses, "test_loss", 0.001)
    begin("analysis", copy)
    said = capsys.readouterr().out
    assert said.count("written again from trainings.csv") == 3
    assert "transfer/transfer_seed_losses.csv is not as it was written" in said
    assert differing(copy, base) == []
    assert (files.search / "mlp_4/best_trial/loss_curve.png").exists()


def damage_curves(files: RunFiles) -> None:
    (files.search / "mlp_4/learning_curves.csv").unlink()


def damage_ledger(files: RunFiles) -> None:
    edit(files.trainings, "val_loss", 0.001)


@pytest.mark.parametrize(("damage", "named"), [(damage_curves, "is gone"), (damage_ledger, "is not as it was written")])
def test_what_takes_trainings_is_told_and_not_read_in_silence(
    copy: Path, tmp_path: Path, damage: Callable, named: str, capsys: pytest.CaptureFixture
) -> None:
    """An analysis says so; a transfer is refused, also one that takes its hyperparameters from that run."""
    files = RunFiles(copy)
    damage(files)
    before = tables(copy)
    begin("analysis", copy)
    said = capsys.readouterr().out
    assert "Not all is there to be analysed" in said
    assert named in said
    for run_dir, search_dir in ((copy, None), (tmp_path / "other", str(copy))):
        with pytest.raises(RunDirectoryError, match=f"{named}.*to make it again: python -m mlp_lib run --run-dir"):
            begin("transfer", run_dir, search_dir=search_dir)
    assert tables(copy) == before
    assert not (tmp_path / "other").exists()


def test_a_ledger_that_was_changed_is_no_ground_to_go_on_from(copy: Path) -> None:
    files = RunFiles(copy)
    damage_ledger(files)
    before = snapshot(copy)
    with pytest.raises(RunDirectoryError, match="restore it, or delete its rows of search"):
        begin("search", copy)
    assert snapshot(copy) == before
    assert told(copy)["search"].startswith("outdated")


def test_checkpoints_may_be_away(copy: Path) -> None:
    """As in a clone: git doesn't take them along."""
    for path in copy.rglob("model.pt"):
        path.unlink()
    said = told(copy)["retrain"]
    assert said.startswith("done")
    assert said.endswith("model.pt is gone and 2 more")
    assert statuses(copy) == dict.fromkeys(PHASES, "done")
    assert meta.is_whole(RunFiles(copy), "retrain", meta.read_meta(RunFiles(copy)))


def test_without_the_record_all_is_held_to_be_lost(copy: Path, base: Path) -> None:
    (copy / "files.csv").write_text("nonsense\n")
    assert all("files.csv is gone" in line for line in told(copy).values())
    begin("analysis", copy).finish()
    assert read_table(copy / "files.csv")["phase"].tolist() == sorted(read_table(base / "files.csv")["phase"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_lost_is_made_again(copy: Path, base: Path, seed: int) -> None:
    """Eight files of a run, drawn at random, each removed or with a byte changed."""
    draws = random.Random(seed)
    names = sorted(set(snapshot(base)) - {"index.html", "search/search_meta.yaml"})
    for name in draws.sample([name for name in names if not name.endswith(".pt")], 8):
        path, content = copy / name, (base / name).read_bytes()
        if draws.random() < 0.5 or name == "trainings.csv" or path.suffix not in (".csv", ".yaml", ".npz"):
            path.unlink()
        else:
            path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    succeed("run", "--run-dir", copy)
    assert differing(copy, base) == []
    assert snapshot(copy).keys() == snapshot(base).keys()


# --- what is not the run's ------------------------------------------------------------------------------------------


def test_pages_and_files_of_others_are_left_alone(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = Path(shutil.copytree(base, tmp_path / "site" / "r1"))
    page = run_dir.parent / "index.html"
    others = [page, run_dir / ".tmp_mine", run_dir / "notes" / f"{TEMPORARY}of_another_run"]
    (run_dir / "notes").mkdir()
    for path in others:
        path.write_text("mine")
    monkeypatch.chdir(run_dir)
    assert __main__.main(["run", "--run-dir", "."]) == 0
    assert "No runs yet" not in (run_dir / "index.html").read_text()
    assert __main__.main(["run", "--run-dir", str(run_dir), "--runs-root", str(run_dir.parent)]) == 0
    assert f"no list of runs: {page} bears no mark of mlp_lib" in capsys.readouterr().out
    assert {path.read_text() for path in others} == {"mine"}
    page.unlink()
    for _ in range(2):
        assert __main__.main(["run", "--run-dir", str(run_dir), "--runs-root", str(run_dir.parent)]) == 0
        assert "r1/index.html" in page.read_text()
    assert "no list" not in capsys.readouterr().out
    assert {path.name for path in run_dir.parent.iterdir()} == {"r1", "index.html"}
    (run_dir / "index.html").write_text("mine")
    describe_status(run_dir)
    assert (run_dir / "index.html").read_text() == "mine"
