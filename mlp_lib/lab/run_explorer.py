"""Views of single trainings of a run: a trial's curve, its numbers, a pair's regret, a network's mistakes."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from mlp_lib.core.errors import DataError, MlpError
from mlp_lib.core.values import HYPERPARAMETERS, DataSettings
from mlp_lib.evidence.intervals import count_text
from mlp_lib.evidence.summaries import short_name
from mlp_lib.figures import curves as curve_figures
from mlp_lib.figures import images as image_figures
from mlp_lib.reports.analysis import Evidence
from mlp_lib.reports.by_hand import is_interactive
from mlp_lib.run.ledger import RESULT

if TYPE_CHECKING:
    from mlp_lib.core.data import Split


@dataclass(frozen=True)
class Choice:
    """What is looked at; None where the run has no such thing yet."""

    architecture: str
    trial: int | None = None
    seed: int | None = None
    source: str | None = None
    target: str | None = None


class RunViews:
    """The views of one run, from its evidence. Each view is a pure function of a choice and what is on disk."""

    def __init__(self, evidence: Evidence):
        self.evidence, self.files = evidence, evidence.files
        self.architectures = [architecture.name for architecture in evidence.architectures]
        self.effects = evidence.transfer_effects()

    def trials(self, architecture: str) -> pd.DataFrame:
        """The trials of an architecture: the chosen one, then the others from the best to the worst."""
        trials = self.evidence.trials
        if trials.empty:
            return pd.DataFrame(columns=["trial", "val_loss", "status", "chosen"])
        own = trials[trials["architecture"] == architecture].sort_values("val_loss")
        return own.sort_values("chosen", ascending=False, kind="stable")

    def seeds(self, architecture: str) -> list[int]:
        """The retrain seeds of an architecture, the one of median test loss first: neither luck nor mishap."""
        own = self.evidence.retrainings
        own = own[own["architecture"] == architecture].sort_values("test_loss")
        middle = max(own["test_loss"].count() - 1, 0) // 2
        seeds = own["seed"].tolist()
        return seeds[middle : middle + 1] + sorted(seeds[:middle] + seeds[middle + 1 :]) if seeds else []

    def typical(self) -> Choice:
        """The choice to begin with: the best architecture's chosen trial, its median seed, and the costliest pair."""
        means = self.evidence.retrainings.groupby("architecture")["test_loss"].mean()
        architecture = means.idxmin() if means.notna().any() else self.architectures[0]
        trials, seeds, effects = self.trials(architecture), self.seeds(architecture), self.effects
        trial = int(trials["trial"].iloc[0]) if len(trials) else None
        costliest = effects.loc[effects["quotient"].fillna(0).idxmax()] if len(effects) else {}
        return Choice(architecture, trial, next(iter(seeds), None), costliest.get("source"), costliest.get("target"))

    def curve(self, choice: Choice) -> Figure | str:
        """The trial's learning curve among those of its architecture."""
        if choice.trial is None:
            return "No trial of this architecture is on disk."
        trials, curves = self.trials(choice.architecture), self.evidence.curves
        if curves.empty or choice.architecture not in {*curves["architecture"]}:
            return "No learning curve of this architecture is on disk."
        own = curves[curves["architecture"] == choice.architecture]
        chosen = trials.loc[trials["chosen"], "trial"]
        return curve_figures.trial_curve(own, choice.architecture, choice.trial, next(iter(chosen), None))

    def numbers(self, choice: Choice) -> pd.DataFrame:
        """The trial's hyperparameters beside the chosen ones, and how each ended: a row a quantity."""
        trials = self.trials(choice.architecture)
        if choice.trial is None:
            return pd.DataFrame()
        shown = trials[(trials["trial"] == choice.trial) | trials["chosen"]]
        table = shown.set_index("trial")[[*HYPERPARAMETERS, *RESULT]].T
        chosen = set(trials.loc[trials["chosen"], "trial"])
        table.columns = [f"trial {t} (chosen)" if t in chosen else f"trial {t}" for t in table.columns]
        return table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)

    def regret(self, choice: Choice) -> str:
        """What the source's hyperparameters cost on the target, with its interval, as a sentence."""
        if choice.source is None or choice.target is None:
            return "No transfer of this run is on disk (03_transfer)."
        target, source = map(short_name, (choice.target, choice.source))
        if source == target:
            return f"{target} with its own hyperparameters: nothing is lost, by definition."
        effects = self.effects.dropna(subset="quotient")
        found = effects[(effects["target"] == choice.target) & (effects["source"] == choice.source)]
        if found.empty:  # diverged, or not trained yet
            return f"{choice.target} has no losses to compare, with {choice.source}'s hyperparameters or with its own."
        row = found.iloc[0]
        if row["identical"]:
            return f"{target} with the hyperparameters of {source}: nothing is lost, both searches chose the same."
        level, basis = f"{100 * self.evidence.settings.confidence:g} %", count_text(int(row["n"]), "seed")
        if math.isfinite(row["low"]):
            basis = f"{level} interval {row['low']:.3f} to {row['high']:.3f}, unadjusted, {basis}"
        claim = f"{target} trained with the hyperparameters of {source}: {row['quotient']:.3f} times the loss"
        return f"{claim} that its own give ({basis})."

    def mistakes(self, choice: Choice) -> Figure | str:
        """Confusion matrix and misclassified test images of a retrained network, or why there is none to show."""
        if choice.seed is None:
            return "No retraining of this architecture is on disk (02_retrain)."
        from mlp_lib.study.checkpoints import load_model, predict  # these load torch, which the analysis does without

        try:
            model = load_model(self.files.root, choice.architecture, choice.seed)
            test = self._test
        except MlpError as error:
            said = str(error).replace(f"{self.files.root}/", "")  # a saved report keeps no machine's paths
            return f"No confusion matrix: {said}."
        return image_figures.mistakes(test.images.numpy(), test.labels.numpy(), predict(model, test.images))

    @cached_property
    def _test(self) -> "Split":
        """The test split of the run's data; DataError if it is not at hand, or another."""
        import torch

        from mlp_lib.core.data import load_dataset
        from mlp_lib.run.meta import read_meta

        parameters = self.evidence.parameters
        settings = DataSettings(**{name: parameters[name] for name in DataSettings.model_fields} | {"preload": "cpu"})
        dataset = load_dataset(settings, torch.device("cpu"))
        if dataset.digest != read_meta(self.files).get("data_digest"):
            raise DataError(f"the {settings.dataset} at hand is not the data that this run was made with")
        return dataset.test


def explorer(views: RunViews) -> widgets.Widget:
    """Drop-downs for architecture, trial, seed, source and target, above the views of what they choose."""
    first, names = views.typical(), views.architectures
    pair = names if first.source else []
    architecture = _dropdown("architecture", options=names, value=first.architecture)
    trial, seed = _dropdown("trial"), _dropdown("retrain seed")
    source = _dropdown("source", options=pair, value=first.source)
    target = _dropdown("target", options=pair, value=first.target)

    def fill(_: Any = None) -> None:
        """What depends on the architecture, the sensible choice first; a value names the architecture too."""
        name = architecture.value
        trials = views.trials(name)[["trial", "val_loss", "status"]].itertuples(index=False)
        said = ((number, status if math.isnan(loss) else f"{loss:.4f}") for number, loss, status in trials)
        trial.options = [(f"{number}: {text}", Choice(name, number)) for number, text in said]
        seed.options = [(str(number), Choice(name, seed=number)) for number in views.seeds(name)]
        for box in (trial, seed):
            box.index = 0 if box.options else None

    def show_trial(choice: Choice | None) -> None:
        choice = choice or Choice(architecture.value)
        _display(views.curve(choice), f"Learning curve of trial {choice.trial}")
        _display(views.numbers(choice))

    def show_regret(source: str | None, target: str | None) -> None:
        _display(views.regret(Choice(architecture.value, source=source, target=target)))

    def show_mistakes(choice: Choice | None) -> None:
        _display(views.mistakes(choice or Choice(architecture.value)), _MISTAKES)

    fill()
    architecture.observe(fill, "value")
    shown = widgets.interactive_output
    rows = (
        widgets.HBox([architecture, trial, seed], layout=_WRAP),
        shown(show_trial, {"choice": trial}),
        widgets.HBox([source, target], layout=_WRAP),
        shown(show_regret, {"source": source, "target": target}),
        shown(show_mistakes, {"choice": seed}),
    )
    return widgets.VBox(rows)


_WRAP = {"flex_flow": "row wrap", "grid_gap": "0.5em 1.5em"}
_MISTAKES = "Confusion matrix and misclassified test images"


def _dropdown(text: str, **values: Any) -> widgets.Dropdown:
    look = {"style": {"description_width": "7em"}, "layout": {"width": "19em"}}
    return widgets.Dropdown(description=text, **look, **values)


def show(evidence: Evidence) -> None:
    """Display the views of a sensible choice, below the explorer where somebody can use that: saved, it is dead."""
    views = RunViews(evidence)
    if is_interactive():
        display(explorer(views))
    choice = views.typical()
    named = f"{choice.architecture}, trial {choice.trial}, retrain seed {choice.seed}"
    _display(views.curve(choice), f"Learning curve of {named}")
    _display(views.numbers(choice))
    _display(views.mistakes(choice), f"{_MISTAKES} of {named}")
    _display(views.regret(choice))


def _display(view: Figure | pd.DataFrame | str, text: str = "") -> None:
    if isinstance(view, Figure):
        view.set_label(text)
    elif isinstance(view, pd.DataFrame):
        view = HTML(view.to_html(border=0))
    display(Markdown(view) if isinstance(view, str) else view)
