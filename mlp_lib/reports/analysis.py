"""The evidence of a run: tables to statistics and figures, written under analysis/ and shown in 04_analysis."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Image

from mlp_lib.core.values import CLASSES, DATASETS, Architecture
from mlp_lib.evidence import architectures, comparisons, search, summaries, transfer
from mlp_lib.figures import curves as curve_figures
from mlp_lib.figures import effects as effect_figures
from mlp_lib.figures import losses as loss_figures
from mlp_lib.figures import search as search_figures
from mlp_lib.run.files import RunFiles, read_table, read_yaml, write_figure, write_table, write_yaml
from mlp_lib.run.meta import different_parameters, read_architectures, read_meta
from mlp_lib.run.parameters import AnalysisSettings, SearchSpace

_TRANSFER = "target source seed status test_loss test_accuracy reused"
_METHODS = {  # what the statistics of random draws can't be held to
    "sobol": "The trials are points of a Sobol sequence, no independent draws: bands of the best of n are too wide.",
    "successive_halving": "Most trials were dropped before their best check: their losses, and what follows from all "
    "trials below, are of shorter trainings.",
}
TITLES = {
    "hyperparameter_transfer": "Do tuned hyperparameters transfer?",
    "architecture_sensitivity": "Once tuned, does the architecture matter?",
}


class Evidence:
    """A run's tables, read once; each method computes one piece, writes it under analysis/ and returns it.

    A table that the run doesn't have yet is empty, and so is what follows from it. `compared` is the run that this one
    is compared with.
    """

    def __init__(
        self,
        files: RunFiles,
        settings: AnalysisSettings,
        architectures: tuple[Architecture, ...],
        compared: RunFiles | None = None,
    ):
        self.files, self.settings, self.architectures, self.compared = files, settings, architectures, compared
        self.parameters = read_meta(files)["parameters"]
        self.trials = self._of_architectures(lambda f: f.results)
        if len(self.trials):
            self.trials["chosen"] = False
        for architecture in architectures:
            best = files.architecture(architecture).best
            if best.exists():
                own = self.trials["architecture"] == architecture.name
                self.trials.loc[own, "chosen"] = self.trials.loc[own, "trial"] == read_yaml(best)["trial"]
        self.curves = self._of_architectures(lambda f: f.curves)
        self.retrainings = _read(files.seed_losses, "architecture seed test_loss test_accuracy")
        self.with_extra_sources = _read(files.transfer_losses, _TRANSFER)
        if settings.parts == "search":
            self.with_extra_sources = self.with_extra_sources.iloc[:0]
        names = [architecture.name for architecture in architectures]
        self.transfers = self.with_extra_sources[self.with_extra_sources["source"].isin(names)]

    def _of_architectures(self, which: Callable[[Any], Any]) -> pd.DataFrame:
        tables = []
        for architecture in self.architectures:
            path = which(self.files.architecture(architecture))
            if path.exists():
                tables.append(read_table(path).assign(architecture=architecture.name))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def _keep(self, name: str, table: pd.DataFrame, index: bool = False) -> pd.DataFrame:
        write_table(self.files.evidence(f"{name}.csv"), table, index)
        return table

    def _draw(self, name: str, figure: Any) -> Any:
        write_figure(self.files.evidence(f"{name}.png"), figure)
        return figure

    # --- the answers

    def answers(self) -> dict[str, dict[str, Any]]:
        """The two answers; a question whose phase hasn't run is `undetermined` and says so."""
        margin, confidence = self.settings.margin, self.settings.confidence
        answers: dict[str, dict[str, Any]] = {}
        drawn = isinstance(self.parameters.get("transfer_pairs"), int)
        for name, losses, phase, rule in (
            ("hyperparameter_transfer", self.transfers, "03_transfer", partial(transfer.answer_transfer, drawn=drawn)),
            ("architecture_sensitivity", self.retrainings, "02_retrain", architectures.answer_architecture),
        ):
            answers[name] = rule(losses, margin, confidence) if len(losses) else _not_run(phase, self.settings)
        if self.settings.parts == "all":
            write_yaml(self.files.answers, answers)
        return answers

    # --- transfer

    def transfer_effects(self) -> pd.DataFrame:
        """What each source's hyperparameters cost on each target, with intervals and tests."""
        if self.transfers.empty:
            return self.transfers
        margin, confidence = self.settings.margin, self.settings.confidence
        effects = transfer.transfer_effects(self.transfers, margin, confidence)
        write_yaml(self.files.evidence("transfer_summary.yaml"), transfer.transfer_summary(effects))
        self._draw("transfer_effects", effect_figures.effect_matrix(effects, self.settings.margin))
        return self._keep("transfer_effects", effects)

    def transfer_summary(self) -> pd.DataFrame:
        """Best donor, most and least tolerant target, shares of pairs: a row each."""
        if self.transfers.empty:
            return self.transfers
        summary = transfer.transfer_summary(self.transfer_effects())
        found = [_words(value) if isinstance(value, dict) else value for value in summary.values()]
        return pd.DataFrame({"what": list(summary), "found": found}).set_index("what")

    def distance_relation(self) -> pd.DataFrame:
        """Whether hyperparameters cost more between architectures that differ more."""
        if self.transfers.empty:
            return self.transfers
        effects = self.transfer_effects()
        table = self.architecture_table()
        relation = transfer.distance_relation(effects, table, self.settings.analysis_seed)
        return self._keep("distance_relation", relation)

    def architecture_table(self) -> pd.DataFrame:
        """architecture, parameters."""
        inputs = DATASETS[self.parameters["dataset"]].inputs
        return pd.DataFrame(
            {
                "architecture": [a.name for a in self.architectures],
                "parameters": [a.count_parameters(inputs, CLASSES) for a in self.architectures],
            }
        )

    def trial_rank_correlation(self) -> pd.DataFrame:
        """Rank correlation of the trials' losses between architectures, where all had the same trials."""
        if self.trials.empty or not self.parameters.get("same_trials_for_all_architectures"):
            return pd.DataFrame()
        return self._keep("trial_rank_correlation", transfer.trial_rank_correlation(self.trials), index=True)

    # --- better practice

    def extra_sources(self) -> pd.DataFrame:
        """What the hyperparameters of each source that is no architecture cost over all targets."""
        if len(self.with_extra_sources) == len(self.transfers):
            return pd.DataFrame()
        table = comparisons.extra_sources(self.with_extra_sources, self.settings.confidence)
        title = "Test loss relative to own hyperparameters, over all targets"
        self._draw("extra_sources", loss_figures.quotient_intervals(table, "source", title))
        return self._keep("extra_sources", table)

    def other_search(self) -> pd.DataFrame:
        """What it costs to take the hyperparameters from the search that `search_dir` names, such as on other data."""
        if not self.parameters.get("search_dir") or self.transfers.empty or self.retrainings.empty:
            return pd.DataFrame()
        table = comparisons.other_search(self.transfers, self.retrainings, self.settings.confidence)
        return self._keep("other_search", table)

    def comparison(self) -> pd.DataFrame:
        """The transfer here beside that of the run to compare with."""
        there = _read(self.compared.transfer_losses, _TRANSFER) if self.compared else pd.DataFrame()
        if self.transfers.empty or there.empty:
            return pd.DataFrame()
        table = comparisons.compare_transfer(self.transfers, there, self.settings.confidence)
        title = f"This run relative to {self.compared.root.name}"
        self._draw("comparison", loss_figures.quotient_intervals(table, "quantity", title))
        return self._keep("comparison", table)

    def search_comparison(self) -> pd.DataFrame:
        """The search here beside what that of the run to compare with is expected to find at equal cost."""
        if self.compared is None or self.trials.empty:
            return pd.DataFrame()
        there = Evidence(self.compared, self.settings, read_architectures(self.compared))
        if there.trials.empty:
            return pd.DataFrame()
        return self._keep("search_comparison", comparisons.compare_search(self.trials, there.trials))

    def comparison_answer(self) -> str:
        """Whether the regret of transfer is smaller here than in the run to compare with, and how the two differ."""
        table = self.comparison()
        if table.empty:
            return "Nothing to compare: `compare_with` names no run that has a transfer, or this one has none."
        name = self.compared.root.name
        differences = different_parameters(self.parameters, read_meta(self.compared)["parameters"])
        listed = "; ".join(differences) or "nothing that decides a result"
        answer = comparisons.comparison_sentence(table, name, self.settings.confidence)
        return f"{answer}\n\nThe runs differ in: {listed}."

    # --- architectures

    def architecture_pairs(self) -> pd.DataFrame:
        """The differences of test loss between all pairs of architectures, with tests of difference and equivalence."""
        if self.retrainings.empty:
            return self.retrainings
        margin, confidence = self.settings.margin, self.settings.confidence
        pairs = architectures.architecture_pairs(self.retrainings, margin, confidence)
        if len(pairs):
            self._draw("architecture_pairs", effect_figures.architecture_intervals(pairs, margin))
        return self._keep("architecture_pairs", pairs)

    def architecture_anova(self) -> pd.DataFrame:
        """Analysis of variance of the test loss by architecture and run seed, with variance shares."""
        if self.retrainings.empty:
            return self.retrainings
        anova = architectures.architecture_anova(self.retrainings)
        return self._keep("architecture_anova", anova, index=True)

    def seeds(self) -> pd.DataFrame:
        """What the run seeds share and how many would decide: same-seed (intraclass) correlation, seeds by goal."""
        if self.retrainings.empty:
            return self.retrainings
        anova, pairs = architectures.architecture_anova(self.retrainings), self.architecture_pairs()
        margin, confidence = self.settings.margin, self.settings.confidence
        spread = pairs["pooled_sd"].max()
        needed = architectures.seeds_to_decide(spread, len(self.architectures), margin, confidence)
        found = {"intraclass_correlation": architectures.same_seed_correlation(anova)}
        found |= {f"seeds_for_{goal}": number for goal, number in needed.items()}
        table = pd.DataFrame({"what": list(found), "found": pd.Series(found.values(), dtype=float)})
        return self._keep("seeds", table)

    # --- the search

    def search_warnings(self) -> list[str]:
        """Sentences on what the search leaves open."""
        if self.trials.empty:
            return []
        space = SearchSpace.model_validate(self.parameters["search_space"])
        warnings = search.search_warnings(self.trials, space, self.parameters["max_epochs"])
        if method := _METHODS.get(self.parameters.get("search_method")):
            warnings.append(method)
        write_yaml(self.files.evidence("search_warnings.yaml"), warnings)
        return warnings

    def expected_best(self) -> Any:
        """Expected best validation loss after n trials, as a figure."""
        expected = search.expected_best(self.trials, confidence=self.settings.confidence)
        self._keep("expected_best", expected)
        return self._draw("expected_best", search_figures.expected_best_curves(expected, self.settings.confidence))

    def winner_instability(self) -> pd.DataFrame:
        """How easily another trial would have won."""
        spread = search.relative_seed_spread(self.retrainings)
        table = search.winner_instability(self.trials, spread, self.settings.analysis_seed)
        return self._keep("winner_instability", table)

    def validation_test_correlation(self) -> pd.DataFrame:
        """Rank correlation of validation and test loss among the top trials."""
        return self._keep("validation_test_correlation", search.validation_test_correlation(self.trials))

    # --- what matters

    def importance(self) -> Any:
        """Permutation importance of each hyperparameter among the better trials, as a figure."""
        importance = search.importance(self.trials, self.settings.analysis_seed)
        self._keep("importance", importance)
        return self._draw("importance", search_figures.importance_bars(importance))

    def parallel_coordinates(self) -> Any:
        """The top trials over the seven hyperparameters, as a figure."""
        space = SearchSpace.model_validate(self.parameters["search_space"])
        return self._draw("parallel_coordinates", search_figures.parallel_coordinates(self.trials, space))

    def lr_sensitivity(self) -> Any:
        """How wide the range of good learning rates is, by architecture, as a figure."""
        self._keep("lr_sensitivity", search.lr_sensitivity(self.trials))
        return self._draw("lr_sensitivity", search_figures.lr_sensitivity_curves(self.trials))

    def search_overview(self) -> Any:
        """Validation loss of every trial against each hyperparameter, as a figure."""
        return self._draw("search_overview", search_figures.search_overview(self.trials))

    def learning_curves(self) -> Any:
        """All learning curves, as a figure."""
        chosen = summaries.chosen(self.trials)
        return self._draw("learning_curves", curve_figures.learning_curves(self.curves, chosen))


def _read(path: Any, columns: str) -> pd.DataFrame:
    if path.exists():
        return read_table(path)
    return pd.DataFrame(columns=columns.split()).astype({"test_loss": float, "test_accuracy": float})


def _words(extreme: dict[str, Any]) -> str:
    """An extreme of transfer_summary: the names, and the quotient transferred / own."""
    names = (f"{name} {value}" for name, value in extreme.items() if name != "quotient")
    return f"{', '.join(names)}: {extreme['quotient']:.3f} times the loss"


def _not_run(phase: str, settings: AnalysisSettings) -> dict[str, Any]:
    return {
        "verdict": "undetermined",
        "effect": None,
        "interval": [None, None],
        "confidence": settings.confidence,
        "margin": settings.margin,
        "n": 0,
        "sentence": f"This report can't say: {phase} has not been run, or is not part of it.",
    }


def sentences(answers: dict[str, dict[str, Any]]) -> str:
    """The two answers as Markdown."""
    return "\n\n".join(
        f"**{TITLES[name]}** *{answer['verdict'].replace('_', ' ')}.* {answer['sentence']}"
        for name, answer in answers.items()
    )


def show(picture: Path, note: str) -> Any:
    """A picture that is on disk, or the note."""
    return Image(data=picture.read_bytes()) if picture.exists() else note
