"""The figures of the search: what their panels show, and that they render without a warning."""

import numpy as np
import pandas as pd
import pytest
from drawn import render, trials

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.evidence.search import POOLED, expected_best, importance
from mlp_lib.figures.search import expected_best_curves, importance_bars, lr_sensitivity_curves

NAN = np.nan


def important(*names):
    """0.7 for lr, 0.1 for the rest; NaN for the architecture mlp_few."""
    table = pd.DataFrame(
        [(a, h) for a in names for h in reversed(HYPERPARAMETERS)], columns=["architecture", "hyperparameter"]
    )
    few = table["architecture"] == "mlp_few"
    table["importance"] = np.where(few, NAN, np.where(table["hyperparameter"] == "lr", 0.7, 0.1))
    pooled = table["architecture"] == POOLED
    return table.assign(error=np.where(few, NAN, 0.05), r2=np.where(few, NAN, 0.8), trials=40).assign(
        architectures=np.where(pooled, 8, 1), pooled=pooled
    )


def panels(figure):
    return [ax for ax in figure.axes if ax.axison and ax.get_title()]


@pytest.mark.parametrize(("number", "diverged"), [(1, 0), (1, 11), (2, 12), (5, 11), (16, 0)])
def test_every_architecture_has_a_panel(number, diverged):
    table = trials(number)
    table.loc[table["trial"] < diverged, "val_loss"] = NAN
    for figure in (
        expected_best_curves(expected_best(table)),
        lr_sensitivity_curves(table),
    ):
        shown = panels(render(figure))
        assert [ax.get_title().split(":")[0] for ax in shown] == [f"{256 - i}x{32 + i}" for i in range(number)]


def test_a_fixed_hyperparameter_is_shown_as_fixed():
    table = trials(2, number=80).assign(lr=3e-3)
    assert importance_bars(importance(table)).axes[0].get_yticklabels()[-1].get_text() == "lr (fixed)"
    curves = render(lr_sensitivity_curves(table))
    assert [ax.get_title() for ax in panels(curves)] == ["256x32: fixed lr 0.003", "255x33: fixed lr 0.003"]


def test_figures_of_nothing_render():
    empty = trials(0)
    for figure in (
        expected_best_curves(expected_best(empty)),
        importance_bars(important()),
        lr_sensitivity_curves(empty),
    ):
        render(figure)


def test_expected_best_ends_at_the_best_loss():
    table = trials(2)
    first, _ = panels(expected_best_curves(expected_best(table)))
    best = table["val_loss"][:12].min()
    assert first.get_title() == f"256x32: {best:.4f} after 12"
    assert first.lines[-1].get_ydata() == pytest.approx([best])
    assert first.get_xlabel() == "number of trials n"


def test_importances_come_in_order_with_their_errors():
    figure = render(importance_bars(important("mlp_few", POOLED)))
    few, pooled = panels(figure)
    assert few.get_title() == "few\n40 better trials, too few to say"
    assert pooled.get_title() == "8 architectures pooled\n40 better trials, held-out R² 0.80"
    assert few.get_yticklabels()[0].get_text() == "lr"
    bars, errors = pooled.containers[-1], pooled.containers[-1].errorbar
    assert [bar.get_width() for bar in bars] == pytest.approx([0.7] + [0.1] * 6)
    assert errors.lines[2][0].get_segments()[0][:, 0] == pytest.approx([0.65, 0.75])


def test_lr_sensitivity_shows_the_envelope_and_the_width():
    table = trials(1, 3).assign(lr=[0.01, 0.1, 0.03], val_loss=[1.05, 1.0, 3.0])
    (ax,) = panels(lr_sensitivity_curves(table, within=0.1))
    assert ax.get_title() == "256x32: best lr 0.1\n1.0 decades"
    assert list(ax.lines[1].get_xdata()) == [0.01, 0.1]
