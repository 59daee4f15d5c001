"""The pieces of the analysis that speak of the search itself: how good it was, what matters, and of a grid's optima."""

import functools

import numpy as np
import pandas as pd
from IPython.display import Markdown

from mlp_lib import figures
from mlp_lib.evidence import comparisons, search, transfer, widths
from mlp_lib.reports.pieces import Tables, piece
from mlp_lib.run.files import joined
from mlp_lib.run.ledger import read_trainings
from mlp_lib.run.meta import different_parameters

_METHODS = {  # what the statistics of random draws can't be held to
    "sobol": "The trials are points of a Sobol sequence, no independent draws: bands of the best of n are too wide.",
    "grid": "The trials are points of a grid, each the mean over its run seeds: a best value lies between points.",
    "successive_halving": "Most trials were dropped before their best check: their losses, and what follows from all "
    "trials below, are of shorter trainings.",
}


class PiecesOfSearch(Tables):
    """There where 01 has run."""

    @piece(
        "trials",
        shown=lambda self, warnings, figure: [Markdown("\n".join(f"- {w}" for w in warnings) or "Nothing to warn of.")],
    )
    def search_warnings(self) -> list[str]:
        """Sentences on what the search leaves open."""
        warnings = search.search_warnings(self.trials, self.space, self.parameters["max_epochs"])
        method = _METHODS.get(self.parameters.get("search_method"))
        return warnings + ([method] if method else [])

    @piece("draws", figure=lambda self, expected: figures.expected_best_curves(expected, self.settings.confidence))
    def expected_best(self) -> pd.DataFrame:
        """Expected best validation loss after n trials."""
        return search.expected_best(self.trials, confidence=self.settings.confidence)

    @piece("draws")
    def winner_instability(self) -> pd.DataFrame:
        """How easily another trial would have won."""
        spread = search.unshared_seed_spread(read_trainings(self.files, "retrain", "transfer"))
        if spread.isna().any() or spread.empty:  # it takes two vectors at two seeds
            return pd.DataFrame()
        return search.winner_instability(self.trials, spread)

    @piece("draws", figure=lambda self, table: figures.importance_bars(table))
    def importance(self) -> pd.DataFrame:
        """Permutation importance of each hyperparameter among the better trials."""
        return search.importance(self.trials, self.settings.analysis_seed)

    @piece("trials", figure=lambda self, _: figures.lr_sensitivity_curves(self.trials))
    def lr_sensitivity(self) -> pd.DataFrame:
        """How wide the range of good learning rates is, by architecture."""
        return search.lr_sensitivity(self.trials)

    @piece("trials")
    def trial_rank_correlation(self) -> pd.DataFrame:
        """Rank correlation of the trials' losses between architectures, where all had the same trials."""
        same = self.parameters.get("same_trials_for_all_architectures")
        return transfer.trial_rank_correlation(self.trials) if same else pd.DataFrame()

    @piece("draws")
    def search_comparison(self) -> pd.DataFrame:
        """The search here beside what that of each run to compare with is expected to find at equal cost, by `run`."""
        return joined(
            comparisons.compare_search(self.draws, run.draws, self.settings.confidence).assign(run=name)
            for name, run in self.compared.items()
            if len(run.draws)
        )

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """The trainings of the grids of this run and of those that it is compared with, by `parametrization`."""
        tables: dict[str, pd.DataFrame] = {}
        for run in (self, *self.compared.values()):
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
        for name, run in self.compared.items():
            differences = different_parameters(self.parameters, run.parameters)
            told.append(f"This run and {name} differ in: {'; '.join(differences) or 'nothing'}.")
        return told

    @piece("grid", figure=lambda self, trials: figures.grid_maps(trials, self.space.free), kept=False)
    def grid_map(self) -> pd.DataFrame:
        """The trials of a grid over two hyperparameters, of which the figure is a map."""
        shown = len(self.space.free) == 2 and np.isfinite(self.trials["test_loss"]).any()
        return self.trials if shown else pd.DataFrame()
