"""The evidence of a run: its pieces, and the answers that they come to."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd
from IPython.display import Markdown

from mlp_lib.evidence import architectures as sensitivity
from mlp_lib.evidence import comparisons, summaries, transfer
from mlp_lib.evidence.intervals import plain_answer
from mlp_lib.evidence.sentences import answers_over_searches, in_plain_words
from mlp_lib.reports.chosen import PiecesOfChosen
from mlp_lib.reports.over_searches import PiecesOverSearches
from mlp_lib.reports.overview import HEADLINES
from mlp_lib.reports.pieces import piece
from mlp_lib.reports.searched import PiecesOfSearch
from mlp_lib.run.files import write_yaml
from mlp_lib.run.parameters import AnalysisSettings
from mlp_lib.run.parsing import no_pool

_CONDITIONAL = "This holds for these hyperparameters only, not over searches:"


class Evidence(PiecesOverSearches, PiecesOfChosen, PiecesOfSearch):
    """All pieces of a run."""

    def _show_answers(self, answers: dict[str, dict[str, Any]], _: Any) -> Iterable[Any]:
        for name, answer in answers.items():
            text = f"**{in_plain_words(name, answer)}**"
            for one in filter(None, (answer, answer.get("for_these_hyperparameters"))):
                text += f"\n\n*{one['verdict'].replace('_', ' ')}.* {one['sentence']}"
            yield Markdown(text)
            of = HEADLINES[name][0 if len(self.judged) else 1]
            self.table(of)
            if of in self.figures:
                yield self.figures[of]

    @piece(kept=False, shown=_show_answers)
    def answers(self) -> dict[str, dict[str, Any]]:
        """The two answers, over searches where there is a pool of contenders, and for the chosen hyperparameters only.

        A question whose phase hasn't run, or whose search trained nothing on an architecture, is `undetermined` and
        says so.
        """
        own = not self.search_parameters.get("same_trials_for_all_architectures", True)
        transfers = partial(transfer.answer_transfer, own_draws=own)
        of = {
            "hyperparameter_transfer": (transfers, self.transfers, "03_transfer", self.pool_trials),
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
            for answer in (answer for answer in answers.values() if answer["effect"] is not None):
                answer["sentence"] += f" {_CONDITIONAL} {why}."
        if self.searched.root != self.files.root:
            for name in answers if len(self.judged) else ["hyperparameter_transfer"]:  # 02's are of this run's search
                there = f"{self.searched.root.name}, on {self.search_parameters['dataset']}"
                answers[name]["sentence"] += f" The searches are of another run: {there}."
        if self.settings.parts == "all":
            write_yaml(self.files.answers, answers)
        return answers

    @piece(shown=lambda self, found, figure: [Markdown("\n".join(f"- {sentence}" for sentence in found))])
    def findings(self) -> list[str] | pd.DataFrame:
        """What else was found, a sentence each: of a grid, runs beside this one, the extra sources, small tuning."""
        if self.settings.parts == "search" and self.files.answers.exists():
            return pd.DataFrame()  # those of the whole analysis stay
        level, found = self.settings.confidence, self.drift_sentences() if len(self.optimum_by_width()) else []
        if len(self.comparison()):
            found += self.comparison_answers()
        found += self.replication_sentences()
        if len(sources := self.extra_sources()):
            found.append(comparisons.sources_sentence(sources, level))
        if len(kept := self.gain_kept()):
            found.append(comparisons.kept_sentence(kept, level))
        if len(other := self.other_search()):
            found.append(comparisons.other_search_sentence(other, self.searched.root.name, level))
        if (name := self.parameters.get("parametrization", "standard")) != "standard":
            found.append(
                f"All trainings are in the parametrization {name}, base width {self.parameters['base_width']}."
            )
        if len(self.judged):
            found.append(self.small_pays())
        return [sentence for sentence in found if sentence] or pd.DataFrame()


def _unsaid(why: str, settings: AnalysisSettings) -> dict[str, Any]:
    sentence = f"{why}, so nothing can be said."
    return plain_answer("undetermined", (math.nan,) * 3, settings.confidence, settings.margin, 0, sentence)
