"""The sliders, buttons, curves and table of 00_explore."""

import asyncio
import html
import math
import os
import re
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import Markdown

from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.values import DATASETS, HYPERPARAMETERS, LOG_HYPERPARAMETERS, ROOT
from mlp_lib.lab.explore import FIRST, Explorer, Stored, find_stored
from mlp_lib.reports.by_hand import is_interactive

SHAPES = ("32", "128", "256x128", "64x64x64", "252x32x16", "188x192x112", "120x204x408")  # offered; any other goes
RANGES = {  # log10 of lr, eps and weight_decay
    "lr": (-5, -1, 0.05),
    "beta1": (0.5, 0.999, 0.001),
    "beta2": (0.8, 0.9999, 0.0001),
    "eps": (-10, -5, 0.1),
    "weight_decay": (-6, 0, 0.1),
    "dropout": (0, 0.9, 0.01),
    "leaky_relu_alpha": (0, 0.5, 0.01),
}
NO_RUN = ""  # of the drop-down of stored runs: None would leave it blank
_WIDE = {"style": {"description_width": "9em"}, "layout": {"width": "25em"}}


class Panel:
    """An explorer's widgets; they work through the explorer alone, and show its state at each `refresh`."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        settings = explorer.settings
        self.dataset = widgets.Dropdown(options=list(DATASETS), value=settings.dataset, description="data set", **_WIDE)
        self.architecture = widgets.Combobox(options=SHAPES, value="128x64", description="architecture", **_WIDE)
        self.sliders = {name: _slider(name, getattr(FIRST, name)) for name in HYPERPARAMETERS}
        self.seed = widgets.BoundedIntText(0, 0, 2**32 - 1, description="seed", **_WIDE)
        sizes = sorted({64, 128, 256, 512, 1024, 4096, settings.batch_size})
        self.batch_size = widgets.Dropdown(options=sizes, value=settings.batch_size, description="batch size", **_WIDE)
        self.max_epochs = widgets.BoundedIntText(settings.max_epochs, 1, 10**9, description="epochs, at most", **_WIDE)
        self.stored = widgets.Dropdown(
            description="compare with", style=_WIDE["style"], layout={"flex": "1 1 25em", "width": "auto"}
        )  # as wide as there is room: a run's name is long
        self.take = widgets.Button(description="Take its values", icon="sliders", disabled=True)
        self.train = widgets.Button(description="Train", icon="play", button_style="primary")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.said = widgets.HTML()
        self.curves = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.table = widgets.HTML(layout={"width": "100%"})
        self._training: asyncio.Task | None = None  # a task that nobody holds may vanish
        self._list_stored()
        self.train.on_click(lambda _: self._press_train())
        self.stop.on_click(lambda _: self._press_stop())
        self.take.on_click(lambda _: self._take_values())
        self.dataset.observe(lambda _: self._list_stored(), "value")
        self.stored.observe(lambda _: self._choose_stored(), "value")
        self.refresh()

    def show(self) -> widgets.Widget:
        """Everything in its place: what is chosen at the left, what came of it at the right."""
        chosen = [self.dataset, self.architecture, *self.sliders.values(), self.seed, self.batch_size, self.max_epochs]
        left = widgets.VBox([*chosen, widgets.HBox([self.train, self.stop])], layout=widgets.Layout(flex="0 0 auto"))
        compare = widgets.HBox([self.stored, self.take])
        right = widgets.VBox([self.said, self.curves, compare], layout=widgets.Layout(flex="1 1 30em", min_width="0"))
        top = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap", grid_gap="1.5em"))
        return widgets.VBox([top, self.table])

    def refresh(self) -> None:
        """Show the explorer's state."""
        explorer = self.explorer
        self.train.disabled, self.stop.disabled = explorer.running, not explorer.running
        self._say(explorer.say())
        self.curves.value = explorer.figure(self.stored.value or None).png()
        self.table.value = _html_table(explorer.table()) if explorer.attempts else ""

    def _say(self, text: str) -> None:
        self.said.value = f'<div role="status" style="min-height:3em">{html.escape(text)}</div>'

    def _press_train(self) -> None:
        self.train.disabled = True
        try:
            widths = _read_widths(self.architecture.value)
            values = {name: slider.value for name, slider in self.sliders.items()}
            training = {name: getattr(self, name).value for name in ("dataset", "batch_size", "max_epochs")}
            self.explorer.begin(widths, self.seed.value, **values, **training)
        except MlpError as error:
            self._say(str(error))
            self.train.disabled = self.explorer.running
            return
        self.stop.disabled = False
        self._training = asyncio.get_running_loop().create_task(self.explorer.follow(self.refresh))

    def _press_stop(self) -> None:
        self.explorer.stop()
        self.refresh()

    def _list_stored(self) -> None:
        settings = self.explorer.settings
        root = ROOT / os.path.expanduser(settings.runs_root)
        found = find_stored(settings.model_copy(update={"dataset": self.dataset.value}), root)
        self.stored.options = [("no stored run", NO_RUN), *((str(stored), stored) for stored in found)]
        self.stored.value = NO_RUN

    def _choose_stored(self) -> None:
        self.take.disabled = not self.stored.value
        self.curves.value = self.explorer.figure(self.stored.value or None).png()

    def _take_values(self) -> None:
        """Set hyperparameters, architecture, batch size and the most epochs to those of the stored run's choice."""
        stored: Stored = self.stored.value
        values = stored.hyperparameters.model_dump()
        if values["weight_decay"] == 0:
            self._say("A weight_decay of 0 has no place on a logarithmic slider: it is left as it was.")
            del values["weight_decay"]
        for name, value in values.items():
            _set(self.sliders[name], value)
        self.architecture.value = stored.architecture.name.removeprefix("mlp_")
        size = stored.training.batch_size
        self.batch_size.options = sorted({*self.batch_size.options, size})
        self.batch_size.value, self.max_epochs.value = size, stored.training.max_epochs


def _slider(name: str, value: float) -> widgets.Widget:
    low, high, step = RANGES[name]
    look = {"description": name, "continuous_update": False, **_WIDE}
    if name in LOG_HYPERPARAMETERS:
        return widgets.FloatLogSlider(value, min=low, max=high, step=step, readout_format=".2e", **look)
    digits = len(f"{step:g}".partition(".")[2])
    return widgets.FloatSlider(value, min=low, max=high, step=step, readout_format=f".{digits}f", **look)


def _set(slider: widgets.Widget, value: float) -> None:
    """Give a slider a value, and the room for it: out of its range it would silently take the nearest end."""
    end = math.log10(value) if isinstance(slider, widgets.FloatLogSlider) else value
    slider.min, slider.max = min(slider.min, end), max(slider.max, end)
    slider.value = value


def _read_widths(text: str) -> tuple[int, ...]:
    """256x128 (or 256, 128) as widths; SettingsError for anything else."""
    words = re.split(r" *[x,] *| +", text.lower().removeprefix("mlp_").strip())
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise SettingsError(f"architecture = {text!r}: should be hidden widths like 256x128") from None


def _html_table(table: pd.DataFrame) -> str:
    """The attempts, the newest first: close-set, in the colours of the page, as an HTML widget has no style for one."""
    names = {"val_loss": "loss", "val_accuracy": "accuracy", "batch_size": "batch", "leaky_relu_alpha": "slope"}
    table = table.iloc[::-1].rename(columns=names).rename_axis(columns="attempt", index=None)
    text = table.to_html(border=0, float_format="{:.4g}".format, na_rep="", justify="left")
    for tag in ("th", "td"):
        text = text.replace(f"<{tag}>", f'<{tag} style="padding: 0 1em 0 0; text-align: left">')
    # without a width of its own it takes that of the page, and scrolls: a widget would cut it off
    style = "width: 0; min-width: 100%; overflow-x: auto; white-space: nowrap; font-size: 0.9em; line-height: 1.6"
    return f'<div style="{style}">{text}</div>'


def show(explorer: Explorer) -> Any:
    """The panel where somebody can use it; elsewhere a note, since a saved widget is dead."""
    if is_interactive():
        return Panel(explorer).show()
    return Markdown("*Sliders and buttons need a running notebook: `make lab`, then open `00_explore`.*")
