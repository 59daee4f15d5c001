"""What a piece of the analysis is: made from a run's tables once, written under analysis/ and shown as a section."""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown, display

from mlp_lib.core.values import DATASETS
from mlp_lib.run.files import RunFiles, read_of_all, read_table, write_figure, write_table, write_yaml
from mlp_lib.run.meta import different_parameters, find_searches, read_architectures, read_meta, searched_by
from mlp_lib.run.parameters import AnalysisSettings, SearchSpace
from mlp_lib.study.sources import read_trials

SECTIONS = Path(__file__).parent / "templates/sections.md"  # heading and prose of each piece, below <!-- its name -->
PIECES: dict[str, Callable] = {}  # what each section displays: (tables, value, figure) to displayables


def piece(
    *needs: str,
    figure: Callable[["Tables", Any], Any] | None = None,
    shown: Callable[["Tables", Any, Any], Iterable[Any]] = lambda _, value, drawn: (drawn or value,),
    kept: bool = True,
) -> Callable:
    """Declare a method as a piece of the analysis: made once, and written once under the method's name.

    needs: the tables, and pieces, without which there is none: its value is then an empty table, and neither written
    nor shown. A table is kept as CSV, with its index if that has a name, another value as YAML (unless it is not
    `kept`); what `figure` draws of the value as PNG. `shown`: what its section displays, in order; by default the
    figure, or the table where there is none.
    """

    def declare(compute: Callable[["Tables"], Any]) -> Callable[["Tables"], Any]:
        name = compute.__name__

        @functools.wraps(compute)
        def once(tables: "Tables") -> Any:
            if name not in tables.made:
                there = all(len(tables.table(need)) for need in needs)
                tables.made[name] = compute(tables) if there else pd.DataFrame()
                if not _is_nothing(tables.made[name]):
                    tables.write(name, kept, figure)
                elif tables.settings.parts == "all":  # a part leaves what is of the whole
                    for suffix in (".csv", ".yaml", ".png"):  # of an earlier analysis
                        (tables.files.analysis / name).with_suffix(suffix).unlink(missing_ok=True)
            return tables.made[name]

        PIECES[name] = shown
        return once

    return declare


def _is_nothing(value: Any) -> bool:
    return isinstance(value, pd.DataFrame) and value.empty


class Tables:
    """A run's tables, read once, and what its pieces came to; a table that isn't there yet is empty.

    trials: see read_trials; curves: their learning curves; draws: trials that are draws, not points of a grid; grid:
    the trainings of such points; retrainings: architecture, seed, test_loss; transfers: target, source, seed, test_loss
    of the architectures as sources, with_extra_sources of all.
    """

    def __init__(self, files: RunFiles, settings: AnalysisSettings):
        self.files, self.settings, self.architectures = files, settings, read_architectures(files)
        self.parameters = read_meta(files)["parameters"]
        self.limits = (settings.margin, settings.confidence)
        self.made: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        self.trials = read_trials(files, self.architectures)
        self.curves = read_of_all(files, self.architectures, "curves")
        results = read_of_all(files, self.architectures, "results")
        self.grid, self.draws = (results, results[:0]) if "seed" in results else (results[:0], self.trials)
        self.retrainings = read_losses(files.seed_losses, "architecture seed")
        self.with_extra_sources = read_losses(files.transfer_losses, "target source seed")
        self.judged = read_losses(files.contender_losses, "target trial seed")
        if settings.parts == "search":
            self.with_extra_sources, self.judged = self.with_extra_sources.iloc[:0], self.judged.iloc[:0]
        own = self.with_extra_sources["source"].isin([architecture.name for architecture in self.architectures])
        self.transfers = self.with_extra_sources[own]
        self.searched = searched_by(files, self.parameters.get("search_dir"))
        self.search_parameters = read_meta(self.searched)["parameters"]

    @functools.cached_property
    def compared(self) -> "dict[str, Tables]":
        """The runs that this one is compared with, by name, read by the settings of this one."""
        runs = find_searches(self.settings.compare_with)
        return {run.root.name: type(self)(run, self.settings) for run in runs}

    def differences(self, name: str) -> str:
        """In what parameters that decide results this run differs from one that it is compared with, in a sentence."""
        found = different_parameters(self.parameters, self.compared[name].parameters)
        return f"The runs differ in: {'; '.join(found) or 'nothing that decides a result'}."

    @property
    def space(self) -> SearchSpace:
        """What the search drew from."""
        return SearchSpace.model_validate(self.parameters["search_space"])

    def table(self, name: str) -> Any:
        """One of the run's tables, or the value of a piece."""
        return getattr(self, name)() if name in PIECES else getattr(self, name)

    def write(self, name: str, kept: bool, figure: Callable | None) -> None:
        """Write what was made of a piece, and its figure."""
        value, path = self.made[name], self.files.analysis / name
        if kept and isinstance(value, pd.DataFrame):
            write_table(path.with_suffix(".csv"), value, index=value.index.name is not None)
        elif kept:
            write_yaml(path.with_suffix(".yaml"), value)
        if figure:
            self.figures[name] = figure(self, value)
            write_figure(path.with_suffix(".png"), self.figures[name])

    def show(self, name: str) -> None:
        """Display a section: heading and prose, then the figure and table; nothing where there is nothing to show."""
        value = self.table(name)
        if _is_nothing(value):
            return
        display(Markdown(read_sections()[name]))
        for item in PIECES[name](self, value, self.figures.get(name)):
            display(HTML(table_html(item)) if isinstance(item, pd.DataFrame) else item)

    def counts(self) -> dict[str, int]:
        """The number of parameters of each architecture."""
        inputs = DATASETS[self.parameters["dataset"]].inputs
        return {a.name: a.count_parameters(inputs) for a in self.architectures}


def table_html(table: pd.DataFrame) -> str:
    """The table to be read: four digits, no prefixes, no index, nothing where a value is NaN."""
    table = table.reset_index() if table.index.name else table
    names = {name: str(name).removeprefix("mlp_").replace("_", " ") for name in table}
    with pd.option_context("display.max_colwidth", None):
        return table.rename(columns=names).map(_cell).to_html(border=0, index=False)


def _cell(value: Any) -> Any:
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.removeprefix("mlp_").replace("_", " ") if isinstance(value, str) else value


def read_sections() -> dict[str, str]:
    """The heading and prose, in Markdown, of each piece."""
    _, *parts = re.split(r"<!-- (\w+) -->\n", SECTIONS.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def read_losses(path: Path, keys: str) -> pd.DataFrame:
    """A table of losses, empty with `keys` as its columns where there is none."""
    if path.exists():
        return read_table(path)
    return pd.DataFrame(columns=[*keys.split(), "test_loss"]).astype({"test_loss": float})
