"""The figures of the effects: what is starred, framed and coloured, and that they render without a warning."""

import io
import itertools
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from mlp_lib.figures.effects import architecture_intervals, effect_matrix, effect_table_html
from mlp_lib.figures.style import BLUE, ORANGE

NAN = np.nan


def effects(number):
    """The first off-diagonal cell is significant, the second beyond the margin, the third has no result."""
    names = [f"mlp_{256 - i}x{32 + i}" for i in range(number)]
    table = pd.DataFrame(itertools.permutations(names, 2), columns=["target", "source"])
    table = table.assign(relative_regret=1.01, p=0.5, p_adjusted=0.9, beyond_margin=False, within_margin=True)
    table.loc[:0, ["relative_regret", "p", "p_adjusted"]] = [0.97, 0.001, 0.01]
    table.loc[1:1, ["relative_regret", "beyond_margin"]] = [1.2, True]
    table.loc[2:2, ["relative_regret", "p", "p_adjusted"]] = NAN
    table = table.assign(low=table["relative_regret"] - 0.02, high=table["relative_regret"] + 0.02)
    return table.assign(excludes_zero=table["p_adjusted"] < 0.05)


def pairs(number):
    names = [f"mlp_{256 - i}x{32 + i}" for i in range(number)]
    table = pd.DataFrame(itertools.combinations(names, 2), columns=["upper", "lower"])
    verdicts = itertools.cycle([("equivalent", 0.01), ("different", 0.08), ("undetermined", 0.05)])
    table[["verdict", "relative"]] = [next(verdicts) for _ in range(len(table))]
    ends = {"low": -0.02, "high": 0.02, "equivalence_low": -0.01, "equivalence_high": 0.01}
    return table.assign(**{end: table["relative"] + distance for end, distance in ends.items()})


def render(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO())
    return figure


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("number", [3, 16])
def test_stars_and_frames(number):
    figure = render(effect_matrix(effects(number), 0.05))
    ax = figure.axes[0]
    starred = [text.get_position() for text in ax.texts if text.get_text().endswith("*")]
    assert starred == [(1, 0)]  # column, row
    (frame,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == pytest.approx((1.55, -0.45))
    cells = number * (number - 1)
    assert legend(figure) == [f"1 of {cells} cells differ from 1 (Benjamini-Hochberg)", "1 wholly beyond ±5 %"]
    values = ax.images[0].get_array()
    assert (values.diagonal() == 1).all()
    assert list(values[0, 1:3]) == pytest.approx([0.97, 1.2])


def test_a_source_that_is_no_target_and_a_lone_pair():
    ax = render(effect_matrix(effects(3).iloc[[1]], 0.05)).axes[0]
    assert ax.images[0].get_array().shape == (1, 1)
    render(effect_matrix(effects(2), 0.05))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["254x34"]


@pytest.mark.parametrize("number", [2, 4, 16])
def test_intervals_are_sorted_and_coloured(number):
    table = pairs(number)
    figure = render(architecture_intervals(table, 0.05))
    ax = figure.axes[0]
    assert len(ax.get_yticklabels()) == len(table)
    assert legend(figure)[0] == f"equivalent ({(table['verdict'] == 'equivalent').sum()})"
    assert legend(figure)[-1] == "margin ±5 %"
    if number == 2:
        return
    points = {to_hex(line.get_color()).upper(): line for line in ax.lines if line.get_marker() not in ("", "None")}
    assert points[ORANGE].get_xdata() == pytest.approx([8] * (table["verdict"] == "different").sum())
    assert points[BLUE].get_xdata()[0] == pytest.approx(1)
    assert points[ORANGE].get_ydata()[0] == 0  # the largest difference on top
    assert ax.get_yticklabels()[0].get_text() == "256x32 - 254x34"
    thin, thick = (ax.collections[i].get_segments()[0][:, 0] for i in (2, 3))  # after the two of "equivalent"
    assert list(thin) == pytest.approx([6, 10])
    assert list(thick) == pytest.approx([7, 9])


def test_intervals_that_are_not_known_are_not_drawn():
    table = pairs(3).assign(low=NAN, high=NAN, equivalence_low=NAN, equivalence_high=NAN, verdict="undetermined")
    render(architecture_intervals(table, 0.05))
    render(architecture_intervals(table.head(0), 0.05))


def test_the_html_table_tells_its_numbers():
    html = effect_table_html(effects(3))
    table = ElementTree.fromstring(html.replace("&ndash;", "-"))
    cells = [row.findall("td") for row in table.find("tbody")]
    assert ["".join(head.itertext()) for head in table.find("thead/tr")][1:] == ["256x32", "255x33", "254x34"]
    assert [["".join(cell.itertext()) for cell in row] for row in cells] == [
        ["1", "0.970*", "1.200"],
        ["-", "1", "1.010"],
        ["1.010", "1.010", "1"],
    ]
    assert cells[0][1][0].get("title") == (
        "target 256x32, source 255x33: relative regret 0.9700, interval 0.9500 to 0.9900, p = 0.001, adjusted 0.01"
    )
    assert "outline" in cells[0][2][0].get("style")
    assert "outline" not in cells[0][1][0].get("style")
    assert "<style" not in html  # which JupyterLab drops from a notebook that it doesn't trust
    assert "not tested" in effect_table_html(effects(3).assign(p=NAN, p_adjusted=NAN))  # equal hyperparameters


def test_the_html_table_escapes_names():
    table = effects(2).replace({"mlp_255x33": '<b>"x"'})
    html = effect_table_html(table)
    assert "<b>" not in html
    assert "&lt;b&gt;&quot;x&quot;" in html
