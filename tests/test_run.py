"""The command and papermill as a user starts them: files of a run, going on, growing, killing, refusing."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from study import (
    ARCHITECTURES,
    LONG,
    MORE,
    differing,
    fail,
    grown_as_fresh,
    in_this_process,
    papermill,
    processes_under,
    settings_of,
    snapshot,
    start,
    statuses,
    succeed,
    tables,
    wait_for,
    write_parameters,
)

from mlp_lib.core.values import HYPERPARAMETERS, Architecture
from mlp_lib.reports import session
from mlp_lib.reports.analysis import Evidence
from mlp_lib.reports.pages import describe_status
from mlp_lib.run import meta
from mlp_lib.run.claim import claim
from mlp_lib.run.files import (
    NOTEBOOKS,
    ROOT,
    TEMPORARY,
    RunDirectoryError,
    RunFiles,
    read_image_losses,
    read_table,
    read_yaml,
    write_table,
    write_yaml,
)
from mlp_lib.run.parameters import PHASES
from mlp_lib.run.record import note
from mlp_lib.run.work import PACKAGES
from mlp_lib.study import phases
from mlp_lib.workers.pool import describe_machine

# --- the runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than `base`, by the four notebooks with bare papermill, with one worker, in a directory of their own."""
    folder = tmp_path_factory.mktemp("hand")
    (folder / "elsewhere").mkdir()
    space = (ROOT / "params" / "search_space.yaml").read_text()
    (folder / "space.yaml").write_text(space.replace(".0e-", "e-"))  # which without a dot is text in YAML 1.1
    options = ("-f", write_parameters(folder / "more.yaml", **LONG | MORE), "-f", folder / "space.yaml")
    for phase in PHASES:
        done = papermill(phase, folder / "elsewhere", *options, "-p", "workers", 1, "-p", "run_dir", folder / "run")
        assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its search, its retraining and its transfer, and analysed in between (early.yaml)."""
    run_dir = tmp_path_factory.mktemp("runs") / "killed"
    one, other = (run_dir / "search" / name for name in ARCHITECTURES)
    options = ("-f", base.parents[1] / "tiny.yaml", "--runs-root", run_dir.parent, "--run-name", "killed")
    ledger = run_dir / "trainings.csv"
    kill_between(ledger.exists, other / "learning_curves.csv", "run", *options, "-p", "workers", 1)
    again = ("run", "--run-dir", run_dir)
    kill_between((one / "retrain/seed_1/config.yaml").exists, other / f"retrain/seed_2/{TEMPORARY}config.yaml", *again)
    succeed("analysis", "--run-dir", run_dir)
    (run_dir / "analysis/answers.yaml").rename(run_dir.parent / "early.yaml")
    results = run_dir / f"transfer/{TEMPORARY}transfer_results.csv"
    kill_between(lambda: "\ntransfer," in ledger.read_text(), results, *again, "-p", "workers", 2)
    succeed(*again)
    return run_dir


def kill_between(first: Callable[[], bool], last: Path, *arguments: Any) -> None:
    """Start the command and kill its process group once `first` holds, before `last` is written; it leaves no process.

    last: what is appended to, or the temporary file of what is written.
    """
    run_dir = next(folder for folder in last.parents if folder.parent.name.startswith("runs"))
    for number, leftover in enumerate(run_dir.glob(f"{TEMPORARY}running_*")):  # the next is to say that it began
        leftover.rename(leftover.with_name(f"{TEMPORARY}{number}"))
    process = start(*arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(run_dir.glob(f"{TEMPORARY}running_*")), process)
    last.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(last)  # the write waits here for a reader that never comes
    wait_for(first, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes_under(process.pid), seconds=30)
    last.unlink()
    assert not last.with_name(last.name.removeprefix(TEMPORARY)).exists()


# --- the files ------------------------------------------------------------------------------------------------------

STATS = ["n", "mean", "var", "min", "max", "mean_accuracy"]
RESULT = ["status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]
COLUMNS = {
    "search/search_seed_losses.csv": ["architecture", "seed", "test_loss", "test_accuracy"],
    "search/search_test_loss_stats.csv": ["architecture", "parameters", *STATS],
    "search/ARCH/search_results.csv": ["trial", *HYPERPARAMETERS, *RESULT],
    "search/ARCH/learning_curves.csv": ["trial", "epoch", "train_loss", "val_loss"],
    "search/ARCH/best_trial/metrics.csv": ["epoch", "train_loss", "val_loss", "val_accuracy"],
    "search/ARCH/retrain/seed_losses.csv": ["seed", "status", "test_loss", "test_accuracy", "val_loss", "best_epoch"],
    "transfer/transfer_seed_losses.csv": ["target", "source", "seed", "status", "test_loss", "test_accuracy", "reused"],
    "transfer/transfer_results.csv": ["target", "source", *STATS],
    "transfer/regret_matrix.csv": ["target", *ARCHITECTURES],
    "transfer/relative_regret_matrix.csv": ["target", *ARCHITECTURES],
}
FILES = [
    *(f"{name}.{kind}" for name in NOTEBOOKS.values() for kind in ("ipynb", "html")),
    "index.html",
    "search/search_meta.yaml",
    "search/summary.yaml",
    "search/search_test_loss_over_seeds.png",
    "search/ARCH/best_hyperparameters.yaml",
    "search/ARCH/best_trial/loss_curve.png",
    "search/ARCH/retrain/seed_1/config.yaml",
    "search/ARCH/retrain/seed_2/model.pt",
    "search/ARCH/summary.yaml",
    "transfer/transfer_test_loss.png",
    "transfer/regret_matrix_mean.png",
    "transfer/relative_regret_matrix.png",
    "analysis/answers.yaml",
]
ROWS = {
    "search/search_seed_losses.csv": 4,
    "search/search_test_loss_stats.csv": 2,
    "search/ARCH/search_results.csv": 3,
    "search/ARCH/learning_curves.csv": 18,
    "search/ARCH/best_trial/metrics.csv": 120,
    "search/ARCH/retrain/seed_losses.csv": 2,
    "transfer/transfer_seed_losses.csv": 8,
    "transfer/transfer_results.csv": 4,
}


def of_each_architecture(name: str) -> list[str]:
    return [name.replace("ARCH", architecture) for architecture in ARCHITECTURES] if "ARCH" in name else [name]


@pytest.mark.parametrize("name", [*FILES, *COLUMNS])
def test_the_file_is_there(base: Path, name: str) -> None:
    for path in of_each_architecture(name):
        assert (base / path).stat().st_size > 0


@pytest.mark.parametrize("name", COLUMNS)
def test_the_table_has_its_columns(base: Path, name: str) -> None:
    for path in of_each_architecture(name):
        table = read_table(base / path)
        assert list(table.columns) == COLUMNS[name]
        assert len(table) == ROWS.get(name, 2)


def test_what_does_not_touch_trainings_is_made_anew(copy: Path) -> None:
    said = succeed("run", "--run-dir", copy, "-p", "margin", 0.2, "-p", "contenders", "chosen")
    assert said.count("done before") == 2
    assert {answer["margin"] for answer in read_yaml(copy / "analysis/answers.yaml").values()} == {0.2}
    assert not (copy / "transfer/contenders.csv").exists()


def test_a_transfer_from_another_run_has_its_architectures(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = ("-f", base.parents[1] / "tiny.yaml", "-p", "search_dir", base, "--dry-run")
    assert in_this_process("transfer", *line, "-p", "seeds", "[7]") == 0
    targets, contenders = len(ARCHITECTURES), len(read_table(base / "transfer/contenders.csv"))
    each = targets * contenders  # the choices are among them
    assert f"transfer: {each} trainings, {each} new" in capsys.readouterr().out
    first = list(Architecture.from_name(ARCHITECTURES[0]).widths)
    for phase in ("run", "transfer"):
        assert in_this_process(phase, *line, "-p", "architectures", f"{{list: [{first}]}}", "-p", "seeds", "[7]") == 0
        assert int(re.search(r"transfer: (?:at most )?(\d+) trainings", capsys.readouterr().out)[1]) <= 1 + contenders
    assert in_this_process("transfer", *line, "-p", "architectures", "{list: [[64]]}", "-p", "seeds", "[7]") == 2
    assert "its search has no 64" in capsys.readouterr().err
    assert not meta.list_refused({"search_dir": str(base)}, {"search_dir": f"{base}/search"})


def test_a_run_may_begin_with_03(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its architectures are those of the search that it reads: to go on, to write lost tables again, to analyse."""
    given = settings_of("transfer", **LONG, search_dir=str(base), contenders="chosen").model_dump()
    given["run_dir"] = str(tmp_path / "own")
    started = session.start("transfer", given)
    phases.transfer(started.study)
    started.finish()
    assert in_this_process("transfer", "--run-dir", tmp_path / "own", "--dry-run") == 0
    assert "transfer: 4 trainings, 0 new" in capsys.readouterr().out
    assert "python -m mlp_lib analysis --run-dir" in describe_status(tmp_path / "own")
    (tmp_path / "own/transfer/regret_matrix.csv").unlink()
    assert "python -m mlp_lib transfer --run-dir" in describe_status(tmp_path / "own")
    started = session.start("analysis", settings_of("analysis").model_dump() | {"run_dir": str(tmp_path / "own")})
    assert "regret_matrix.csv is gone: written again" in capsys.readouterr().out
    assert Evidence(started.files, started.settings).answers()["hyperparameter_transfer"]["effect"] is not None
    started.finish()
    assert "to go on" not in describe_status(tmp_path / "own")  # its search is another's


def test_a_run_of_a_card_is_read_where_there_is_none(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = RunFiles(copy).meta
    path.write_text(path.read_text().replace("\n  device: cpu\n", "\n  device: cuda\n", 1))
    assert read_yaml(path)["parameters"]["device"] == "cuda"
    for phase in ("analysis", "search_report"):
        assert in_this_process(phase, "--run-dir", copy, "--dry-run") == 0
    assert in_this_process("run", "--run-dir", copy, "--dry-run") == 2


def test_the_losses_of_each_image_are_those_of_the_retrainings(base: Path) -> None:
    for name in ARCHITECTURES:
        files = RunFiles(base).architecture(Architecture.from_name(name))
        images, table = read_image_losses(files.image_losses), read_table(files.seed_losses)
        assert list(images) == table["seed"].tolist()
        for losses, test_loss in zip(images.values(), table["test_loss"], strict=True):
            assert (losses.dtype, losses.shape) == (np.float32, (360,))
            assert losses.mean(dtype=float) == pytest.approx(test_loss, rel=1e-6)


def test_contenders_are_trials_with_their_ranks_and_losses(base: Path) -> None:
    files, vector = RunFiles(base), list(HYPERPARAMETERS)
    contenders = read_table(files.contenders).set_index("trial")
    for name in ARCHITECTURES:
        results = read_table(base / "search" / name / "search_results.csv").set_index("trial")
        ranks = results["val_loss"].rank(method="first", na_option="bottom").astype(int) - 1
        assert contenders[name].tolist() == ranks[contenders.index].tolist()
        assert contenders[vector].equals(results.loc[contenders.index, vector])
    losses = read_table(files.contender_losses).merge(contenders[vector], on="trial")
    trainings = read_table(files.trainings).rename(columns={"architecture": "target"}).drop(columns="trial")
    own = losses.merge(trainings, on=["target", "seed", *vector], suffixes=("", "_of_ledger"))
    own = own.drop_duplicates(["target", "trial", "seed"])
    assert len(own) == len(losses) == len(contenders) * len(ARCHITECTURES) * own["seed"].nunique()
    assert own["test_loss"].equals(own["test_loss_of_ledger"])


def test_nothing_is_left_behind(base: Path) -> None:
    assert not [path for path in base.rglob("*") if path.name.startswith((TEMPORARY, ".lock", ".work"))]


def test_the_diagonal_is_reused_to_the_bit(base: Path) -> None:
    losses = read_table(base / "transfer/transfer_seed_losses.csv")
    vectors = read_table(base / "transfer/sources.csv").set_index(["target", "source"])
    same = [
        vectors.loc[(t, s)].equals(vectors.loc[(t, t)]) for t, s in zip(losses["target"], losses["source"], strict=True)
    ]
    assert losses["reused"].tolist() == same  # two sources may have chosen alike
    own = losses[losses["target"] == losses["source"]].rename(columns={"target": "architecture"})
    retrained = read_table(base / "search/search_seed_losses.csv")
    columns = ["architecture", "seed", "test_loss", "test_accuracy"]
    pd.testing.assert_frame_equal(own[columns].reset_index(drop=True), retrained[columns], check_exact=True)


def test_regret_follows_from_the_losses(base: Path) -> None:
    losses = read_table(base / "transfer/transfer_seed_losses.csv")
    means = losses.pivot_table(index="target", columns="source", values="test_loss")
    regret = read_table(base / "transfer/regret_matrix.csv", index="target")
    for target in ARCHITECTURES:
        wanted = means.loc[target] - means.loc[target, target]
        assert regret.loc[target].to_dict() == pytest.approx(wanted.to_dict(), abs=1e-12)


def test_the_best_trial_is_the_one_of_lowest_validation_loss(base: Path) -> None:
    for name in ARCHITECTURES:
        results = read_table(base / "search" / name / "search_results.csv")
        best = read_yaml(base / "search" / name / "best_hyperparameters.yaml")
        row = results.loc[results["val_loss"].idxmin()]
        assert best["trial"] == row["trial"]
        assert list(best["hyperparameters"].values()) == [row[column] for column in HYPERPARAMETERS]
        metrics = read_table(base / "search" / name / "best_trial/metrics.csv")
        assert metrics["val_loss"].min() == row["val_loss"]
        assert metrics["epoch"].tolist() == list(range(1, row["epochs_trained"] + 1))
        assert metrics[metrics["val_loss"].notna()]["epoch"].tolist() == [20, 40, 60, 80, 100, 120]


def test_the_record_says_what_made_the_run(base: Path) -> None:
    record = read_yaml(base / "search/search_meta.yaml")
    assert set(record["parameters"]) == {name for kind in PHASES.values() for name in kind.model_fields}
    assert record["parameters"]["max_epochs"] == 120
    assert (record["device"], record["torch"]) == ("cpu", torch.__version__)
    assert len(record["data_digest"]) >= 32
    assert list(record["phases"]) == list(PHASES)
    for name, phase in record["phases"].items():
        assert phase["status"] == "done"
        (stretch,) = phase["work"]
        assert stretch["duration_s"] > 0
        assert datetime.fromisoformat(stretch["started"]).tzinfo
        assert set(stretch["versions"]) == {"python", *PACKAGES}
        assert stretch["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {"commit", "dirty"} < set(stretch)
        if name != "analysis":  # which has no device
            assert (stretch["device"], stretch["machine"]) == ("cpu", describe_machine(torch.device("cpu")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_whole_run_on_cuda(tmp_path: Path) -> None:
    parameters = write_parameters(tmp_path / "tiny.yaml", device="cuda")
    succeed("run", "-f", parameters, "--runs-root", tmp_path, "--run-name", "cuda")
    files = RunFiles(tmp_path / "cuda")
    assert read_yaml(files.meta)["device"] == "cuda"
    assert (read_table(files.trainings)["status"] == "completed").all()


def test_a_run_goes_on_with_another_device_or_torch_only_if_they_may_be_mixed(copy: Path) -> None:
    """What it was begun with decides; each stretch of work has its own, and the page shows the last and tells of both.

    The kernel of the first one was killed.
    """
    files = RunFiles(copy)
    record = read_yaml(files.meta)
    record |= {"device": "cuda", "torch": "2.0.0"}
    first = record["phases"]["transfer"]["work"][0]
    first |= {"device": "cuda", "machine": "a GPU", "duration_s": None, "clock_s": 1.0, "commit": "1" * 40}
    first["versions"]["torch"] = "2.0.0"
    record["phases"]["transfer"]["status"] = meta.INTERRUPTED
    write_yaml(files.meta, record)
    for config in files.root.glob("search/*/retrain/*/config.yaml"):
        write_yaml(config, read_yaml(config) | {"device": "cuda", "torch": "2.0.0"})
    note(files, "retrain")
    trainings = read_table(files.trainings)
    write_table(files.trainings, trainings[:-1])  # the last is of the transfer
    before = tables(files.root)
    refused = fail("transfer", "--run-dir", copy)
    assert "device: cuda in the run, cpu now; torch: 2.0.0 in the run" in refused
    assert "mixed_devices = true goes on" in refused
    assert tables(files.root) == before
    after = read_yaml(files.meta)
    assert after["phases"].pop("transfer")["status"] == meta.FAILED
    assert after == record | {"phases": {name: record["phases"][name] for name in after["phases"]}}
    succeed("transfer", "--run-dir", copy, "-p", "mixed_devices", "true")
    pd.testing.assert_frame_equal(read_table(files.trainings), trainings)  # the own ones are still reused
    after = read_yaml(files.meta)
    killed, last = after["phases"]["transfer"]["work"]
    assert killed == {name: value for name, value in first.items() if name != "clock_s"}
    assert last["machine"] == describe_machine(torch.device("cpu"))
    assert last["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (after["device"], after["torch"]) == ("cuda", "2.0.0")
    banner = BeautifulSoup((copy / "03_transfer.html").read_text(), "html.parser").header.get_text()
    assert f"torch {last['versions']['torch']}" in banner
    assert "the last of 2 stretches of work" in banner
    index = BeautifulSoup((copy / "index.html").read_text(), "html.parser")
    assert "Not all of it was made in one environment" in index.get_text()
    assert {"a GPU", last["machine"]} <= {cell.get_text() for cell in index.select("td")}


def test_the_answers_are_said(base: Path) -> None:
    answers = read_yaml(base / "analysis/answers.yaml")
    assert list(answers) == ["hyperparameter_transfer", "architecture_sensitivity"]
    for answer in answers.values():
        assert {"verdict", "effect", "interval", "n", "sentence"} <= set(answer)
        assert (answer["n"], answer["trials"], answer["seeds"]) == (1, 3, 2)
        low, high = answer["interval"]
        assert low <= answer["effect"] <= high
    assert len(list((base / "analysis").iterdir())) > 1  # tables and figures


def test_the_pages_load_nothing_from_outside(base: Path) -> None:
    pages = [*base.glob("*.html"), base.parent / "index.html"]
    assert len(pages) == 6
    for path in pages:
        page = BeautifulSoup(path.read_text(), "html.parser")
        links = [tag.get("src") or tag.get("href") for tag in page.select("[src], [href]")]
        assert not [link for link in links if link.startswith(("http:", "https:", "//"))]
        for link in links:  # what is linked is there
            if not link.startswith(("data:", "#")):
                assert (path.parent / link.split("#")[0]).exists(), f"{path.name}: {link}"


def test_the_index_opens_on_the_answers_and_links_the_reports(base: Path) -> None:
    page = BeautifulSoup((base / "index.html").read_text(), "html.parser")
    text = " ".join(page.get_text(" ").split())
    for answer in read_yaml(base / "analysis/answers.yaml").values():
        assert " ".join(answer["sentence"].split()) in text
    links = {tag["href"] for tag in page.select("a[href]")}
    assert {f"{name}.html" for name in NOTEBOOKS.values()} <= links
    assert "Not all of it was made in one environment" not in text
    runs_index = BeautifulSoup((base.parent / "index.html").read_text(), "html.parser")
    assert "base/index.html" in {tag["href"] for tag in runs_index.select("a[href]")}


def test_the_notebooks_are_kept_as_they_were_run(base: Path) -> None:
    for name in NOTEBOOKS.values():
        notebook = nbformat.read(base / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        outputs = [output for cell in code for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
        assert not [output for output in outputs if "widget" in str(output.get("data", {}).keys())]


# --- going on -------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_done_again(copy: Path) -> None:
    before = snapshot(copy)
    said = succeed("run", "--run-dir", copy)
    assert said.count("done before") == 4
    after = snapshot(copy)
    assert after.keys() == before.keys()
    assert [n for n in before if n.endswith((".csv", ".yaml", ".pt", ".ipynb")) and after[n] != before[n]] == []


def test_the_pages_of_a_run_are_made_again(copy: Path, capsys: pytest.CaptureFixture) -> None:
    """Of the notebooks that it keeps; its tables are left alone."""
    (copy / "04_analysis.html").unlink()
    (copy / "index.html").unlink()
    before = snapshot(copy)
    assert in_this_process("render", copy) == 0
    assert "04_analysis: rendered" in capsys.readouterr().out
    after = snapshot(copy)
    assert after.keys() - before.keys() == {"04_analysis.html", "index.html"}
    assert all(name.endswith(".html") for name in before if after[name] != before[name])
    for command in ("render", "status"):
        assert in_this_process(command, copy.parent) == 2
        assert "no run there" in capsys.readouterr().err
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def remade(phase: str, run_dir: Path, page: str, *options: Any) -> None:
    """A report is made again from what is on disk, whose tables stay."""
    before, contents = snapshot(run_dir), tables(run_dir)
    succeed(phase, "--run-dir", run_dir, *options)
    after = snapshot(run_dir)
    assert [n for n in before if n.startswith(("search/mlp", "transfer/")) and after[n] != before[n]] == []
    after_all = tables(run_dir)
    assert {name for name in contents if after_all[name] != contents[name]} <= {"files.csv"}  # it has a page more
    assert after[f"{page}.html"] != before.get(f"{page}.html")


def test_the_report_of_the_search_is_made_from_what_is_on_disk(copy: Path) -> None:
    remade("search_report", copy, "search_report")
    banner = BeautifulSoup((copy / "search_report.html").read_text(), "html.parser").header.get_text()
    assert f"torch {torch.__version__.split('+')[0]}" in banner


def test_a_run_of_an_earlier_version_is_read_and_not_gone_on_with(base: Path, tmp_path: Path) -> None:
    """Its analysis is made again from what is on disk; the list of runs knows it."""
    run_dir = Path(shutil.copytree(base, tmp_path / "studies" / "one"))
    record = read_yaml(run_dir / "search/search_meta.yaml")
    del record["layout"]
    write_yaml(run_dir / "search/search_meta.yaml", record)
    before = snapshot(run_dir)
    assert "was made by an earlier version" in fail("run", "--run-dir", run_dir, "-p", "num_trials", 4)
    assert snapshot(run_dir) == before
    remade("analysis", run_dir, "04_analysis", "--runs-root", tmp_path)
    assert "layout" not in read_yaml(run_dir / "search/search_meta.yaml")
    assert ">complete<" in (tmp_path / "index.html").read_text().replace("\n", "").replace(" ", "")


def test_a_run_killed_in_every_phase_ends_with_the_same_bytes(base: Path, killed: Path) -> None:
    """An analysis made before the transfer is renewed too."""
    assert read_yaml(killed.parent / "early.yaml")["hyperparameter_transfer"]["verdict"] == "undetermined"
    assert differing(killed, base) == []
    assert not [path for path in killed.rglob("*") if path.name.startswith((TEMPORARY, ".lock"))]
    assert statuses(killed) == dict.fromkeys(PHASES, "done")
    for name in ARCHITECTURES:
        weights = [torch.load(r / "search" / name / "retrain/seed_2/model.pt") for r in (killed, base)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def test_a_run_grown_by_the_command_has_the_bytes_of_notebooks_run_by_hand(copy: Path, by_hand: Path) -> None:
    """By hand: bare papermill from another directory; 1e-5 as text; each notebook passes over the others' parameters;
    one worker.
    """
    succeed("run", "--run-dir", copy, *[word for name, value in MORE.items() for word in ("-p", name, value)])
    assert grown_as_fresh(copy, by_hand)
    assert statuses(by_hand) == dict.fromkeys(PHASES, "done")
    ours, theirs = (read_yaml(run_dir / "search/search_meta.yaml")["parameters"] for run_dir in (copy, by_hand))
    assert {name for name in ours if ours[name] != theirs[name]} <= {"architectures", "workers"}
    assert theirs["workers"] == 1
    assert (by_hand / "search/mlp_2/retrain/seed_3/model.pt").exists()
    assert (by_hand / "index.html").exists()


# --- refusing -------------------------------------------------------------------------------------------------------


def test_other_settings_are_refused_by_a_notebook(copy: Path) -> None:
    """What its first cell calls with its globals()."""
    before = snapshot(copy)
    given = settings_of("retrain", **LONG | {"batch_size": 64}).model_dump() | {"run_dir": str(copy)}
    with pytest.raises(RunDirectoryError, match="batch_size: 128 in the run, 64 given"):
        session.start("retrain", given)
    assert snapshot(copy) == before


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_trials", 2, "num_trials: 3 in the run, 2 given; it may only grow, to more than 3"),
        ("retrain_seeds", [2, 3], "retrain_seeds: [1, 2] in the run, [2, 3] given; it may only grow, and lacks 1"),
        ("seeds", [2, 3], "transfer_seeds: [1, 2] in the run, [2, 3] given; it may only grow, and lacks 1"),
        ("architectures", {"list": [[4]]}, "it may only grow, and lacks mlp_3x2"),
        ("batch_size", 64, "batch_size: 128 in the run, 64 given"),
        ("search_seed", 1, "search_seed: 0 in the run, 1 given"),
        ("split_seed", 1, "split_seed: 0 in the run, 1 given"),
        ("save_checkpoints", False, "save_checkpoints: True in the run, False given"),
        ("validation_size", 240, "validation_size: None in the run, 240 given"),
    ],
)
def test_a_run_can_only_grow(copy: Path, name: str, value: Any, told: str, capsys: pytest.CaptureFixture) -> None:
    before = snapshot(copy)
    assert in_this_process("run", "--run-dir", copy, "-p", name, value) == 2
    assert told in capsys.readouterr().err
    assert snapshot(copy) == before


def test_seeds_grow_both_phases_and_one_alone_is_told(copy: Path, capsys: pytest.CaptureFixture) -> None:
    line = ("run", "--run-dir", copy, "--dry-run", "-p")
    assert in_this_process(*line, "seeds", [1, 2, 3]) == 0
    said = capsys.readouterr().out
    assert "retrain: 6 trainings, 2 new" in said
    assert "transfer: 18 trainings, 4 new" in said
    assert "seeds sets both" not in said
    assert in_this_process(*line, "retrain_seeds", [1, 2, 8]) == 0
    said = capsys.readouterr().out
    assert said.startswith("retrain_seeds = [1, 2, 8], transfer_seeds = [1, 2]: a seed that only one of them holds")
    assert "transfer: 12 trainings, 0 new" in said
    assert in_this_process("transfer", *line[1:], "num_trials", 60) == 2
    assert "-p num_trials: transfer takes no num_trials; run --run-dir does" in capsys.readouterr().err
    assert in_this_process(*line, "parts", "search") == 2
    assert "-p parts: parts = 'search': the command search_report makes that part" in capsys.readouterr().err


def test_a_run_in_use_is_refused(copy: Path) -> None:
    with claim(copy, "the test"):
        before = snapshot(copy)
        for phase in ("run", "analysis"):
            assert f"in use: the test by process {os.getpid()}" in fail(phase, "--run-dir", copy)
        assert snapshot(copy) == before


BOTH_NULL = ("-p", "retrain_seeds", "null", "-p", "transfer_seeds", "null")
WRONG = {
    "unknown name": (["-p", "bach_size", "64"], ["bach_size", "batch_size"]),
    "a run of nobody": (["-p", "compare_with", "~nobody there/run"], ["no search there"]),
    "unknown profile": (["--profile", "quik"], ["quik", "quick"]),
    "a number to base 60": (["-f", "{}/old.yaml"], ["old.yaml: retrain_seeds[1] = '1:30'", "colons"]),
    "the training seed": (["-p", "retrain_seeds", "[0, 1]"], ["retrain_seeds = [0, 1]", "another training_seed"]),
    "the training seed for both": (["-p", "seeds", "[0, 1]", *BOTH_NULL], ["-p seeds: seeds = [0, 1]: should not"]),
    "a hyperparameter": (["-p", "lr", "0.01"], ["'lr'", "a part of search_space", "params/search_space.yaml"]),
    "no mapping": (["-f", "{}/list.yaml"], ["list.yaml"]),
    "no such file": (["-f", "{}/missing.yaml"], ["missing.yaml", "No such file"]),
    "no value": (["-p", "num_trials"], ["-p"]),
    "unknown option": (["--profil", "quick"], ["--profil"]),
    "two runs at once": (["--run-dir", "x", "--run-name", "y"], ["--run-dir", "--run-name"]),
    "a path as a name": (["--run-name", "../x"], ["--run-name", "../x"]),
    "too much validation": (["-p", "validation_size", "1437"], ["validation_size", "1437"]),
}
FAULTY = {"list": "[1, 2]", "old": "retrain_seeds: [1, 1:30]"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_parameter_is_named_in_a_line_and_nothing_is_made(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments, named = WRONG[what]
    for name, text in FAULTY.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    given = [argument.replace("{}", str(tmp_path)) if "{}/" in argument else argument for argument in arguments]
    root, tiny = tmp_path / "runs", write_parameters(tmp_path / "tiny.yaml")
    assert in_this_process("run", "-f", tiny, *given, "--runs-root", root) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) <= 2
    assert [word for word in named if word not in captured.err] == []
    assert not root.exists()


def test_phases_that_read_a_run_need_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for phase in ("transfer", "analysis", "search_report"):
        assert in_this_process(phase, "--runs-root", tmp_path / "runs") == 2
        assert "--run-dir" in capsys.readouterr().err
    assert in_this_process("run", "--run-dir", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=str)
def test_a_search_to_take_hyperparameters_from_must_be_whole(
    copy: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    """It is looked at before the first phase trains, which is not the one that needs it."""
    files, line = RunFiles(copy), ("run", *options, "--runs-root", tmp_path / "runs")
    best = files.search / ARCHITECTURES[0] / "best_hyperparameters.yaml"
    best.unlink()
    assert in_this_process(*line, "-p", "search_dir", copy) == 2
    assert f"search_dir = {copy}: its search is outdated ({best.relative_to(copy)} is gone)" in capsys.readouterr().err
    record = read_yaml(files.meta)
    record["phases"]["search"]["status"] = meta.FAILED
    write_yaml(files.meta, record)
    assert in_this_process(*line, "-p", "search_dir", copy) == 2
    assert f"its search is failed; first python -m mlp_lib run --run-dir {copy}" in capsys.readouterr().err
    write_yaml(files.meta, record | {"parameters": {"project_name": "a benchmark"}})
    assert in_this_process(*line, "-p", "compare_with", copy) == 2
    assert f"compare_with = {copy}: no search there" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_trails", "3", "unknown parameter 'num_trails'; did you mean num_trials?"),
        ("num_trials", "1:30", "num_trials = '1:30': should be a whole number from 1 to 1000000; a number has no"),
    ],
)
def test_a_notebook_refuses_what_the_command_refuses(tmp_path: Path, name: str, value: str, told: str) -> None:
    tiny = write_parameters(tmp_path / "tiny.yaml")
    done = papermill("search", tmp_path, "-f", tiny, "-p", name, value, "-p", "run_dir", tmp_path / "run")
    assert done.returncode != 0
    assert told in done.stderr
    assert not (tmp_path / "run").exists()


# --- saying before doing --------------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, tiny = tmp_path / "runs", write_parameters(tmp_path / "tiny.yaml")
    assert in_this_process("run", "-f", tiny, "--runs-root", root, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "search: 6 trainings, 6 new" in said
    assert "retrain: 4 trainings, 4 new" in said
    assert "transfer: at most 12 trainings, 8 new" in said  # both choices, and the third trial as a contender
    assert "time: about" in said
    assert not root.exists()


def test_a_dry_run_on_a_run_counts_what_is_new(copy: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing for the number that null stands for: digits have 1,437 training images, TINY no validation_size."""
    before = snapshot(copy)
    for name, value, said in (
        ("validation_size", 1437 // 6, "nothing to train"),
        ("num_trials", 5, "search: 10 trainings, 4 new"),
    ):
        assert in_this_process("run", "--run-dir", copy, "--dry-run", "-p", name, value) == 0
        assert said in capsys.readouterr().out
    assert snapshot(copy) == before


def test_the_state_of_a_run_outdates_what_follows(copy: Path) -> None:
    """A phase whose parameters grew, and the phases after it, are to be done again."""
    record = read_yaml(copy / "search/search_meta.yaml")
    files = meta.RunFiles(copy)
    settings = settings_of("retrain", **LONG | {"retrain_seeds": [1, 2, 3]}).model_dump(mode="json")
    meta.begin(files, "retrain", settings, {}, {})
    outdated = {"transfer": "outdated", "analysis": "outdated"}
    assert statuses(copy) == {"search": "done", "retrain": "running", **outdated}
    assert read_yaml(files.meta)["phases"]["search"] == record["phases"]["search"]
