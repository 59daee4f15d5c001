"""The explorer of 04_analysis: drop-downs over the views of a run, or the same views of a sensible choice."""

import html
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from mlp_lib import display as pictures
from mlp_lib.analysis import Evidence
from mlp_lib.run_views import Choice, RunViews

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
