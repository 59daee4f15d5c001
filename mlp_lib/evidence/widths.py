"""How the optimum of a hyperparameter moves with the width of the hidden layers, on a grid.

points: a row a training: parametrization, architecture, trial, seed, the hyperparameters, val_loss, test_loss (nats an
example). Losses are compared as logarithms. Shape letters: N points of a curve, evenly spaced and counted from 0 in
steps of their distance; K run seeds; B draws of means [N].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlp_lib.core.values import GUESSING, HYPERPARAMETERS, Architecture
from mlp_lib.evidence.intervals import count_text

TRANSFERS, DRIFTS, UNDETERMINED = "transfers", "drifts", "undetermined"
_AROUND = 5  # points that a curve is fitted to
_OFFSETS = np.array(sorted(np.linspace(-1, 1, 41), key=abs))  # where a least is looked for, from the lowest point
_DRAWS = 1000


@dataclass(frozen=True)
class Curve:
    """What a hyperparameter makes of one architecture: log test losses [N, K] at values [N], NaN: diverged."""

    width: int
    values: np.ndarray
    logarithmic: bool  # whether they are evenly spaced on that scale
    losses: np.ndarray
    rows: np.ndarray  # [1 + B, N]: the means over the seeds, and what they might be over others, see _draw

    @property
    def lowest(self) -> int:
        """The point of the lowest mean."""
        return int(np.nanargmin(self.rows[0]))

    @property
    def at_edge(self) -> bool:
        """Whether the optimum may lie beyond the range."""
        return self.lowest in (0, len(self.values) - 1)

    @property
    def fitted(self) -> bool:
        """Whether the optimum is a fit's: beside a point that diverged it is only known to a point's distance."""
        start = _start(self.lowest, len(self.values))
        return bool(np.isfinite(self.rows[0, start : start + _AROUND]).all())

    def place(self, where: np.ndarray) -> np.ndarray:
        """The value, or its logarithm, where it is counted in points."""
        first, last = np.log(self.values[[0, -1]]) if self.logarithmic else self.values[[0, -1]]
        return first + where * (last - first) / (len(self.values) - 1)

    @property
    def sensitivity(self) -> float:
        """Mean excess of the loss over the least, in nats, along the range (Wortsman et al. 2023, small-scale proxies).

        A loss counts up to that of guessing, which diverged ones have.
        """
        losses = np.nan_to_num(np.exp(self.losses), nan=GUESSING).mean(axis=1)
        return float((losses - losses.min()).mean())


@dataclass(frozen=True)
class Widths:
    """How optima move with the width: `optima`, a row a curve, and `drifts`, a row a series of widths."""

    optima: pd.DataFrame
    drifts: pd.DataFrame


def over_widths(points: pd.DataFrame, margin: float, confidence: float, seed: int = 0) -> Widths:
    """The optimum of each hyperparameter that is not fixed, by parametrization, number of hidden layers and width.

    Architectures whose hidden layers differ in width are left out. Where more than one hyperparameter is free, each
    has the curve of the best (by validation) that the others allow.

    optima: parametrization, architecture, width, hyperparameter, optimum with low and high, at_edge, loss, and
    loss_at_narrowest (with the narrowest width's optimum) in nats, and their difference, regret, with its interval.
    drifts: parametrization, layers, hyperparameter, widths and seeds (their numbers), narrowest, widest, lost (widths
    of which every point diverged at some seed, as text; they have no curve), scale (log or linear), slope of the
    optimum on that scale against log width with its interval; worst_width, whose regret may be largest, and its
    relative_regret with interval; sensitivity_narrowest, sensitivity_widest, at_edge (number of widths), verdict.
    """
    optima, drifts = [], []
    for (name, layers, parameter), curves in find_curves(points, seed).items():
        tried = map(Architecture.from_name, points.loc[points["parametrization"] == name, "architecture"].unique())
        lost = {a.widths[0] for a in tried if len(a.widths) == layers and len({*a.widths}) == 1}
        lost -= {curve.width for curve in curves.values()}
        rows, drift = _along(list(curves.values()), margin, confidence, sorted(lost))
        for (architecture, curve), row in zip(curves.items(), rows, strict=True):
            of = {"parametrization": name, "architecture": architecture, "width": curve.width}
            optima.append(of | {"hyperparameter": parameter} | row)
        drifts.append({"parametrization": name, "layers": layers, "hyperparameter": parameter} | drift)
    return Widths(pd.DataFrame(optima), pd.DataFrame(drifts))


def find_curves(points: pd.DataFrame, seed: int = 0) -> dict[tuple[str, int, str], dict[str, Curve]]:
    """The curves by (parametrization, number of hidden layers, hyperparameter), then architecture, narrowest first."""
    found = {}
    for name, run in points.groupby("parametrization", sort=False):
        shapes = {Architecture.from_name(a) for a in run["architecture"]}
        free = [parameter for parameter in HYPERPARAMETERS if run[parameter].nunique() > 1]
        for shape in sorted(shape for shape in shapes if len(set(shape.widths)) == 1):
            for parameter in free:
                curve = _curve(run[run["architecture"] == shape.name], shape, parameter, seed)
                if np.isfinite(curve.rows[0]).any():
                    found.setdefault((name, len(shape.widths), parameter), {})[shape.name] = curve
    return found


def _curve(trainings: pd.DataFrame, shape: Architecture, parameter: str, seed: int) -> Curve:
    val, test = (trainings.pivot(index="trial", columns="seed", values=f"{kind}_loss") for kind in ("val", "test"))
    values = trainings.drop_duplicates("trial").set_index("trial")[parameter].astype(float)
    ranked = values[val.mean(axis=1, skipna=False).sort_values(kind="stable").index]
    best = ranked.drop_duplicates().sort_values()
    values, losses = best.to_numpy(), np.log(test.where(test < GUESSING).loc[best.index].to_numpy(float))
    logarithmic = values[0] > 0 and np.allclose(np.geomspace(values[0], values[-1], len(values)), values)
    rng = np.random.default_rng([seed, HYPERPARAMETERS.index(parameter), *shape.widths])
    return Curve(shape.widths[0], values, logarithmic, losses, _draw(losses, rng))


def _draw(losses: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The means over the seeds, then what they might be over others: rows [1 + B, N] with noise as around the lowest.

    Its spread is that of the residuals of point and seed, since what the points of a seed share moves no optimum. The
    spread's own uncertainty is drawn too (a chi-square): three seeds are too few to be drawn from. NaN where there is
    one seed.
    """
    means, (count, seeds) = losses.mean(axis=1), losses.shape
    start = _start(np.nan_to_num(means, nan=np.inf).argmin(), count)
    around = losses[start : start + _AROUND]
    around = around[np.isfinite(around).all(axis=1)]
    df = (len(around) - 1) * (seeds - 1)
    if df < 1:
        return np.vstack([means, np.full((_DRAWS, count), np.nan)])
    residuals = around - around.mean(axis=1, keepdims=True)
    squares = ((residuals - residuals.mean(axis=0)) ** 2).sum()
    spread = np.sqrt(squares / rng.chisquare(df, (_DRAWS, 1)) / seeds)
    return np.vstack([means, means + spread * rng.standard_normal((_DRAWS, count))])


def _start(middle: np.ndarray, count: int) -> np.ndarray:
    """The first of the points that are around one of `count`."""
    return np.clip(middle - _AROUND // 2, 0, max(count - _AROUND, 0))


def _losses_at(rows: np.ndarray, middle: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The losses [R, M] of rows [R, N] where it is said [R, M]: of the cubic fitted to the points around `middle` [R].

    A quadratic would put the least of a curve that is steeper on one side, as those of learning rates are, beside it.
    Beside a point that diverged nothing is fitted: the loss is that of the nearest point, inf if that one diverged.
    """
    count = rows.shape[1]
    start, size = _start(middle, count)[:, None], min(_AROUND, count)
    basis = np.vander(np.arange(size), min(4, size), increasing=True)
    powers = np.take_along_axis(rows, start + np.arange(size), 1) @ np.linalg.pinv(basis).T
    fitted = sum(powers[:, [k]] * (where - start) ** k for k in range(basis.shape[1]))
    nearest = np.take_along_axis(np.nan_to_num(rows, nan=np.inf), np.nan_to_num(where).round().astype(int), 1)
    return np.where(np.isfinite(fitted), fitted, nearest)


def _least(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the optimum of each of rows [R, N] is, and its loss, [R] each: within a point's distance of the lowest."""
    lowest = np.nan_to_num(rows, nan=np.inf).argmin(axis=1)
    where = (lowest[:, None] + _OFFSETS).clip(0, rows.shape[1] - 1)
    losses = _losses_at(rows, lowest, where)
    best = losses.argmin(axis=1)[:, None]
    place, loss = np.take_along_axis(where, best, 1)[:, 0], np.take_along_axis(losses, best, 1)[:, 0]
    return np.where(np.isfinite(loss), place, np.nan), loss


def _along(series: Sequence[Curve], margin: float, confidence: float, lost: list[int]) -> tuple[list[dict], dict]:
    """The rows of `optima`, and the row of `drifts`, of a series of curves from the narrowest width on."""
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    first, _ = _least(series[0].rows)
    found = [_compare(curve, first, tails) for curve in series]
    known = [not curve.at_edge and curve.fitted for curve in series]
    inside = [(curve.width, place) for curve, (_, _, place), well in zip(series, found, known, strict=True) if well]
    slope = _slope(*zip(*inside, strict=True)) if len(inside) > 1 else np.full(1 + _DRAWS, np.nan)
    low, high = np.quantile(slope[1:], tails)
    worst = max(range(len(series)), key=lambda i: np.nan_to_num(found[i][1][2], nan=np.inf))  # NaN: without interval
    drift = {"widths": len(series), "seeds": series[0].losses.shape[1]}
    drift |= {"narrowest": series[0].width, "widest": series[-1].width, "lost": ", ".join(map(str, lost))}
    drift |= {"scale": "log" if series[0].logarithmic else "linear", "slope": slope[0], "low": low, "high": high}
    drift |= {"worst_width": series[worst].width, **_with_ends("relative_regret", np.exp(found[worst][1]))}
    drift |= {f"sensitivity_{end}": series[i].sensitivity for end, i in (("narrowest", 0), ("widest", -1))}
    drift["at_edge"] = sum(curve.at_edge for curve in series)
    return [row for row, _, _ in found], drift | {"verdict": _verdict(drift, margin)}


def _compare(curve: Curve, first: np.ndarray, tails: Sequence[float]) -> tuple[dict, np.ndarray, np.ndarray]:
    """The row of `optima`; the log regret of the narrowest width's optimum `first` [1 + B] with its interval [3]; the
    places of the optimum [1 + B].
    """
    where, loss = _least(curve.rows)
    there = _losses_at(curve.rows, np.nan_to_num(first).round().astype(int), first[:, None])[:, 0]
    # never below 0, so the interval is that of the root, which has a sign: on which side the narrowest's optimum lies
    with np.errstate(invalid="ignore"):  # NaN without draws
        root = np.sign(first - where) * np.sqrt((there - loss).clip(0))
    ends = np.quantile(root[1:], tails, method="nearest")
    low, high = np.sort(ends**2)
    excess = np.array([root[0] ** 2, 0.0 if ends[0] <= 0 <= ends[1] else low, high])
    # where a point near the lowest diverged nothing was fitted: the optimum is between the lowest's neighbours
    gap = 0 if curve.fitted else 1
    ends = np.quantile(where[1:], tails) + np.array([-gap, gap])
    places = curve.place(np.array([where[0], *ends]).clip(0, len(curve.values) - 1))
    optimum = dict(zip(("optimum", "low", "high"), np.exp(places) if curve.logarithmic else places, strict=True))
    own = math.exp(loss[0])
    row = optimum | {"at_edge": curve.at_edge, "loss": own, "loss_at_narrowest": own * math.exp(excess[0])}
    return row | _with_ends("regret", own * np.expm1(excess)), excess, curve.place(where)


def _with_ends(name: str, numbers: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _slope(widths: Sequence[int], places: Sequence[np.ndarray]) -> np.ndarray:
    """The slopes [1 + B] of places [W, 1 + B] against log widths [W], by least squares; below 1e-12 it is rounding."""
    distance = np.log(widths) - np.log(widths).mean()
    return (distance @ np.stack(places) / (distance @ distance)).round(12)


def _verdict(drift: dict, margin: float) -> str:
    """`transfers`: at every width the interval of the regret lies below the margin, no optimum is at the edge of its
    range and no width is lost; else `drifts`: the interval of the slope, over the optima that are neither at the edge
    nor beside a point that diverged, excludes 0; else `undetermined`, always with one width or one run seed.
    """
    whole = drift["widths"] > 1 and not drift["at_edge"] and not drift["lost"]
    if whole and drift["relative_regret_high"] < 1 + margin:
        return TRANSFERS
    return DRIFTS if drift["low"] > 0 or drift["high"] < 0 else UNDETERMINED


def drift_sentence(drift: dict, margin: float, confidence: float) -> str:
    """What a row of `drifts` says, with its verdict, in a sentence or two."""
    parameter, layers = drift["hyperparameter"], drift["layers"]
    claim = f"Under {drift['parametrization']}, with {count_text(layers, 'hidden layer')}, "
    basis = f"widths {drift['narrowest']} to {drift['widest']}, {count_text(drift['seeds'], 'run seed')}"
    if drift["widths"] == 1:
        return f"{claim}there is one width: whether the best {parameter} moves cannot be said."
    if drift["seeds"] == 1:
        return f"{claim}one run seed gives no interval: whether the best {parameter} moves cannot be said."
    if not math.isnan(drift["slope"]):
        slope, low, high = (f"{drift[name] + 0.0:+.2g}" for name in ("slope", "low", "high"))
        how = f"goes as width to the power {slope}"
        how = how if drift["scale"] == "log" else f"changes by {slope} a factor e of width"
        interval = "" if math.isnan(drift["low"]) else f"{100 * confidence:g}% interval {low} to {high}; "
        claim += f"the best {parameter} {how} ({interval}{basis}); that of the narrowest "
    else:
        claim += f"the best {parameter} of the narrowest "
    regret, low, high = (drift[f"relative_regret{end}"] - 1 for end in ("", "_low", "_high"))
    cost = f"costs {regret:.1%} ({low:.1%} to {high:.1%})" if math.isfinite(high) else f"costs {regret:.1%} or more"
    cost = "diverges" if math.isinf(regret) else cost
    claim += f"{cost} at width {drift['worst_width']}: "
    if drift["lost"]:
        claim += f"at width {drift['lost']} every value diverged at some seed; "
    if drift["at_edge"]:
        claim += f"{drift['at_edge']} of {drift['widths']} optima lie at the edge of the range, which should be wider; "
    ends = {TRANSFERS: f"it transfers within {margin:.2g}.", DRIFTS: "it drifts.", UNDETERMINED: "undetermined."}
    return (claim + ends[drift["verdict"]]).replace("%", " %")
