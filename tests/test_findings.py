"""What the README and the page of findings say of the reference studies is what their tables say."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import stats

from mlp_lib.run.files import ROOT

REFERENCE, README, FINDINGS = ROOT / "executed/reference", ROOT / "README.md", ROOT / "docs/findings.md"
TABLE = re.compile(r"<!-- (?P<path>\S+\.csv) -->\n+(?P<table>(?:\|.*\n)+)")


@pytest.mark.parametrize("page", [README, FINDINGS], ids=lambda page: page.name)
@pytest.mark.parametrize("study", ["equal_parameters", "depths_and_widths"])
def test_the_answers_are_quoted(page: Path, study: str) -> None:
    text = " ".join(page.read_text().replace("\n>", "\n").split())
    answers = yaml.safe_load((REFERENCE / study / "analysis/answers.yaml").read_text())
    for answer in answers.values():
        assert answer["sentence"] in text


@pytest.mark.parametrize("study", ["equal_parameters", "depths_and_widths"])
def test_the_correlations_with_dropout(study: str) -> None:
    trainings = pd.read_csv(REFERENCE / study / "trainings.csv")
    trials = trainings[trainings["phase"] == "search"]
    for name, rows in trials.groupby("architecture"):
        found = stats.spearmanr(rows["dropout"], rows["val_loss"]).statistic
        assert f"| {name.removeprefix('mlp_')} | {found:.2f} |" in FINDINGS.read_text()


def read_markdown(table: str) -> pd.DataFrame:
    """Its cells as text, by row and column."""
    header, _, *rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return pd.DataFrame(rows, columns=header)


@pytest.mark.parametrize(("path", "table"), TABLE.findall(FINDINGS.read_text()))
def test_a_table_is_its_files(path: str, table: str) -> None:
    """Each row by its words, each number as far as the page rounds it; columns and rows may be left out."""
    stored, shown = pd.read_csv(ROOT / path), read_markdown(table)
    stored = stored.map(lambda cell: cell.removeprefix("mlp_") if isinstance(cell, str) else cell)
    stored.columns = stored.columns.str.removeprefix("mlp_")
    stored = stored[shown.columns].drop_duplicates()
    words = [name for name in shown if not pd.api.types.is_numeric_dtype(stored[name])]
    matched = shown.merge(stored, on=words, how="left", suffixes=(" shown", ""), validate="one_to_one")
    for name in shown.columns.difference(words):
        for text, value in zip(shown[name], matched[name], strict=True):
            decimals = len(text.partition(".")[2])
            assert abs(float(text) - value) <= 0.51 * 10**-decimals, (name, text, value)


def test_what_the_widths_show_is_quoted() -> None:
    page = " ".join((ROOT / "docs/widths.md").read_text().split())
    for sentence in yaml.safe_load((REFERENCE / "widths/standard/analysis/findings.yaml").read_text()):
        assert sentence in page or sentence.startswith("This run and")
