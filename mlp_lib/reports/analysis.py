"""The evidence of a run: each piece is made from its tables once, written under analysis/ and shown as a section."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display

from mlp_lib import figures
from mlp_lib.core.values import CLASSES, DATASETS, HYPERPARAMETERS, Architecture
from mlp_lib.evidence import architectures as sensitivity
from mlp_lib.evidence import comparisons, find_budget, over_searches, search, summaries, transfer, tuning, widths
from mlp_lib.evidence.intervals import plain_answer
from mlp_lib.evidence.searches import OverSearches
from mlp_lib.evidence.sentences import answers_over_searches
from mlp_lib.run.files import RunFiles, read_image_losses, read_table, read_yaml, write_figure, write_table, write_yaml
from mlp_lib.run.ledger import read_trainings
from mlp_lib.run.meta import different_parameters, find_search, read_architectures, read_meta
from mlp_lib.run.parameters import AnalysisSettings, SearchSpace
from mlp_lib.run.parsing import no_pool

SECTIONS = Path(__file__).parent / "templates/sections.md"  # heading and prose of each piece, below <!-- its name -->
TITLES = {
    "hyperparameter_transfer": "Do tuned hyperparameters transfer?",
    "architecture_sensitivity": "Once tuned, does the architecture matter?",
}
_METHODS = {  # what the statistics of random draws can't be held to
    "sobol": "The trials are points of a Sobol sequence, no independent draws: bands of the best of n are too wide.",
    "grid": "The trials are points of a grid, each the mean over its run seeds: a best value lies between points.",
    "successive_halving": "Most trials were dropped before their best check: their losses, and what follows from all "
    "trials below, are of shorter trainings.",
}
_CONDITIONAL = "This holds for these hyperparameters only, not over searches:"
PIECES: dict[str, Callable] = {}  # what each section displays: (evidence, value, figure) to displayables


def piece(
    *needs: str,
    figure: Callable[["Evidence", Any], Any] | None = None,
    shown: Callable[["Evidence", Any, Any], Iterable[Any]] = lambda evidence, value, figure: (figure, value),
    kept: bool = True,
) -> Callable:
    """Declare a method of Evidence as a piece of the analysis: made once, and written once under the method's name.

    needs: the tables, and pieces, without which there is none: its value is then an empty table, and neither written
    nor shown. A table is kept as CSV, with its index if that has a name, another value as YAML (unless it is not
    `kept`); what `figure` draws of the value as PNG. `shown`: what its section displays, in order.
    """

    def declare(compute: Callable[["Evidence"], Any]) -> Callable[["Evidence"], Any]:
        name = compute.__name__

        @functools.wraps(compute)
        def once(evidence: "Evidence") -> Any:
            if name not in evidence.made:
                there = all(len(evidence.table(need)) for need in needs)
                evidence.made[name] = compute(evidence) if there else pd.DataFrame()
                if not _is_nothing(evidence.made[name]):
                    evidence.write(name, kept, figure)
            return evidence.made[name]

        PIECES[name] = shown
        return once

    return declare


def _is_nothing(value: Any) -> bool:
    return isinstance(value, pd.DataFrame) and value.empty


def _figure_alone(evidence: "Evidence", value: Any, figure: Any) -> Iterable[Any]:
    return (figure,)


class Evidence:
    """A run's tables, read once, and the pieces that follow from them; a table that isn't there yet is empty.

    trials: the trials of all architectures with `chosen`, whether the search chose it; curves: their learning curves;
    draws: the same where they are draws, not points of a grid; grid: the trainings of such points; retrainings:
    architecture, seed, test_loss; transfers: target, source, seed, test_loss of the architectures as sources,
    with_extra_sources of all. `compared` are the runs that this one is compared with.
    """

    def __init__(
        self,
        files: RunFiles,
        settings: AnalysisSettings,
        architectures: tuple[Architecture, ...],
        compared: Sequence[RunFiles] = (),
    ):
        self.files, self.settings, self.architectures, self.compared = files, settings, architectures, compared
        self.parameters = read_meta(files)["parameters"]
        self.limits = (settings.margin, settings.confidence)
        self.made: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        results = self._of_architectures("results")
        self.trials = summaries.by_trial(results)
        self.curves = self._of_architectures("curves")
        best = {a.name: files.architecture(a).best for a in architectures}
        chosen = {name: read_yaml(path)["trial"] for name, path in best.items() if path.exists()}
        if len(self.trials):
            self.trials["chosen"] = self.trials["trial"] == self.trials["architecture"].map(chosen)
        self.grid, self.draws = (results, results[:0]) if "seed" in results else (results[:0], self.trials)
        self.retrainings = _read(files.seed_losses, "architecture seed")
        self.with_extra_sources = _read(files.transfer_losses, "target source seed")
        if settings.parts == "search":
            self.with_extra_sources = self.with_extra_sources.iloc[:0]
        self.transfers = self.with_extra_sources[self.with_extra_sources["source"].isin(best)]
        self.judged = _read(files.contender_losses, "target trial seed")
        if settings.parts == "search":
            self.judged = self.judged.iloc[:0]
        searched = find_search(self.parameters["search_dir"]) if self.parameters.get("search_dir") else files
        self.searched, self.search_parameters = searched, read_meta(searched)["parameters"]

    def _of_architectures(self, name: str, files: RunFiles | None = None) -> pd.DataFrame:
        paths = {a.name: getattr((files or self.files).architecture(a), name) for a in self.architectures}
        return _joined(read_table(path).assign(architecture=name) for name, path in paths.items() if path.exists())

    def table(self, name: str) -> Any:
        """One of the run's tables, or the value of a piece."""
        return getattr(self, name)() if name in PIECES else getattr(self, name)

    def write(self, name: str, kept: bool, figure: Callable | None) -> None:
        """Write what was made of a piece, and its figure."""
        value, path = self.made[name], self.files.evidence(name)
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
            if item is not None:
                display(item)

    # --- the answers

    def _show_answers(self, answers: dict[str, dict[str, Any]], _: Any) -> Iterable[Any]:
        figures_of = (
            ("transfer_over_searches", "tuning_curves")
            if len(self.judged)
            else ("transfer_effects", "architecture_pairs")
        )
        for (name, answer), of in zip(answers.items(), figures_of, strict=True):
            text = f"**{TITLES[name]}** *{answer['verdict'].replace('_', ' ')}.* {answer['sentence']}"
            if alone := answer.get("for_these_hyperparameters"):
                verdict = alone["verdict"].replace("_", " ")
                text += f"\n\nFor the chosen hyperparameters only: *{verdict}.* {alone['sentence']}"
            yield Markdown(text)
            self.table(of)
            yield self.figures.get(of)

    @piece(kept=False, shown=_show_answers)
    def answers(self) -> dict[str, dict[str, Any]]:
        """The two answers, over searches where there is a pool of contenders, and for the chosen hyperparameters only.

        A question whose phase hasn't run, or whose search trained nothing on an architecture, is `undetermined` and
        says so.
        """
        of = {
            "hyperparameter_transfer": (transfer.answer_transfer, self.transfers, "03_transfer", self.pool_trials),
            "architecture_sensitivity": (sensitivity.answer_architecture, self.retrainings, "02_retrain", self.trials),
        }
        answers = {}
        for name, (rule, losses, phase, trials) in of.items():
            if losses.empty:
                answers[name] = _unsaid(f"{phase} has not been run, or is no part of this report", self.settings)
            elif untrained := summaries.untrained(trials):
                answers[name] = _unsaid(summaries.no_trial(untrained), self.settings)
            else:
                answers[name] = rule(losses, *self.limits)
        if len(self.judged):
            over = answers_over_searches(self.found)
            answers = {name: over[name] | {"for_these_hyperparameters": alone} for name, alone in answers.items()}
        elif len(self.transfers):
            why = no_pool(self.search_parameters) or "no contenders were trained (contenders = chosen)"
            for answer in answers.values():
                answer["sentence"] += f" {_CONDITIONAL} {why}."
        if self.settings.parts == "all":
            write_yaml(self.files.answers, answers)
        return answers

    # --- over searches

    @functools.cached_property
    def found(self) -> OverSearches:
        """Both answers over searches of the budget; there where contenders were judged."""
        return over_searches(self.pool_trials, self.judged, self.budget, self.settings.confidence, self.settings.margin)

    @functools.cached_property
    def pool_trials(self) -> pd.DataFrame:
        """The trials that the contenders are of: of this run's search, or of the one that search_dir names."""
        return self._of_architectures("results", self.searched)

    @property
    def budget(self) -> int:
        """The search budget, trials of a search."""
        return find_budget(self.parameters.get("search_budget", "auto"), self.pool_trials)

    @piece(
        "transfer_over_searches",  # one architecture has none
        figure=lambda self, table: figures.regret_by_budget(table, self.settings.margin),
    )
    def regret_by_budget(self) -> pd.DataFrame:
        """The mean regret against the search budget, logs."""
        return self.found.regret_by_budget

    @piece(
        "judged",
        figure=lambda self, table: figures.pair_matrix(table, *self.limits),
        shown=lambda self, table, figure: [table],  # the figure stands with the answers
    )
    def transfer_over_searches(self) -> pd.DataFrame:
        """What each source's searches cost on each target, logs, with tests at the margin; the errors beside."""
        errors = tuning.error_pairs(self.pool_trials, self.judged, self.budget).drop(columns="se")
        return self.found.pairs.merge(errors.rename(columns={"regret": "error_regret"}), on=["target", "source"])

    @piece(
        "judged",
        figure=lambda self, table: figures.tuning_curves(table),
        shown=lambda self, table, figure: [table],
    )
    def tuning_curves(self) -> pd.DataFrame:
        """The judged loss of each architecture against the search budget, logs, and how often each is best."""
        return self.found.tuning_curves

    @piece("judged")
    def architectures_over_searches(self) -> pd.DataFrame:
        """The differences of the tuned architectures over searches, logs, and the errors of both."""
        curves = self.error_curves()
        errors = curves[curves["n"] == self.budget].set_index("architecture")["error"]
        pairs = self.found.architectures
        return pairs.assign(first_error=pairs["first"].map(errors), second_error=pairs["second"].map(errors))

    @piece("judged")
    def error_curves(self) -> pd.DataFrame:
        """The tuning curves of the error, 1 - accuracy."""
        return tuning.error_curves(self.pool_trials, self.judged, self.budget, self.settings.confidence)

    @piece("judged", figure=lambda self, table: figures.variance_components(table.set_index("component")["variance"]))
    def variance_components(self) -> pd.DataFrame:
        """Variances of log losses by where they come from, the luck of the test images among them."""
        components = dict(self.found.components)
        losses = {a.name: read_image_losses(self.files.architecture(a).image_losses) for a in self.architectures}
        whole = {name: np.stack([*rows.values()]) for name, rows in losses.items() if rows}
        known = {name: rows[np.isfinite(rows).all(axis=1)] for name, rows in whole.items()}
        known = {name: rows for name, rows in known.items() if len(rows)}
        if len(known) > 1:
            pairs = tuning.image_variance(known, self.settings.confidence, seed=self.settings.analysis_seed)
            components["images"] = float(pairs["variance"].mean() / 2)
        return pd.DataFrame({"component": list(components), "variance": list(components.values())})

    @piece(
        "judged",
        figure=lambda self, table: figures.tuning_cost(table),
        shown=lambda self, table, figure: [figure, Markdown((self._small_pays(table) or {}).get("sentence", ""))],
    )
    def tuning_cost(self) -> pd.DataFrame:
        """What tuning on each source with n trials costs, in operations, and what it yields on each target."""
        facts = DATASETS[self.parameters["dataset"]]
        images = facts.images - (self.parameters["validation_size"] or facts.images // 6)
        return tuning.tuning_cost(
            self.pool_trials, self._with_epochs(), self.budget, self._counts(), images, self.settings.confidence
        )

    def _small_pays(self, table: pd.DataFrame) -> dict[str, Any] | None:
        return tuning.small_pays(table, self._counts(), self.budget)

    def _with_epochs(self) -> pd.DataFrame:
        """The judged trainings with the epochs that they took, which the ledger knows."""
        vectors = read_table(self.files.contenders)[["trial", *HYPERPARAMETERS]]
        ledger = read_trainings(self.files, "retrain", "transfer").drop(columns="trial")
        epochs = ledger.drop_duplicates(["architecture", "seed", *HYPERPARAMETERS])
        epochs = epochs.rename(columns={"architecture": "target"})[
            ["target", "seed", *HYPERPARAMETERS, "epochs_trained"]
        ]
        keyed = self.judged.merge(vectors, on="trial")
        return keyed.merge(epochs, on=["target", "seed", *HYPERPARAMETERS], how="left")

    def _counts(self) -> dict[str, int]:
        """The number of parameters of each architecture."""
        inputs = DATASETS[self.parameters["dataset"]].inputs
        return {a.name: a.count_parameters(inputs, CLASSES) for a in self.architectures}

    # --- on a grid

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """The trainings of the grids of this run and of those that it is compared with, by `parametrization`."""
        tables: dict[str, pd.DataFrame] = {}
        for run in (self, *map(self.of_run, self.compared)):
            name = run.parameters.get("parametrization", "standard")
            name += f" ({run.files.root.name})" if name in tables else ""
            tables |= {name: run.grid.assign(parametrization=name)} if len(run.grid) else {}
        return _joined(tables.values())

    @functools.cached_property
    def widths(self) -> widths.Widths:
        """How the optima of the grids move with the width."""
        return widths.over_widths(self.points, *self.limits, self.settings.analysis_seed)

    @piece(
        "points",
        figure=lambda self, table: figures.loss_by_width(widths.find_curves(self.points), table, self.widths.drifts),
        shown=lambda self, table, figure: [Markdown(self._drifts_in_words()), figure, table],
    )
    def optimum_by_width(self) -> pd.DataFrame:
        """The optimum of each hyperparameter by width, and what the narrowest width's optimum costs there."""
        return self.widths.optima

    @piece("optimum_by_width")
    def drift_by_width(self) -> pd.DataFrame:
        """How each optimum moves along the widths, with a verdict."""
        return self.widths.drifts

    def _drifts_in_words(self) -> str:
        told = [widths.drift_sentence(drift, *self.limits) for drift in self.widths.drifts.to_dict("records")]
        for run in self.compared:
            differences = different_parameters(self.parameters, read_meta(run)["parameters"])
            told.append(f"This run and {run.root.name} differ in: {'; '.join(differences) or 'nothing'}.")
        return "\n".join(f"- {line}" for line in told)

    @piece(
        "grid",
        figure=lambda self, trials: figures.grid_maps(trials, self._space().free),
        shown=_figure_alone,
        kept=False,
    )
    def grid_map(self) -> pd.DataFrame:
        """The trials of a grid over two hyperparameters, of which the figure is a map."""
        return self.trials if len(self._space().free) == 2 else pd.DataFrame()

    # --- transfer

    @piece(
        "transfers",
        figure=lambda self, effects: figures.effect_matrix(effects, self.settings.margin),
        shown=lambda self, effects, figure: [HTML(figures.effect_table_html(effects))],
    )
    def transfer_effects(self) -> pd.DataFrame:
        """What each source's hyperparameters cost on each target, with intervals and tests."""
        return transfer.transfer_effects(self.transfers, *self.limits)

    @piece("transfer_effects", shown=lambda self, summary, figure: [_in_words(summary)])
    def transfer_summary(self) -> dict[str, Any]:
        """Best donor, most and least tolerant target, shares of pairs."""
        return transfer.transfer_summary(self.transfer_effects())

    @piece("transfer_effects")
    def distance_relation(self) -> pd.DataFrame:
        """Whether hyperparameters cost more between architectures that differ more."""
        counts = self._counts()
        table = pd.DataFrame({"architecture": list(counts), "parameters": list(counts.values())})
        return transfer.distance_relation(self.transfer_effects(), table, self.settings.analysis_seed)

    @piece("trials")
    def trial_rank_correlation(self) -> pd.DataFrame:
        """Rank correlation of the trials' losses between architectures, where all had the same trials."""
        same = self.parameters.get("same_trials_for_all_architectures")
        return transfer.trial_rank_correlation(self.trials) if same else pd.DataFrame()

    # --- better practice

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
        default = (self.with_extra_sources["source"] == "default").any()
        return comparisons.gain_kept(self.with_extra_sources, self.settings.confidence) if default else pd.DataFrame()

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
        shown=lambda self, table, figure: [Markdown(self.comparison_answer()), figure, table],
    )
    def comparison(self) -> pd.DataFrame:
        """The transfer here beside that of each run to compare with, by `run`."""
        there = {run.root.name: _read(run.transfer_losses, "target source seed") for run in self.compared}
        return _joined(
            comparisons.compare_transfer(self.transfers, losses, self.settings.confidence).assign(run=name)
            for name, losses in there.items()
            if len(losses)
        )

    def comparison_answer(self) -> str:
        """Whether the regret of transfer is smaller here than in each run to compare with, and how the two differ."""
        told = []
        for name, rows in self.comparison().groupby("run", sort=False):
            run = next(run for run in self.compared if run.root.name == name)
            differences = different_parameters(self.parameters, read_meta(run)["parameters"])
            listed = "; ".join(differences) or "nothing that decides a result"
            told.append(comparisons.comparison_sentence(rows, name, self.settings.confidence))
            told.append(f"The runs differ in: {listed}.")
        return "\n\n".join(told)

    @piece("draws")
    def search_comparison(self) -> pd.DataFrame:
        """The search here beside what that of each run to compare with is expected to find at equal cost, by `run`."""
        there = {run.root.name: self.of_run(run).draws for run in self.compared}
        return _joined(
            comparisons.compare_search(self.draws, trials).assign(run=name)
            for name, trials in there.items()
            if len(trials)
        )

    def of_run(self, files: RunFiles) -> "Evidence":
        """The evidence of another run, by the settings of this one."""
        return Evidence(files, self.settings, read_architectures(files))

    # --- architectures

    @piece("retrainings", shown=lambda self, losses, _: [figures.loss_distribution(losses)], kept=False)
    def retrain_losses(self) -> pd.DataFrame:
        """The test losses of the retrainings, a row a training."""
        return self.retrainings

    @piece(
        "retrainings",
        figure=lambda self, pairs: figures.architecture_intervals(pairs, self.settings.margin),
        shown=lambda self, pairs, figure: [pairs],
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
        spread = self.architecture_pairs()["pooled_sd"].max()
        needed = sensitivity.seeds_to_decide(spread, len(self.architectures), *self.limits)
        found = {"intraclass_correlation": sensitivity.same_seed_correlation(self.architecture_anova())}
        found |= {f"seeds_for_{goal}": number for goal, number in needed.items()}
        return pd.DataFrame({"what": list(found), "found": pd.Series(found.values(), dtype=float)})

    # --- the search

    @piece(
        "trials",
        shown=lambda self, warnings, figure: [Markdown("\n".join(f"- {w}" for w in warnings) or "Nothing to warn of.")],
    )
    def search_warnings(self) -> list[str]:
        """Sentences on what the search leaves open."""
        warnings = search.search_warnings(self.trials, self._space(), self.parameters["max_epochs"])
        method = _METHODS.get(self.parameters.get("search_method"))
        return warnings + ([method] if method else [])

    def _space(self) -> SearchSpace:
        return SearchSpace.model_validate(self.parameters["search_space"])

    @piece(
        "draws",
        figure=lambda self, expected: figures.expected_best_curves(expected, self.settings.confidence),
        shown=_figure_alone,
    )
    def expected_best(self) -> pd.DataFrame:
        """Expected best validation loss after n trials."""
        return search.expected_best(self.trials, confidence=self.settings.confidence)

    @piece("draws")
    def winner_instability(self) -> pd.DataFrame:
        """How easily another trial would have won."""
        spread = search.unshared_seed_spread(read_trainings(self.files, "retrain", "transfer"))
        if spread.isna().any() or spread.empty:  # it takes two vectors at two seeds
            spread = search.relative_seed_spread(self.retrainings)
        return search.winner_instability(self.trials, spread, self.settings.analysis_seed)

    @piece("trials")
    def validation_test_correlation(self) -> pd.DataFrame:
        """Rank correlation of validation and test loss among the top trials."""
        return search.validation_test_correlation(self.trials)

    # --- what matters

    @piece(
        "trials",
        figure=lambda self, trials: figures.search_overview(trials),
        shown=lambda self, trials, figure: [figure, summaries.chosen(trials)],
        kept=False,
    )
    def search_overview(self) -> pd.DataFrame:
        """The trials; the figure shows validation loss against each hyperparameter, the section the chosen ones too."""
        return self.trials

    @piece("draws", figure=lambda self, table: figures.importance_bars(table), shown=_figure_alone)
    def importance(self) -> pd.DataFrame:
        """Permutation importance of each hyperparameter among the better trials."""
        return search.importance(self.trials, self.settings.analysis_seed)

    @piece(
        "draws",
        figure=lambda self, trials: figures.parallel_coordinates(trials, self._space()),
        shown=_figure_alone,
        kept=False,
    )
    def parallel_coordinates(self) -> pd.DataFrame:
        """The trials, of which the figure shows the top ones over the seven hyperparameters."""
        return self.trials

    @piece("trials", figure=lambda self, _: figures.lr_sensitivity_curves(self.trials))
    def lr_sensitivity(self) -> pd.DataFrame:
        """How wide the range of good learning rates is, by architecture."""
        return search.lr_sensitivity(self.trials)

    @piece(
        "curves",
        figure=lambda self, chosen: figures.learning_curves(self.curves, chosen),
        shown=_figure_alone,
        kept=False,
    )
    def learning_curves(self) -> pd.DataFrame:
        """The chosen trials, which the figure marks among the learning curves of all."""
        return summaries.chosen(self.trials)


def read_sections() -> dict[str, str]:
    """The heading and prose, in Markdown, of each piece."""
    _, *parts = re.split(r"<!-- (\w+) -->\n", SECTIONS.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    found = list(tables)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _read(path: Path, keys: str) -> pd.DataFrame:
    if path.exists():
        return read_table(path)
    return pd.DataFrame(columns=[*keys.split(), "test_loss"]).astype({"test_loss": float})


def _in_words(summary: dict[str, Any]) -> pd.DataFrame:
    """transfer_summary as a table: of its extremes the names, and the quotient transferred / own."""
    found = []
    for value in summary.values():
        if isinstance(value, dict):
            names = ", ".join(f"{name} {of}" for name, of in value.items() if name != "quotient")
            value = f"{names}: {value['quotient']:.3f} times the loss"
        found.append(value)
    return pd.DataFrame({"what": list(summary), "found": found}).set_index("what")


def _unsaid(why: str, settings: AnalysisSettings) -> dict[str, Any]:
    sentence = f"{why}, so nothing can be said."
    return plain_answer("undetermined", (math.nan,) * 3, settings.confidence, settings.margin, 0, sentence)
