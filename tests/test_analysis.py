"""The evidence is rebuilt from what is on disk, and says what can't be said."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.display import Markdown
from matplotlib.figure import Figure
from study import evidence_of, kinds, run_all, study_of

from mlp_lib.lab import coordinate_check
from mlp_lib.reports import pieces
from mlp_lib.run.files import ROOT, read_table
from mlp_lib.study import phases

PIECES = tuple(pieces.PIECES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole")
    run_all(run_dir)
    return run_dir


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is displayed."""
    items: list = []
    monkeypatch.setattr(pieces, "display", items.append)
    return items


def test_the_part_on_the_search_leaves_the_answers_alone(whole: Path) -> None:
    evidence_of(whole).answers()
    before = (whole / "analysis" / "answers.yaml").read_bytes()
    evidence = evidence_of(whole, parts="search")
    assert evidence.answers()["hyperparameter_transfer"]["verdict"] == "undetermined"
    assert evidence.transfer_effects().empty
    assert (whole / "analysis" / "answers.yaml").read_bytes() == before


def test_own_draws_answer_for_their_hyperparameters_only(tmp_path: Path) -> None:
    own = {"same_trials_for_all_architectures": False}
    run_all(tmp_path, **own)
    answers = evidence_of(tmp_path, **own).answers()
    for answer in answers.values():
        assert "not over searches: every architecture had draws of its own" in answer["sentence"]


def test_a_run_with_the_search_alone_says_what_is_missing(tmp_path: Path, shown: list) -> None:
    phases.search(study_of(tmp_path, "search"))
    evidence = evidence_of(tmp_path)
    for name in PIECES:
        getattr(evidence, name)()
    for answer in evidence.answers().values():
        assert answer["verdict"] == "undetermined"
        assert "has not been run" in answer["sentence"]
    for name in PIECES:
        evidence.show(name)
    prose = "".join(item.data for item in shown if isinstance(item, Markdown))
    assert "Expected best validation loss" in prose
    assert "architectures that differ more" not in prose
    assert "extra sources" not in prose
    assert len(read_table(tmp_path / "analysis" / "expected_best.csv")) == 2 * 3


def test_one_seed_one_architecture_two_trials_is_too_little_and_said(tmp_path: Path) -> None:
    least = {"num_trials": 2, "architectures": {"list": [[4]]}, "retrain_seeds": [1], "transfer_seeds": [1]}
    run_all(tmp_path, **least)
    evidence = evidence_of(tmp_path, **least)
    for name in PIECES:
        getattr(evidence, name)()
    answers = evidence.answers()
    assert {answer["verdict"] for answer in answers.values()} == {"undetermined"}
    for answer in answers.values():
        for said in (answer, answer["for_these_hyperparameters"]):
            assert said["sentence"].startswith("There is one architecture, so whether")
    assert not list((tmp_path / "analysis").glob("regret_by_budget*"))


def test_every_piece_has_its_section_and_the_notebook_shows_each_once() -> None:
    sections = pieces.read_sections()
    assert sections.keys() == {*PIECES, "parametrization"}
    assert all(prose.startswith(("## ", "### ")) for prose in sections.values())
    cells = nbformat.read(ROOT / "notebooks/04_analysis.ipynb", 4).cells
    shown = [name for cell in cells for name in re.findall(r'evidence\.show\("(\w+)"\)', cell.source)]
    assert shown == [name for name in sections if name in PIECES]


def test_a_table_is_shown_to_be_read() -> None:
    table = pd.DataFrame({"n_seeds": [214.0], "who": ["mlp_8x4"], "p": [float("nan")], "q": [0.123456], "k": [3]})
    page = BeautifulSoup(pieces.table_html(table), "html.parser")
    assert [th.get_text() for th in page.select("th")] == ["n seeds", "who", "p", "q", "k"]
    assert [td.get_text() for td in page.select("td")] == ["214", "8x4", "", "0.1235", "3"]
    named = pieces.table_html(pd.DataFrame({"mlp_8": [1.0]}, index=pd.Index(["mlp_8"], name="architecture")))
    assert [th.get_text() for th in BeautifulSoup(named, "html.parser").select("th")] == ["architecture", "8"]


def test_a_piece_is_made_and_written_once(whole: Path, shown: list) -> None:
    evidence = evidence_of(whole)
    first = evidence.transfer_effects()
    written = (whole / "analysis/transfer_effects.csv").stat().st_mtime_ns
    evidence.show("answers")
    evidence.show("transfer_effects")
    assert evidence.transfer_effects() is first
    assert (whole / "analysis/transfer_effects.csv").stat().st_mtime_ns == written
    assert kinds(shown) == [Markdown, Markdown, Figure, Markdown, Figure, Markdown, Figure]


def test_the_seeds_that_would_decide_are_said(whole: Path) -> None:
    table = evidence_of(whole).seeds().set_index("what")["found"]
    goals = ["seeds_for_pair_equivalent", "seeds_for_all_equivalent", "seeds_for_different"]
    assert list(table.index) == ["intraclass_correlation", *goals]
    assert -1 <= table["intraclass_correlation"] <= 1
    assert table["seeds_for_different"] > 2


def test_the_coordinate_check_has_a_section_under_mup_alone(make_split, training_settings, monkeypatch) -> None:
    shown: list = []
    monkeypatch.setattr(coordinate_check, "display", shown.append)
    coordinate_check.show(make_split(100, 64), training_settings)
    assert shown == []
    coordinate_check.show(make_split(100, 64), training_settings.model_copy(update={"parametrization": "mup"}))
    assert kinds(shown) == [Markdown, Figure]
