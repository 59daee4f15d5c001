"""The figures of the effects: what is starred, framed and coloured, and that they render without a warning."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import names, render
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from mlp_lib.figures.effects import architecture_intervals, pair_matrix
from mlp_lib.figures.over_searches import regret_by_budget, tuning_cost, tuning_curves, variance_components
from mlp_lib.figures.style import BLUE, COLOURS, ORANGE

NAN = np.nan


def effects(number):
    """The first off-diagonal cell lies within the margin, the second beyond it, the third has no result."""
    table = pd.DataFrame(itertools.permutations(names(number), 2), columns=["target", "source"])
    table = table.assign(quotient=1.01, identical=False, beyond_margin=False, within_margin=False)
    table.loc[:0, ["quotient", "within_margin"]] = [0.97, True]
    table.loc[1:1, ["quotient", "beyond_margin"]] = [1.2, True]
    table.loc[2:2, "quotient"] = NAN
    return table.assign(low=table["quotient"] - 0.02, high=table["quotient"] + 0.02)


def pairs(number):
    table = pd.DataFrame(itertools.combinations(names(number), 2), columns=["upper", "lower"])
    verdicts = itertools.cycle([("equivalent", 0.01), ("different_beyond_margin", 0.08), ("undetermined", 0.05)])
    table[["verdict", "relative"]] = [next(verdicts) for _ in range(len(table))]
    ends = {"low": -0.02, "high": 0.02}
    return table.assign(**{end: table["relative"] + distance for end, distance in ends.items()})


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("number", [3, 16])
def test_pairs_beyond_the_margin_are_framed_and_those_without_a_result_hatched(number):
    figure = render(pair_matrix(effects(number), 0.05, "Costs"))
    ax = figure.axes[0]
    (frame,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == pytest.approx((1.55, -0.45))
    assert legend(figure) == [f"1 of {number * (number - 1)} pairs beyond the 5 % margin"]
    values = ax.images[0].get_array()
    assert (values.diagonal() == 1).all()
    assert list(values[0, 1:3]) == pytest.approx([0.97, 1.2])
    assert ax.get_title().split("\n")[0].startswith("Costs (hatched:")
    assert figure.get_label().endswith("the highest quotient is 1.200, 256x32 with 254x34's")


def test_a_source_that_is_no_target_and_a_lone_pair():
    ax = render(pair_matrix(effects(3).iloc[[1]], 0.05, "Costs")).axes[0]
    assert ax.images[0].get_array().shape == (1, 1)
    render(pair_matrix(effects(2), 0.05, "Costs"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["254x34"]


@pytest.mark.parametrize("number", [2, 4, 16])
def test_intervals_are_sorted_and_coloured(number):
    table = pairs(number)
    figure = render(architecture_intervals(table, 0.05, "Differences"))
    ax = figure.axes[0]
    assert len(ax.get_yticklabels()) == len(table)
    assert legend(figure)[0] == f"equivalent ({(table['verdict'] == 'equivalent').sum()})"
    assert legend(figure)[-1] == "margin ±5 %"
    if number == 2:
        return
    points = {to_hex(line.get_color()).upper(): line for line in ax.lines if line.get_marker() not in ("", "None")}
    assert points[ORANGE].get_xdata() == pytest.approx([8] * (table["verdict"] == "different_beyond_margin").sum())
    assert points[BLUE].get_xdata()[0] == pytest.approx(1)
    assert points[ORANGE].get_ydata()[0] == 0  # the largest difference on top
    assert ax.get_yticklabels()[0].get_text() == "256x32 - 254x34"
    assert list(ax.collections[1].get_segments()[0][:, 0]) == pytest.approx([6, 10])  # after those of "equivalent"
    assert figure.get_label().endswith("; the largest is 8.0 %, 256x32 - 254x34")


def test_intervals_that_are_not_known_are_not_drawn():
    table = pairs(3).assign(low=NAN, high=NAN, verdict="undetermined")
    render(architecture_intervals(table, 0.05, "Differences"))
    render(architecture_intervals(table.head(0), 0.05, "Differences"))


# --- over searches --------------------------------------------------------------------------------------------------


def curves():
    table = pd.DataFrame(itertools.product([3, 4, 5], ["mlp_8", "mlp_4"]), columns=["n", "architecture"])
    table = table.assign(loss=np.log([0.2, 0.1] * 3), share_best=[0.25, 0.75] * 3)
    return table.assign(low=table["loss"] - 0.1, high=table["loss"] + 0.1)


def test_the_mean_regret_and_its_band_are_quotients():
    frame = pd.DataFrame({"n": [3, 4], "regret": np.log([1.03, 1.02]), "low": 0.0, "high": np.log([1.06, 1.05])})
    ax = render(regret_by_budget(frame, 0.05)).axes[0]
    assert ax.lines[0].get_ydata() == pytest.approx([1.03, 1.02])
    assert ax.lines[2].get_ydata() == pytest.approx([1.05, 1.05])
    assert ax.collections[0].get_paths()[0].vertices.max(axis=0) == pytest.approx([4, 1.06])
    label = regret_by_budget(frame.assign(regret=[np.nan, 0.0]), 0.05).get_label()  # all pairs broken at the first n
    assert label.endswith(": 1.000 at 4 trials, 1.000 at 4 trials")


def test_tuning_curves_show_losses_and_how_often_each_is_best():
    upper, lower = render(tuning_curves(curves())).axes
    assert [line.get_ydata()[0] for line in upper.lines] == pytest.approx([0.2, 0.1])
    assert [line.get_color() for line in upper.lines] == list(COLOURS[:2])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([25] * 3 + [75] * 3)
    assert lower.patches[-1].get_y() == pytest.approx(25)  # stacked
    render(tuning_curves(curves().assign(low=NAN, high=NAN)))


def test_components_are_bars_of_variances():
    ax = render(variance_components(pd.Series({"architecture": 4e-4, "run_seed": 1e-4, "images": NAN}))).axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([4, 1, 0])
    assert [text.get_text() for text in ax.texts] == ["2 %", "1 %", "unknown"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["architecture", "run seed", "test images"]
    render(variance_components(pd.Series({"architecture": NAN})))


def test_tuning_cost_has_a_panel_a_target_and_an_architecture_keeps_its_colour():
    table = curves().rename(columns={"architecture": "source"})
    table = pd.concat([table.assign(target=name, operations=10.0 ** table["n"]) for name in ("mlp_8", "mlp_4")])
    first, second = render(tuning_cost(table)).axes
    assert (first.get_title(), second.get_title()) == ("target 8", "target 4")
    for ax in (first, second):
        assert [line.get_color() for line in ax.lines] == list(COLOURS[:2])
        assert ax.get_xscale() == "log"
    assert [line.get_linewidth() for line in first.lines] == [2.4, 1]
    assert [line.get_linewidth() for line in second.lines] == [1, 2.4]


@pytest.mark.parametrize("most", [2.9e10, 6e10, 3e14])
def test_ticks_of_costs_tell_apart(most):
    """Also on less than a decade."""
    table = curves().rename(columns={"architecture": "source"}).assign(target="mlp_8")
    table["operations"] = np.geomspace(1.1e10, most, len(table))
    ax = render(tuning_cost(table)).axes[0]
    (low, high), labels = ax.get_xlim(), ax.get_xticklabels()
    shown = [label.get_text() for label in labels if low <= label.get_position()[0] <= high]
    assert len(shown) == len({*shown}) >= 2
