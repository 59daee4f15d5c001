"""The reports that are kept in git are what this code makes of their tables."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mlp_lib.reports.analysis import Evidence
from mlp_lib.reports.pieces import PIECES
from mlp_lib.run.files import ROOT, RunFiles
from mlp_lib.run.meta import continue_run
from mlp_lib.run.parameters import AnalysisSettings
from mlp_lib.run.parsing import check_all, merge, parse_own

EXECUTED = ROOT / "executed"
EXAMPLE, REFERENCE = EXECUTED / "example", EXECUTED / "reference"
REPORTS = [
    EXAMPLE,
    *(path.parent for path in sorted(REFERENCE.glob("*/index.html")) if (path.parent / "analysis").exists()),
]
KEPT = ("replication", "equal_parameters", "depths_and_widths")
SHOWN = {".ipynb", ".html", ".png"}  # a run's other files are tables


def analyse(report: Path, again: Path) -> Evidence:
    """All pieces of a report's analysis made anew from a copy of its tables."""
    shutil.copytree(report, again, ignore=lambda folder, names: [n for n in names if Path(n).suffix in SHOWN])
    shutil.rmtree(again / "analysis")
    files, settings = RunFiles(again), check_all(continue_run(again, merge(None, [], [])))
    evidence = Evidence(files, parse_own(AnalysisSettings, settings, report.name))
    for piece in PIECES:
        getattr(evidence, piece)()
    return evidence


@pytest.mark.parametrize("report", [EXAMPLE, *(REFERENCE / name for name in KEPT)], ids=lambda report: report.name)
def test_the_analysis_is_made_again_from_the_tables(report: Path, tmp_path: Path) -> None:
    """Numbers to eight digits: another processor may round otherwise."""
    again = tmp_path / report.name
    analyse(report, again)
    stored, made = ({p.name: p for p in (run / "analysis").iterdir()} for run in (report, again))
    tables = [{name for name, path in found.items() if path.suffix not in SHOWN} for found in (stored, made)]
    assert tables[0] == tables[1]
    assert report != EXAMPLE or stored.keys() == made.keys()  # the replication is kept without figures
    for name, path in stored.items():
        if path.suffix == ".csv":
            pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(made[name]), rtol=1e-8)
        elif path.suffix == ".yaml":
            same(yaml.safe_load(path.read_text()), yaml.safe_load(made[name].read_text()))


def same(stored: object, made: object, rounding: float = 1e-8) -> None:
    """Equal plain values, numbers but for rounding."""
    if isinstance(stored, dict):
        assert stored.keys() == made.keys()
        for name in stored:
            same(stored[name], made[name], rounding)
    elif isinstance(stored, list):
        assert len(stored) == len(made)
        for a, b in zip(stored, made, strict=True):
            same(a, b, rounding)
    else:
        assert stored == (pytest.approx(made, rel=rounding, abs=rounding) if isinstance(made, float) else made)


def test_the_reference_is_two_studies_and_small() -> None:
    assert {"equal_parameters", "depths_and_widths"} == {report.name for report in REPORTS if report != EXAMPLE}
    kept = [path for path in (EXECUTED / "reference").rglob("*") if path.is_file() and path.suffix != ".pt"]
    assert sum(path.stat().st_size for path in kept) < 30e6


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: str(report.relative_to(EXECUTED)))
def test_a_report_is_whole(report: Path) -> None:
    for name in ("01_search", "02_retrain", "03_transfer", "04_analysis"):
        assert (report / f"{name}.ipynb").exists()
        assert (report / f"{name}.html").exists()
    assert (report / "index.html").exists()
