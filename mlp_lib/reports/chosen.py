"""The pieces of the analysis that speak of the hyperparameters that this run's one search chose."""

import pandas as pd
from IPython.display import Markdown

from mlp_lib import figures
from mlp_lib.evidence import architectures as sensitivity
from mlp_lib.evidence import comparisons, transfer
from mlp_lib.reports.pieces import Tables, piece
from mlp_lib.run.files import joined


class PiecesOfChosen(Tables):
    """There where 02 or 03 have run."""

    @piece(
        "transfers",
        figure=lambda self, effects: figures.pair_matrix(
            effects.assign(quotient=effects["quotient"].where(~effects["broken"])),
            self.settings.margin,
            "Test loss relative to the target's own hyperparameters, for the chosen ones only",
        ),
        shown=lambda self, effects, figure: [figure] if len(self.judged) else [],  # else it stands with the answers
    )
    def transfer_effects(self) -> pd.DataFrame:
        """What each source's hyperparameters cost on each target, with intervals and tests."""
        return transfer.transfer_effects(self.transfers, *self.limits)

    @piece(
        "with_extra_sources",
        figure=lambda self, table: figures.quotient_intervals(
            table, "source", "Test loss relative to own hyperparameters, over all targets"
        ),
    )
    def extra_sources(self) -> pd.DataFrame:
        """What the hyperparameters of each source that is no architecture cost over all targets."""
        if len(self.with_extra_sources) == len(self.transfers):
            return pd.DataFrame()
        return comparisons.extra_sources(self.with_extra_sources, self.settings.confidence)

    @piece("with_extra_sources")
    def gain_kept(self) -> pd.DataFrame:
        """The share of what tuning gains over torch's default that transferred hyperparameters keep."""
        return comparisons.gain_kept(self.with_extra_sources, self.settings.confidence)

    @piece("transfers", "retrainings")
    def other_search(self) -> pd.DataFrame:
        """What it costs to take the hyperparameters from the search that `search_dir` names, such as on other data."""
        if not self.parameters.get("search_dir"):
            return pd.DataFrame()
        return comparisons.other_search(self.transfers, self.retrainings, self.settings.confidence)

    @piece(
        "transfers",
        figure=lambda self, table: figures.quotient_intervals(
            table.assign(quantity=table["quantity"] + " to " + table["run"]), "quantity", "This run relative to another"
        ),
        shown=lambda self, table, figure: [*map(Markdown, self.comparison_answers()), figure],
    )
    def comparison(self) -> pd.DataFrame:
        """The transfer here beside that of each run to compare with, by `run`; of other seeds see `replication`."""
        apart, level = {*self.replication().get("run", ())}, self.settings.confidence
        return joined(
            comparisons.compare_transfer(self.transfers, run.with_extra_sources, level).assign(run=name)
            for name, run in self.compared.items()
            if name not in apart and len(run.with_extra_sources)
        )

    def comparison_answers(self) -> list[str]:
        """Whether the regret of transfer is smaller here than in each run to compare with, and how the two differ."""
        told = []
        for name, rows in self.comparison().groupby("run", sort=False):
            said = comparisons.comparison_sentence(rows, name, self.settings.confidence)
            told.append(f"{said} {self.differences(name)}")
        return told

    @piece(
        "retrainings",
        figure=lambda self, pairs: figures.architecture_intervals(
            pairs, self.settings.margin, "Test losses with the chosen hyperparameters: differences"
        ),
        shown=lambda self, pairs, figure: [figure] if len(self.judged) else [],  # else it stands with the answers
    )
    def architecture_pairs(self) -> pd.DataFrame:
        """The differences of test loss between all pairs of architectures, with tests of difference and equivalence."""
        return sensitivity.architecture_pairs(self.retrainings, *self.limits)

    @piece("architecture_pairs")
    def architecture_anova(self) -> pd.DataFrame:
        """Analysis of variance of the test loss by architecture and run seed, with variance shares."""
        return sensitivity.architecture_anova(self.retrainings)

    @piece("architecture_pairs")
    def seeds(self) -> pd.DataFrame:
        """What the run seeds share and how many would decide: same-seed (intraclass) correlation, seeds by goal."""
        needed = sensitivity.seeds_of_pairs(self.architecture_pairs(), len(self.architectures), *self.limits)
        found = {"intraclass_correlation": sensitivity.same_seed_correlation(self.architecture_anova())}
        found |= {f"seeds_for_{goal}": number for goal, number in needed.items()}
        return pd.DataFrame({"what": list(found), "found": pd.Series(found.values(), dtype=float)})
