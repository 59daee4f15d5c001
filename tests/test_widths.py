"""How optima move with the width: made-up surfaces of loss with a known optimum and drift.

Log loss against the decades u of a learning rate from its optimum: 2 c (exp(-s u) + s u - 1) / s^2, which has its
least at 0 and the curvature 2 c, and is steeper on the left where the lean s is above 0. Grids on MNIST look like
c 0.6, s 1.5, with a noise of 0.03 at the optimum that grows to the right.
"""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from study import VALUES

from mlp_lib.evidence.widths import drift_sentence, find_curves, over_widths
from mlp_lib.figures.widths import loss_by_width

WIDTHS = (32, 64, 128, 256, 512, 1024)
MARGIN, CONFIDENCE = LIMITS = (0.05, 0.95)
LR = 10 ** np.linspace(-4, -1, 13)
QUICK, FULL = 40, 500  # studies
MOST_FALSE = 37 / 500  # 5 % and 2.5 standard errors of a simulation of 500


def surface(u, curvature=0.6, lean=1.5):
    return curvature * u**2 if lean == 0 else 2 * curvature * (np.exp(-lean * u) + lean * u - 1) / lean**2


def grid_of(losses, values=LR, parameter="lr", name="standard"):
    """The trainings of a grid from log test losses [points, seeds] by architecture; validation is test."""
    tables = []
    for architecture, logs in losses.items():
        trial, seed = np.indices(logs.shape)
        own = {"architecture": architecture, "trial": trial.ravel(), "seed": 101 + seed.ravel()}
        table = pd.DataFrame(own | {"val_loss": np.exp(logs).ravel()}).assign(**VALUES)
        tables.append(table.assign(**{parameter: np.repeat(values, logs.shape[1])}, test_loss=table["val_loss"]))
    return pd.concat(tables, ignore_index=True).assign(parametrization=name)


def quiet(optimum, values=LR, seeds=3, **shape):
    """Log losses [points, seeds] without noise, whose least is 0.1 nats at the decade `optimum`."""
    logs = np.log(0.1) + surface(np.log10(values) - optimum, **shape)
    return np.tile(np.minimum(logs, np.log(2.29))[:, None], seeds)  # just below guessing


# --- by hand --------------------------------------------------------------------------------------------------------


def test_optimum_slope_and_regret_of_a_surface_without_noise():
    """The optimum goes as width^-0.5 from 10^-2: by half a log10(2) an octave."""
    places = [-2 - 0.5 * math.log10(width / 32) for width in WIDTHS]
    found = over_widths(grid_of({f"mlp_{w}": quiet(p) for w, p in zip(WIDTHS, places, strict=True)}), *LIMITS)
    table = found.optima
    assert np.log10(table["optimum"]).tolist() == pytest.approx(places, abs=0.02)
    assert (table[["low", "high"]].to_numpy() == table[["optimum"]].to_numpy()).all()
    assert table["loss"].tolist() == pytest.approx([0.1] * 6, rel=1e-3)
    there = [0.1 * math.exp(surface(-2 - place)) for place in places]
    assert table["loss_at_narrowest"].tolist() == pytest.approx(there, rel=0.02)
    assert (table["loss_at_narrowest"] - table["loss"]).tolist() == pytest.approx(table["regret"].tolist())
    assert (table["regret"].iloc[0], table["at_edge"].any()) == (0, False)
    (drift,) = found.drifts.to_dict("records")
    assert drift["slope"] == pytest.approx(-0.5, abs=0.02)
    assert (drift["worst_width"], drift["verdict"]) == (1024, "drifts")
    assert drift["relative_regret"] == pytest.approx(there[-1] / 0.1, rel=0.02)
    assert "goes as width to the power -0.5" in drift_sentence(drift, *LIMITS)


def test_a_curve_that_leans_has_its_optimum_where_it_is():
    """The vertex of a quadratic through the same five points lies 0.045 decades beside it on average."""
    for place in np.linspace(-2.6, -2.4, 9):
        table = over_widths(grid_of({"mlp_8": quiet(place)}), *LIMITS).optima
        assert np.log10(table["optimum"].item()) == pytest.approx(place, abs=0.02)


def test_an_optimum_at_the_edge_is_said_and_gives_no_transfer():
    losses = {"mlp_32": quiet(-2), "mlp_64": quiet(-2), "mlp_128": quiet(-0.5)}
    found = over_widths(grid_of(losses), *LIMITS)
    assert found.optima["at_edge"].tolist() == [False, False, True]
    assert found.optima["optimum"].iloc[-1] == pytest.approx(LR[-1])
    (drift,) = found.drifts.to_dict("records")
    assert (drift["at_edge"], drift["slope"], drift["verdict"]) == (1, pytest.approx(0, abs=1e-9), "undetermined")
    assert "1 of 3 optima lie at the edge" in drift_sentence(drift, *LIMITS)
    inside = over_widths(grid_of({name: losses[name] for name in ("mlp_32", "mlp_64")}), *LIMITS)
    assert inside.drifts["verdict"].item() == "transfers"


def test_beside_a_point_that_diverged_nothing_is_fitted():
    """The optimum is the lowest point, known to lie between its neighbours; what diverges there costs everything."""
    broken = quiet(-2.1)
    broken[9:, 1] = np.nan
    untrained = quiet(-2.1)
    untrained[9:, 1] = np.log(2.31)  # above guessing
    for losses in (broken, untrained):
        table = over_widths(grid_of({"mlp_32": quiet(-1.5), "mlp_64": losses}), *LIMITS).optima
        assert table.loc[1, ["optimum", "low", "high"]].tolist() == pytest.approx(LR[[8, 7, 9]].tolist())
        assert table["loss_at_narrowest"].iloc[1] == math.inf
    alike = {name: quiet(-2.1) for name in ("mlp_16", "mlp_32")}
    drifts = over_widths(grid_of(alike | {"mlp_64": broken}), *LIMITS).drifts
    assert drifts["slope"].item() == pytest.approx(0, abs=1e-9)
    everything = np.full_like(broken, np.nan)
    assert len(over_widths(grid_of({"mlp_32": quiet(-2), "mlp_64": everything}), *LIMITS).optima) == 1


def test_a_width_that_diverged_or_has_no_interval_is_no_sign_of_transfer():
    """Of one width nothing is left, or one point alone, at which the narrowest's optimum isn't."""
    alone = np.full_like(quiet(-2), np.nan)
    alone[2] = np.log(0.1)
    for losses, said in ((np.full_like(alone, np.nan), "at width 64 every value diverged"), (alone, "diverges at")):
        rest = {"mlp_32": quiet(-2), "mlp_128": quiet(-2)}
        assert over_widths(grid_of(rest), *LIMITS).drifts["verdict"].item() == "transfers"
        (drift,) = over_widths(grid_of({**rest, "mlp_64": losses}), *LIMITS).drifts.to_dict("records")
        assert drift["verdict"] == "undetermined"
        assert said in drift_sentence(drift, *LIMITS)
    (drift,) = over_widths(grid_of({"mlp_32": alone, "mlp_64": alone}), *LIMITS).drifts.to_dict("records")
    assert "nan" not in drift_sentence(drift, *LIMITS)


def test_one_seed_gives_no_interval_and_no_verdict():
    found = over_widths(grid_of({"mlp_32": quiet(-2, seeds=1), "mlp_64": quiet(-3, seeds=1)}), *LIMITS)
    assert np.log10(found.optima["optimum"]).tolist() == pytest.approx([-2, -3], abs=0.02)
    assert found.optima[["low", "high", "regret_low", "regret_high"]].isna().all(axis=None)
    (drift,) = found.drifts.to_dict("records")
    assert drift["verdict"] == "undetermined"
    assert "one run seed gives no interval" in drift_sentence(drift, *LIMITS)


def test_a_series_has_one_depth_and_one_width_a_network():
    losses = {"mlp_64x64": quiet(-2), "mlp_32x32": quiet(-2), "mlp_16": quiet(-2), "mlp_32x64": quiet(-3)}
    found = over_widths(pd.concat([grid_of(losses), grid_of(losses, name="mup")]), *LIMITS)
    of = ["parametrization", "architecture", "width"]
    rows = [["mlp_16", 16], ["mlp_32x32", 32], ["mlp_64x64", 64]]
    assert found.optima[of].to_numpy().tolist() == [[name, *row] for name in ("standard", "mup") for row in rows]
    assert found.drifts["layers"].tolist() == [1, 2, 1, 2]
    assert "there is one width" in drift_sentence(found.drifts.to_dict("records")[0], *LIMITS)


def test_of_two_hyperparameters_each_has_the_best_that_the_other_allows():
    """Dropout 0.3 is best at a learning rate of 10^-2, and costs 1 a unit squared; it has a scale of its own."""
    dropouts = np.linspace(0, 0.5, 6)
    tables = [
        grid_of({name: quiet(-2) + (d - best) ** 2 for name, best in (("mlp_8", 0.3), ("mlp_64", 0.2))})
        .assign(dropout=d)
        .assign(trial=lambda table, d=d: table["trial"] + round(1000 * d))
        for d in dropouts
    ]
    found = over_widths(pd.concat(tables, ignore_index=True), *LIMITS)
    optima = found.optima.set_index(["hyperparameter", "architecture"])["optimum"]
    assert optima["lr"].tolist() == pytest.approx([0.01, 0.01], rel=0.05)
    assert optima["dropout"].tolist() == pytest.approx([0.3, 0.2], abs=0.005)
    lr, dropout = found.drifts.to_dict("records")
    assert (lr["verdict"], lr["slope"]) == ("transfers", pytest.approx(0, abs=1e-9))
    assert dropout["slope"] == pytest.approx(-0.1 / math.log(8), rel=0.05)
    assert "the best dropout changes by -0.048 a factor e of width (" in drift_sentence(dropout, *LIMITS)


def test_sensitivity_by_hand():
    """Means of 0.2, 0.1 and, with a seed that diverged, of 0.3 and ln(10)."""
    logs = np.log(np.array([[0.1, 0.3], [0.1, 0.1], [0.3, np.nan]]))
    ((_, curves),) = find_curves(grid_of({"mlp_8": logs}, values=LR[:3])).items()
    assert curves["mlp_8"].sensitivity == pytest.approx((0.1 + 0 + (0.3 + math.log(10)) / 2 - 0.1) / 3)


@pytest.mark.parametrize(("points", "place"), [(2, 0), (3, 1), (4, 2)])
def test_few_points(points, place):
    logs = np.log(0.1) + np.abs(np.arange(points) - place)[:, None] * np.ones(3)
    table = over_widths(grid_of({"mlp_8": logs}, values=LR[:points]), *LIMITS).optima
    assert table["at_edge"].item() == (points == 2)
    assert LR[max(0, place - 1)] <= table["optimum"].item() <= LR[min(place + 1, points - 1)]


def test_the_figure_has_a_panel_a_parametrization_and_a_curve_a_width():
    losses = {"mlp_8": quiet(-2), "mlp_64": quiet(-2.5)}
    points = pd.concat([grid_of(losses, name=name) for name in ("standard", "mup")])
    found = over_widths(points, *LIMITS)
    figure = loss_by_width(find_curves(points), found.optima, found.drifts)
    assert isinstance(figure, Figure)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == ["standard", "mup"]
    lines = figure.axes[0].lines
    assert lines[0].get_ydata().tolist() == pytest.approx(np.exp(losses["mlp_8"][:, 0]).tolist())
    assert [line.get_xdata()[0] for line in lines[2::3]] == found.optima["optimum"].tolist()[:2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["8", "64"]


# --- simulated ------------------------------------------------------------------------------------------------------

WORLDS = {
    "leaning": {},
    "symmetric": {"lean": 0.0},
    "leaning the other way": {"lean": -1.5},
    "leaning more": {"lean": 3.0},
    "flat": {"curvature": 0.15, "lean": 1.0},
    "nine points": {"points": 9},
    "little noise": {"noise": 0.01},
}


def study(rng, slope, points=13, noise=0.03, **shape):
    """(trainings, true optima in decades) at the six widths; what a seed shares moves nothing."""
    values = 10 ** np.linspace(-4, -1, points)
    middle = -2.5 + rng.uniform(-1.5, 1.5) / (points - 1)
    optima = middle + slope * (np.log10(WIDTHS) - np.log10(WIDTHS).mean())
    losses = {}
    for width, optimum in zip(WIDTHS, optima, strict=True):
        u = np.log10(values) - optimum
        spread = noise * np.exp(np.clip(u, -1, 1))[:, None]
        errors = 0.02 * rng.standard_normal(3) + spread * rng.standard_normal((points, 3))
        losses[f"mlp_{width}"] = np.minimum(np.log(0.1) + surface(u, **shape)[:, None] + errors, np.log(2.29))
    return grid_of(losses, values), optima


@cache
def campaign(studies, world, slope):
    """Of each study: error of the optima [6] (decades), whether the intervals hold optima [6], slope and regrets [6],
    and the verdict.
    """
    rng, shape, found = np.random.default_rng(list(WORLDS).index(world)), WORLDS[world], []
    known = {name: shape[name] for name in ("curvature", "lean") if name in shape}
    for _ in range(studies):
        points, truth = study(rng, slope, **shape)
        result = over_widths(points, *LIMITS)
        table, (drift,) = result.optima, result.drifts.to_dict("records")
        low, optimum, high = np.log10(table[["low", "optimum", "high"]].to_numpy().T)
        regret = table["loss"] * np.expm1(surface(truth[0] - truth, **known))
        held = (table["regret_low"] <= regret + 1e-9) & (regret <= table["regret_high"] + 1e-9)
        in_slope = drift["low"] <= slope <= drift["high"]
        found.append((optimum - truth, (low <= truth) & (truth <= high), in_slope, held[1:], drift["verdict"]))
    errors, optima, slopes, regrets, verdicts = zip(*found, strict=True)
    print(
        f"{world}, slope {slope:g}: bias {np.mean(errors):+.3f} decades, held: optima {np.mean(optima):.1%}, "
        f"slopes {np.mean(slopes):.1%}, regrets {np.mean(regrets):.1%}; {pd.Series(verdicts).value_counts().to_dict()}"
    )
    return errors, optima, slopes, regrets, verdicts


@pytest.mark.parametrize(
    ("studies", "world"), [(QUICK, "leaning"), *(pytest.param(FULL, world, marks=pytest.mark.slow) for world in WORLDS)]
)
def test_without_drift_intervals_hold_and_hardly_any_is_said(studies, world):
    errors, optima, slopes, regrets, verdicts = campaign(studies, world, 0.0)
    assert abs(np.mean(errors)) < (0.1 if world == "flat" else 0.015)
    assert np.mean(optima) > 0.92
    assert np.mean(slopes) > 1 - MOST_FALSE
    assert np.mean(regrets) > 0.95
    assert verdicts.count("drifts") <= MOST_FALSE * studies


@pytest.mark.parametrize("studies", [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
def test_a_drift_is_found_and_held(studies):
    errors, optima, slopes, regrets, verdicts = campaign(studies, "leaning", -0.5)
    assert abs(np.mean(errors)) < 0.015
    assert np.mean(optima) > 0.92
    assert np.mean(slopes) > 1 - MOST_FALSE
    assert np.mean(regrets) > 0.92
    assert verdicts.count("drifts") > 0.99 * studies
