"""What the README and the page of findings say of the reference studies is what their tables say."""

import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import stats

from mlp_lib.run.files import ROOT

REFERENCE, README, FINDINGS = ROOT / "executed/reference", ROOT / "README.md", ROOT / "docs/findings.md"
TABLE = re.compile(r"<!-- (?P<path>\S+\.csv) -->\n+(?P<table>(?:\|.*\n)+)")


@pytest.mark.parametrize(
    ("page", "study"),
    [*itertools.product([README, FINDINGS], ["equal_parameters", "depths_and_widths"]), (FINDINGS, "replication")],
)
def test_the_answers_are_quoted(page: Path, study: str) -> None:
    text = read(page)
    answers = yaml.safe_load((REFERENCE / study / "analysis/answers.yaml").read_text())
    for answer in answers.values():
        assert answer["sentence"] in text


def read(page: Path) -> str:
    """Its text without line breaks and marks of quotation."""
    return " ".join(page.read_text().replace("\n>", "\n").split())


def test_what_replicates_is_quoted() -> None:
    sentences = yaml.safe_load((REFERENCE / "equal_parameters/analysis/findings.yaml").read_text())
    quoted = [sentence.partition(" The runs differ")[0] for sentence in sentences if " that replication " in sentence]
    assert len(quoted) == 2
    for sentence in quoted:
        assert sentence in read(FINDINGS)


@pytest.mark.parametrize("study", ["equal_parameters", "depths_and_widths"])
def test_the_correlations_with_dropout(study: str) -> None:
    trainings = pd.read_csv(REFERENCE / study / "trainings.csv")
    trials = trainings[trainings["phase"] == "search"]
    for name, rows in trials.groupby("architecture"):
        found = stats.spearmanr(rows["dropout"], rows["val_loss"], nan_policy="omit").statistic
        assert f"| {name.removeprefix('mlp_')} | {found:.2f} |" in FINDINGS.read_text()


def read_markdown(table: str) -> pd.DataFrame:
    """Its cells as text, by row and column."""
    header, _, *rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return pd.DataFrame(rows, columns=header)


def test_every_marked_table_is_held() -> None:
    assert len(TABLE.findall(FINDINGS.read_text())) == FINDINGS.read_text().count("<!-- executed/") > 0


@pytest.mark.parametrize(("path", "table"), TABLE.findall(FINDINGS.read_text()))
def test_a_table_is_its_files(path: str, table: str) -> None:
    """Each row by its words and counts, each measure as far as the page rounds it; columns and rows may be left out."""
    stored, shown = pd.read_csv(ROOT / path), read_markdown(table)
    stored.columns = stored.columns.str.removeprefix("mlp_")
    words = [name for name in shown if not pd.api.types.is_float_dtype(stored[name])]
    stored[words] = stored[words].astype(str).apply(lambda column: column.str.removeprefix("mlp_"))
    stored = shown[words].merge(stored[shown.columns].drop_duplicates(), on=words)
    matched = shown.merge(stored, on=words, how="left", suffixes=(" shown", ""), validate="one_to_one")
    for name in shown.columns.difference(words):
        for text, value in zip(shown[name], matched[name], strict=True):
            decimals = len(text.partition(".")[2])
            assert abs(float(text) - value) <= 0.51 * 10**-decimals, (name, text, value)


def test_what_the_widths_show_is_quoted() -> None:
    page = " ".join((ROOT / "docs/widths.md").read_text().split())
    for sentence in yaml.safe_load((REFERENCE / "widths/standard/analysis/findings.yaml").read_text()):
        assert sentence in page or sentence.startswith("This run and")
