"""Views of single trainings of a run: a trial's curve, its numbers, a pair's regret, a network's mistakes."""

import html
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from mlp_lib.core.errors import DataError, MlpError
from mlp_lib.core.values import HYPERPARAMETERS, DataSettings
from mlp_lib.figures import curves as curve_figures
from mlp_lib.figures import images as image_figures
from mlp_lib.lab import display as pictures
from mlp_lib.reports.analysis import Evidence
from mlp_lib.run.files import ROOT

if TYPE_CHECKING:
    from mlp_lib.core.data import Split


@dataclass(frozen=True)
class Choice:
    """What is looked at; None where the run has no such thing yet."""

    architecture: str
    trial: int | None
    seed: int | None
    source: str | None
    target: str | None


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
            return pd.DataFrame(columns=["trial", "val_loss", "chosen"])
        own = trials[trials["architecture"] == architecture].sort_values("val_loss")
        return own.sort_values("chosen", ascending=False, kind="stable")

    def seeds(self, architecture: str) -> list[int]:
        """The retrain seeds of an architecture, the one of median test loss first: neither luck nor mishap."""
        own = self.evidence.retrainings
        own = own[own["architecture"] == architecture].sort_values("test_loss")
        middle = (own["test_loss"].count() - 1) // 2
        seeds = own["seed"].tolist()
        return seeds[middle : middle + 1] + sorted(seeds[:middle] + seeds[middle + 1 :]) if seeds else []

    def typical(self, architecture: str | None = None) -> Choice:
        """The choice to begin with: the best architecture's chosen trial, its median seed, and the costliest pair."""
        means = self.evidence.retrainings.groupby("architecture")["test_loss"].mean()
        if architecture is None:
            architecture = means.idxmin() if means.notna().any() else self.architectures[0]
        trials, seeds, effects = self.trials(architecture), self.seeds(architecture), self.effects
        trial = int(trials["trial"].iloc[0]) if len(trials) else None
        costliest = (
            effects.loc[effects["quotient"].idxmax()] if effects.get("quotient", pd.Series()).notna().any() else {}
        )
        return Choice(architecture, trial, next(iter(seeds), None), costliest.get("source"), costliest.get("target"))

    def curve(self, choice: Choice) -> Figure | str:
        """The trial's learning curve among those of its architecture."""
        if choice.trial is None:
            return "No trial of this architecture is on disk."
        trials, curves = self.trials(choice.architecture), self.evidence.curves
        own = curves[curves["architecture"] == choice.architecture]
        chosen = trials.loc[trials["chosen"], "trial"]
        return curve_figures.trial_curve(own, choice.architecture, choice.trial, next(iter(chosen), None))

    def numbers(self, choice: Choice) -> pd.DataFrame:
        """The trial's hyperparameters beside the chosen ones, and how each ended: a row a quantity."""
        trials = self.trials(choice.architecture)
        if choice.trial is None:
            return pd.DataFrame()
        shown = trials[(trials["trial"] == choice.trial) | trials["chosen"]]
        results = ["status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]
        table = shown.set_index("trial")[[*HYPERPARAMETERS, *results]].T
        chosen = set(trials.loc[trials["chosen"], "trial"])
        table.columns = [f"trial {t} (chosen)" if t in chosen else f"trial {t}" for t in table.columns]
        return table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)

    def regret(self, choice: Choice) -> str:
        """What the source's hyperparameters cost on the target, with its interval, as a sentence."""
        if choice.source is None or choice.target is None:
            return "No transfer of this run is on disk (03_transfer)."
        if choice.source == choice.target:
            return f"{choice.target} with its own hyperparameters: a regret of 0, by definition."
        effects = self.effects
        row = effects[(effects["target"] == choice.target) & (effects["source"] == choice.source)].iloc[0]
        level = f"{100 * self.evidence.settings.confidence:g} %"
        said = (
            f"{choice.target} trained with the hyperparameters of {choice.source}: regret {row['regret']:+.4f} nats "
            f"({row['mean']:.4f} against its own {row['own_mean']:.4f}); "
        )
        if row["identical"]:
            return said + "the two searches chose the same hyperparameters"
        return said + (
            f"{row['quotient']:.3f} times the loss, {level} interval {row['low']:.3f} to {row['high']:.3f} "
            f"(n = {row['n']:.0f} seeds)."
        )

    def mistakes(self, choice: Choice) -> Figure | str:
        """Confusion matrix and misclassified test images of a retrained network, or why there is none to show."""
        if choice.seed is None:
            return "No retraining of this architecture is on disk (02_retrain)."
        from mlp_lib.study.checkpoints import (
            load_model,
            predict,  # these load torch, which the analysis does without
        )

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
        dataset = load_dataset(settings, torch.device("cpu"), ROOT)
        if dataset.digest != read_meta(self.files).get("data_digest"):
            raise DataError(f"the {settings.dataset} at hand is not the data that this run was made with")
        return dataset.test


_BOUNDS = {"max_width": "100%", "max_height": "26em", "object_fit": "contain", "object_position": "0 0"}
_LOOK = {"style": {"description_width": "7em"}, "layout": widgets.Layout(width="19em")}


class RunExplorer:
    """Drop-downs for architecture, trial, seed, source and target, and the views of what they choose."""

    def __init__(self, views: RunViews):
        self.views = views
        choice = views.typical()
        names = views.architectures
        pair = names if choice.source else []
        self.architecture = widgets.Dropdown(options=names, value=choice.architecture, **_named("architecture"))
        self.trial = widgets.Dropdown(**_named("trial"))
        self.seed = widgets.Dropdown(**_named("retrain seed"))
        self.source = widgets.Dropdown(options=pair, value=choice.source, **_named("source"))
        self.target = widgets.Dropdown(options=pair, value=choice.target, **_named("target"))
        self.curve, self.numbers, self.mistakes, self.regret = (widgets.VBox() for _ in range(4))
        self.architecture.observe(self._change_architecture, "value")
        self.trial.observe(self._show_trial, "value")
        self.seed.observe(self._show_mistakes, "value")
        self.source.observe(self._show_regret, "value")
        self.target.observe(self._show_regret, "value")
        self._change_architecture()
        self._show_regret()

    @property
    def choice(self) -> Choice:
        boxes = (self.architecture, self.trial, self.seed, self.source, self.target)
        return Choice(*(box.value for box in boxes))

    def show(self) -> widgets.Widget:
        """Everything in its place."""
        wrap = widgets.Layout(flex_flow="row wrap", grid_gap="0.5em 1.5em", align_items="flex-start")
        return widgets.VBox(
            [
                widgets.HBox([self.architecture, self.trial, self.seed], layout=wrap),
                widgets.HBox([self.curve, self.numbers], layout=wrap),
                widgets.HBox([self.source, self.target], layout=wrap),
                self.regret,
                self.mistakes,
            ]
        )

    def _change_architecture(self, _: Any = None) -> None:
        """Fill the drop-downs that depend on the architecture, each at its sensible choice, and show that."""
        shown = {self.trial: self._show_trial, self.seed: self._show_mistakes}
        for box, show_view in shown.items():
            box.unobserve(show_view, "value")  # between the two drop-downs a choice may be none that there is
        trials = self.views.trials(self.architecture.value)
        losses = [f"{trial}: {loss:.4f}" for trial, loss in zip(trials["trial"], trials["val_loss"], strict=True)]
        self.trial.options = list(zip(losses, trials["trial"].tolist(), strict=True))
        self.seed.options = self.views.seeds(self.architecture.value)
        for box, show_view in shown.items():
            box.index = 0 if box.options else None
            box.observe(show_view, "value")
            show_view()

    def _show_trial(self, _: Any = None) -> None:
        self.curve.children = [_widget(self.views.curve(self.choice))]
        self.numbers.children = [_widget(self.views.numbers(self.choice))]

    def _show_mistakes(self, _: Any = None) -> None:
        self.mistakes.children = [_widget(self.views.mistakes(self.choice))]

    def _show_regret(self, _: Any = None) -> None:
        self.regret.children = [_widget(self.views.regret(self.choice))]


def _named(text: str) -> dict[str, Any]:
    return {"description": text, **_LOOK}


def _widget(view: Figure | pd.DataFrame | str) -> widgets.Widget:
    if isinstance(view, Figure):
        return widgets.Image(value=pictures.png(view), format="png", layout=widgets.Layout(**_BOUNDS))
    if isinstance(view, pd.DataFrame):
        return widgets.HTML(pictures.html_table(view))
    return widgets.HTML(f'<p role="status">{html.escape(view)}</p>')


def show(evidence: Evidence) -> Any:
    """The explorer where somebody can use it; elsewhere the views of a sensible choice, as pictures and tables."""
    views = RunViews(evidence)
    if pictures.is_interactive():
        return RunExplorer(views).show()
    choice = views.typical()
    named = f"{choice.architecture}, trial {choice.trial}, retrain seed {choice.seed}"
    _display(views.curve(choice), f"Learning curve of {named}")
    display(HTML(views.numbers(choice).to_html(border=0)))
    _display(views.mistakes(choice), f"Confusion matrix and misclassified test images of {named}")
    _display(views.regret(choice), "")
    return None


def _display(view: Figure | str, text: str) -> None:
    display(pictures.picture(view, text) if isinstance(view, Figure) else Markdown(view))
