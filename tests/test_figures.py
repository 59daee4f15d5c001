"""The figures: what their axes say, what they mark, and that they render without a warning."""

import base64
import inspect
import subprocess
import sys
from typing import get_type_hints

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawn import names, picture, render, trials
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mlp_lib import figures
from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.figures.curves import learning_curves, loss_curve
from mlp_lib.figures.effects import heatmap
from mlp_lib.figures.losses import loss_distribution, transfer_losses
from mlp_lib.figures.search import search_overview
from mlp_lib.figures.style import COLOURS
from mlp_lib.run.files import write_figure

NAN = np.nan
OWN_STYLE = {"text.usetex": True, "axes.facecolor": "black", "image.interpolation": "bilinear", "savefig.dpi": 30}
OWN_STYLE |= {"axes.unicode_minus": False, "font.family": "serif", "savefig.bbox": "tight"}
OWN_STYLE |= {"savefig.facecolor": "black"}


def metrics():
    """12 epochs, a check every 4."""
    epochs = np.arange(1, 13)
    table = pd.DataFrame({"epoch": epochs, "train_loss": 2 / epochs, "val_loss": NAN, "val_accuracy": NAN})
    table.loc[[3, 7, 11], ["val_loss", "val_accuracy"]] = [[0.5, 0.8], [0.25, 0.9], [0.3, 0.9]]
    return table


def curves(trials=3):
    rows = [(t, e, 2 / e, 3 / e / (t + 1)) for t in range(trials) for e in (4, 8, 12)]
    return pd.DataFrame(rows, columns=["trial", "epoch", "train_loss", "val_loss"])


def some_diverged(number, diverged):
    table = trials(number, 4)
    table.loc[: diverged - 1, "val_loss"] = NAN
    return table


def losses(number, seeds=3):
    draws = np.random.default_rng(1)
    table = pd.DataFrame([(a, s) for a in names(number) for s in range(seeds)], columns=["architecture", "seed"])
    return table.assign(test_loss=draws.uniform(0.1, 0.2, len(table)), test_accuracy=0.975)


def transfers(number, seeds=3):
    draws = np.random.default_rng(2)
    rows = [(t, s, seed) for t in names(number) for s in names(number) for seed in range(seeds)]
    return pd.DataFrame(rows, columns=["target", "source", "seed"]).assign(test_loss=draws.uniform(0.1, 0.2, len(rows)))


def matrix(values):
    values = np.array(values, dtype=float)
    rows, columns = (names(n) for n in values.shape)
    return pd.DataFrame(values, rows, columns)


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: loss_curve(metrics()),
        lambda: loss_curve(metrics().assign(val_loss=NAN)),
        lambda: learning_curves(curves().assign(architecture="mlp_4"), chosen(2)),
        lambda: learning_curves(curves(1).assign(architecture="mlp_4"), chosen(0)),
        lambda: search_overview(trials(1, 4)),
        lambda: search_overview(some_diverged(20, 5)),
        lambda: search_overview(trials(2, 4).assign(lr=0.1, weight_decay=0.0)),
        lambda: loss_distribution(losses(1, seeds=1)),
        lambda: loss_distribution(losses(16)),
        lambda: loss_distribution(losses(2).assign(test_loss=NAN)),
        lambda: transfer_losses(transfers(2, seeds=1)),
        lambda: transfer_losses(transfers(16)),
        lambda: transfer_losses(transfers(3).query("target != source")),
        lambda: heatmap(matrix(np.random.default_rng(3).normal(size=(16, 16))), "many", 0, "nats"),
        lambda: heatmap(matrix([[1]]), "one", 1, "quotient"),
        lambda: heatmap(matrix([[NAN, NAN]]), "none", 0, "nats"),
    ],
)
def test_renders_without_a_warning_and_the_same_whatever_a_matplotlibrc_says(figure):
    drawn = picture(figure())
    with matplotlib.rc_context(OWN_STYLE):
        assert picture(figure()) == drawn


def test_no_figure_follows_a_matplotlibrc():
    made = [function for function in vars(figures).values() if inspect.isfunction(function)]
    made = [function for function in made if get_type_hints(function)["return"] is Figure]
    assert len(made) > 20
    assert [function.__name__ for function in made if not hasattr(function, "__wrapped__")] == []


@pytest.mark.parametrize("colour", COLOURS)
def test_every_line_reads_on_white(colour):
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    contrast = 1.05 / (np.dot(channels, [0.2126, 0.7152, 0.0722]) + 0.05)  # WCAG 2, of what is no text: 3 and more
    assert contrast >= 3


def test_a_notebook_shows_a_figure_as_it_is_stored_with_a_text_that_tells_its_main_number(tmp_path):
    figure = loss_distribution(losses(2).assign(test_loss=[0.1, 0.1, 0.1, 0.2, 0.2, 0.2]))
    write_figure(tmp_path / "a.png", figure)
    with matplotlib.rc_context(OWN_STYLE):
        data, metadata = DisplayFormatter().format(figure)
    assert base64.b64decode(data["image/png"]) == (tmp_path / "a.png").read_bytes()
    assert metadata["image/png"]["alt"].endswith("the lowest mean is 0.1000 (256x32), the highest 0.2000 (255x33)")
    _, metadata = DisplayFormatter().format(loss_curve(metrics()))
    assert metadata["image/png"]["alt"].startswith("Loss of one training: best validation loss 0.2500")


def test_a_figure_that_was_changed_is_shown_as_it_is_now():
    figure = loss_curve(metrics())
    before = picture(figure)
    assert picture(figure) == before
    figure.axes[0].lines[0].set_color("black")
    after = picture(figure)
    assert after != before
    figure.axes[0].set_title("another")
    assert picture(figure) not in (before, after)


def test_outliers_do_not_flatten_the_search():
    table = trials(3, 4)
    table["val_loss"] = 0.1 + 0.001 * np.arange(len(table))
    table.loc[5, "val_loss"] = 2.3
    ax = search_overview(table).axes[0]
    assert ax.get_ylim()[1] < 0.2
    assert "1 above 0.12" in search_overview(table).get_suptitle()


def test_nothing_global_is_touched():
    code = "import sys, mlp_lib.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_loss_curve_marks_the_best_check():
    ax = loss_curve(metrics()).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss (nats per example)")
    best = next(line for line in ax.lines if line.get_marker() == "*")
    assert best.get_xydata().tolist() == [[8, 0.25]]
    assert "0.2500 at epoch 8 (accuracy 90.00%)" in ax.get_title()
    assert ax.get_yscale() == "log"
    assert loss_curve(metrics().assign(train_loss=0.4)).axes[0].get_yscale() == "linear"


def chosen(trial: int) -> pd.DataFrame:
    return pd.DataFrame({"architecture": ["mlp_4"], "trial": [trial]})


def test_learning_curves_highlight_the_chosen_trial():
    two = pd.concat([curves().assign(architecture=name) for name in ("mlp_4", "mlp_8x2")])
    both = pd.concat([chosen(1), chosen(2).assign(architecture="mlp_8x2")])
    figure = learning_curves(two, both)
    assert [ax.get_title() for ax in figure.axes] == ["4 (trial 1)", "8x2 (trial 2)"]
    best = max(figure.axes[0].lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(best.get_ydata(), [3 / 8, 3 / 16, 3 / 24, np.nan])
    assert figure.axes[0].get_yscale() == "log"
    far = pd.concat([two, curves(1).assign(architecture="mlp_8x2", trial=9, val_loss=300.0)])
    far.loc[far["architecture"] == "mlp_8x2", "val_loss"] /= 2  # the last panel has the lowest
    bottom, top = learning_curves(far, both).axes[0].get_ylim()
    assert bottom < far["val_loss"].min() < 1 < top < 100


def test_search_overview_has_a_panel_a_hyperparameter():
    figure = search_overview(some_diverged(3, 2))
    panels = figure.axes[:7]
    assert tuple(ax.get_xlabel() for ax in panels) == HYPERPARAMETERS
    assert [ax.get_xlabel() for ax in panels if ax.get_xscale() == "log"] == ["lr", "eps", "weight_decay"]
    assert panels[0].get_ylabel() == "validation loss (nats per example)"
    assert "10 trials" in figure.get_suptitle()
    assert "2 trials diverged" in figure.get_suptitle()
    assert sum(len(points.get_offsets()) for points in panels[0].collections) == 10
    assert [text.get_text() for text in figure.axes[7].get_legend().texts] == ["256x32", "255x33", "254x34"]


def test_a_fixed_hyperparameter_is_shown_as_fixed():
    table = trials(3, 4)
    ax = search_overview(table.assign(lr=3e-3)).axes[0]
    assert (ax.get_xlabel(), ax.get_xscale(), labels(ax.xaxis)) == ("lr (fixed)", "linear", ["0.003"])
    render(search_overview(table.assign(val_loss=NAN)))


def test_loss_distribution_has_a_row_an_architecture():
    table = losses(2)
    table.loc[0, ["test_loss", "test_accuracy"]] = NAN
    ax = loss_distribution(table).axes[0]
    assert labels(ax.yaxis) == ["256x32", "255x33"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("test loss (nats per example)", "architecture")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 3]
    mean_of_second = ax.collections[1].get_segments()[0][0, 0]
    assert mean_of_second == pytest.approx(table["test_loss"][3:].mean())
    assert "1 training diverged" in ax.get_title()
    assert labels(ax.child_axes[0].yaxis) == ["97.50%", "97.50%"]


def test_transfer_losses_tell_own_from_transferred():
    ax = transfer_losses(transfers(3)).axes[0]
    assert labels(ax.yaxis) == ["256x32", "255x33", "254x34"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("test loss (nats per example)", "target (trained)")
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    circles = [line for line in ax.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in diamonds] == [3, 3, 3]
    assert [len(line.get_xdata()) for line in circles] == [6, 6, 6]


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize("deviation", [[[0, 0], [0, 0]], [[0, 0.3], [-0.1, 0]], [[0, 0.001], [0.5, 0]]])
def test_heatmap_is_white_at_its_centre(centre, deviation):
    ax = heatmap(matrix(deviation) + centre, "Regret", centre, "nats").axes[0]
    image = ax.images[0]
    np.testing.assert_allclose(image.to_rgba([centre])[0, :3], image.cmap(0.5)[:3])
    assert min(image.cmap(0.5)[:3]) > 0.95
    below, above = image.to_rgba([centre - 0.5, centre + 0.5])[:, [0, 2]]
    assert below[0] < below[1]  # blue: a lower loss
    assert above[0] > above[1]  # red: a higher one
    assert image.norm.vmax - centre == pytest.approx(centre - image.norm.vmin)


def test_heatmap_of_quotients_has_no_negative_colour():
    for values, lowest in [([[1, 2.6], [0.95, 1]], 0.0), ([[1, 1.2], [0.95, 1]], 0.8)]:
        _, bar = heatmap(matrix(values), "Relative regret", 1, "transferred / own").axes
        assert bar.get_ylim() == pytest.approx((lowest, np.max(values)))


def test_heatmap_says_rows_columns_and_values():
    figure = heatmap(matrix([[1, 1.256], [0.9999, 1]]), "Relative regret", 1, "transferred / own")
    ax, bar = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("source (tuned on)", "target (trained)")
    assert ax.get_title() == "Relative regret"
    assert bar.get_ylabel() == "transferred / own"
    assert labels(ax.xaxis) == labels(ax.yaxis) == ["256x32", "255x33"]
    assert [text.get_text() for text in ax.texts] == ["1.00", "1.26", "1.00", "1.00"]
    assert [text.get_color() for text in ax.texts] == ["black", "white", "black", "black"]
    assert not heatmap(matrix(np.ones((13, 13))), "many", 1, "").axes[0].texts


def test_heatmap_leaves_missing_cells_hatched():
    figure = heatmap(matrix([[0, NAN], [0.01, 0]]), "Regret", 0, "nats")
    ax = figure.axes[0]
    assert ax.images[0].to_rgba(np.array([NAN]))[0, 3] == 0  # the hatched ground shows through
    assert ax.patch.get_hatch()
    assert ax.get_title() == "Regret (hatched: diverged or not trained)"
    assert [text.get_text() for text in ax.texts] == ["0.000", "", "0.010", "0.000"]
    render(figure)


def test_heatmap_outlier_does_not_bleach_the_rest():
    values = np.full((4, 4), 0.01)
    values[0, 3] = 5
    figure = heatmap(matrix(values), "Regret", 0, "nats")
    image = figure.axes[0].images[0]
    assert image.norm.vmax == pytest.approx(0.01)
    assert image.colorbar.extend == "both"
