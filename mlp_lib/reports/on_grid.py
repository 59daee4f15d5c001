"""The pieces of the analysis that speak of a grid: how the optimum moves with the width."""

import functools

import numpy as np
import pandas as pd
from IPython.display import Markdown

from mlp_lib import figures
from mlp_lib.evidence import widths
from mlp_lib.reports.pieces import Tables, joined, piece
from mlp_lib.run.meta import different_parameters, read_meta


class PiecesOfGrid(Tables):
    """There where 01 has tried a grid."""

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """The trainings of the grids of this run and of those that it is compared with, by `parametrization`."""
        tables: dict[str, pd.DataFrame] = {}
        for run in (self, *map(self.of_run, self.compared)):
            name = run.parameters.get("parametrization", "standard")
            name += f" ({run.files.root.name})" if name in tables else ""
            tables |= {name: run.grid.assign(parametrization=name)} if len(run.grid) else {}
        return joined(tables.values())

    @functools.cached_property
    def widths(self) -> widths.Widths:
        """How the optima of the grids move with the width."""
        return widths.over_widths(self.points, *self.limits, self.settings.analysis_seed)

    @piece(
        "grid",
        "points",
        figure=lambda self, table: figures.loss_by_width(widths.find_curves(self.points), table, self.widths.drifts),
        shown=lambda self, table, figure: [Markdown("- " + "\n- ".join(self.drift_sentences())), figure, table],
    )
    def optimum_by_width(self) -> pd.DataFrame:
        """The optimum of each hyperparameter by width, and what the narrowest width's optimum costs there."""
        return self.widths.optima

    @piece("optimum_by_width")
    def drift_by_width(self) -> pd.DataFrame:
        """How each optimum moves along the widths, with a verdict."""
        return self.widths.drifts

    def drift_sentences(self) -> list[str]:
        """Whether each optimum moves, and what else the runs beside this one differ in."""
        told = [widths.drift_sentence(drift, *self.limits) for drift in self.widths.drifts.to_dict("records")]
        for run in self.compared:
            differences = different_parameters(self.parameters, read_meta(run)["parameters"])
            told.append(f"This run and {run.root.name} differ in: {'; '.join(differences) or 'nothing'}.")
        return told

    @piece(
        "grid",
        figure=lambda self, trials: figures.grid_maps(trials, self.space.free),
        kept=False,
    )
    def grid_map(self) -> pd.DataFrame:
        """The trials of a grid over two hyperparameters, of which the figure is a map."""
        shown = len(self.space.free) == 2 and np.isfinite(self.trials["test_loss"]).any()
        return self.trials if shown else pd.DataFrame()
