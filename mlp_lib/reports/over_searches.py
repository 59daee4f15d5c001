"""The pieces of the analysis that speak of searches: what chance could have brought, not the one search that was."""

import functools

import numpy as np
import pandas as pd
from IPython.display import Markdown

from mlp_lib import figures
from mlp_lib.core.errors import TrainingError
from mlp_lib.core.values import DATASETS, HYPERPARAMETERS
from mlp_lib.evidence import comparisons, find_budget, over_searches, tuning
from mlp_lib.evidence.intervals import as_quotients
from mlp_lib.evidence.practices import practices as tuning_practices
from mlp_lib.evidence.searches import OverSearches
from mlp_lib.reports.pieces import Tables, piece
from mlp_lib.run.files import RunDirectoryError, joined, read_image_losses, read_of_all, read_table
from mlp_lib.run.ledger import read_trainings
from mlp_lib.run.meta import go_on
from mlp_lib.study.draws import rung_epochs


class PiecesOverSearches(Tables):
    """There where contenders were judged."""

    @functools.cached_property
    def found(self) -> OverSearches:
        """Both answers over searches of the budget; there where contenders were judged.

        RunDirectoryError where the search has grown since they were.
        """
        margin, confidence = self.limits
        try:
            return over_searches(self.pool_trials, self.judged, self.budget, confidence, margin)
        except TrainingError as error:
            command = "run" if self.searched.root == self.files.root else "transfer"
            raise RunDirectoryError(f"{error}; to train them: {go_on(self.files.root, command)}") from None

    @functools.cached_property
    def pool_trials(self) -> pd.DataFrame:
        """The trials that the contenders are of: of this run's search, or of the one that search_dir names."""
        return read_of_all(self.searched, self.architectures, "results")

    @property
    def budget(self) -> int:
        """The search budget, trials of a search."""
        return find_budget(self.parameters.get("search_budget", "auto"), self.pool_trials["trial"].nunique())

    @piece(
        "transfer_over_searches",  # one architecture has none
        figure=lambda self, table: figures.regret_by_budget(table, self.settings.margin),
    )
    def regret_by_budget(self) -> pd.DataFrame:
        """The mean regret against the search budget, logs."""
        return self.found.regret_by_budget

    @piece(
        "judged",
        figure=lambda self, table: figures.pair_matrix(
            table.assign(quotient=np.exp(table["regret"]).where(~self.found.broken), beyond_margin=self.found.costly),
            self.settings.margin,
            "Test loss relative to the target's own hyperparameters, over searches",
        ),
        shown=lambda self, table, figure: (),  # it stands with the answers
    )
    def transfer_over_searches(self) -> pd.DataFrame:
        """What each source's searches cost on each target, logs, with tests at the margin; the errors beside."""
        errors = tuning.error_pairs(self.pool_trials, self.judged, self.budget)
        return self.found.pairs.merge(errors.rename(columns={"regret": "error_regret"}), on=["target", "source"])

    @piece("judged", figure=lambda self, table: figures.tuning_curves(table), shown=lambda self, table, figure: ())
    def tuning_curves(self) -> pd.DataFrame:
        """The judged loss of each architecture against the search budget, logs, and how often each is best."""
        return self.found.tuning_curves

    @piece(
        "judged",
        figure=lambda self, pairs: figures.architecture_intervals(
            as_quotients(pairs), self.settings.margin, "Tuned test losses over searches: differences"
        ),
    )
    def architectures_over_searches(self) -> pd.DataFrame:
        """The differences of the tuned architectures, logs, with the interval that decides, and the errors of both."""
        curves = self.error_curves()
        errors = curves[curves["n"] == self.budget].set_index("architecture")["error"]
        pairs = self.found.decided
        return pairs.assign(first_error=pairs["first"].map(errors), second_error=pairs["second"].map(errors))

    @piece("judged", shown=lambda self, table, figure: [table[table["n"] == self.budget]])
    def error_curves(self) -> pd.DataFrame:
        """The tuning curves of the error, 1 - accuracy."""
        return tuning.error_curves(self.pool_trials, self.judged, self.budget, self.settings.confidence)

    @piece("judged", figure=lambda self, table: figures.variance_components(table.set_index("component")["variance"]))
    def variance_components(self) -> pd.DataFrame:
        """Variances of log losses by where they come from, the luck of the test images among them."""
        components = dict(self.found.components)
        losses = {a.name: read_image_losses(self.files.architecture(a).image_losses) for a in self.architectures}
        if sum(map(bool, losses.values())) > 1:
            components["images"] = tuning.image_variance(losses)
        return pd.DataFrame({"component": list(components), "variance": list(components.values())})

    @piece(
        "judged",
        figure=lambda self, table: figures.tuning_cost(table),
        shown=lambda self, table, figure: [figure, Markdown(self.small_pays())],
    )
    def tuning_cost(self) -> pd.DataFrame:
        """What tuning on each source with n trials costs, in operations, and what it yields on each target."""
        searching, training = self._an_epoch(self.search_parameters), self._an_epoch(self.parameters)
        return tuning.tuning_cost(
            self.pool_trials, self._as_recorded(), self.budget, searching, training, self.settings.confidence
        )

    def _an_epoch(self, parameters: dict) -> pd.Series:
        """The floating-point operations of an epoch on a run's data, of each architecture.

        6 a parameter and image, forward and backward (Kaplan et al. 2020, "Scaling laws for neural language models",
        section 2.1).
        """
        facts = DATASETS[parameters["dataset"]]
        images = facts.images - (parameters["validation_size"] or facts.images // 6)
        return pd.Series({a.name: 6.0 * images * a.count_parameters(facts.inputs) for a in self.architectures})

    @piece(
        "judged",
        figure=lambda self, table: figures.replication(table),
        shown=lambda self, table, figure: [Markdown("\n\n".join(self.replication_sentences())), figure],
    )
    def replication(self) -> pd.DataFrame:
        """The answers over searches beside those of each run to compare with that shares no trial or seed, by `run`."""
        return joined(
            comparisons.replication(self.found, other.found).assign(run=name)
            for name, other in self.compared.items()
            if len(other.judged) and other.budget == self.budget and not self._shares_luck(other)
        )

    def replication_sentences(self) -> list[str]:
        """How far each run to compare with found what this one did, in sentences."""
        told = []
        for name, rows in self.replication().groupby("run", sort=False) if len(self.replication()) else []:
            told += comparisons.replication_sentences(rows, name, self.settings.confidence)
            told[-1] += f" {self.differences(name)}"
        return told

    def _shares_luck(self, other: Tables) -> bool:
        """Whether the two runs have trials or run seeds in common."""
        same = any(self.search_parameters[n] == other.search_parameters[n] for n in ("search_seed", "training_seed"))
        return same or bool({*self.judged["seed"]} & {*other.judged["seed"]})

    def small_pays(self) -> str:
        """Where tuning on a smaller architecture pays most, in a sentence; empty where it doesn't."""
        a_trial = tuning.operations_of_a_trial(self.pool_trials, self._an_epoch(self.search_parameters))
        return tuning.small_pays(self.tuning_cost(), a_trial, self.counts(), self.budget)

    @piece("judged", shown=lambda self, table, figure: [table[table["n"] == self.budget].drop(columns="n")])
    def practices(self) -> pd.DataFrame:
        """What ways to come to a target's hyperparameters yield, relative to a search on the target."""
        extra, there = self.with_extra_sources, self.search_parameters
        rungs = functools.partial(rung_epochs, max_epochs=there["max_epochs"], val_interval=there["val_interval"])
        trials = self.pool_trials
        if self.searched.root != self.files.root:  # whose test losses may be on other data
            trials = trials.drop(columns="test_loss")
        return tuning_practices(
            trials,
            self._as_recorded(),
            read_of_all(self.searched, self.architectures, "curves"),
            self.budget,
            self.counts(),
            extra[extra["source"] == "default"],
            rungs,
            self.settings.confidence,
        )

    def _as_recorded(self) -> pd.DataFrame:
        """The judged trainings with the epochs that they took and their validation losses, which the ledger knows."""
        vectors = read_table(self.files.contenders)[["trial", *HYPERPARAMETERS]]
        ledger = read_trainings(self.files, "retrain", "transfer").drop(columns="trial")
        keys = ["target", "seed", *HYPERPARAMETERS]
        recorded = ledger.rename(columns={"architecture": "target"}).drop_duplicates(keys)
        keyed = self.judged.merge(vectors, on="trial")
        return keyed.merge(recorded[[*keys, "epochs_trained", "val_loss"]], on=keys, how="left")
