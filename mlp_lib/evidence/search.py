"""Pure functions of the tables of trials: how good a search was and which hyperparameters mattered.

`trials` is search_results.csv of all architectures with the column architecture: a row a trial, losses in nats an
example. A trial whose validation loss is not finite diverged, or was not trained. What can't be said is NaN.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy

from mlp_lib.core.values import HYPERPARAMETERS, LOG_HYPERPARAMETERS
from mlp_lib.evidence.intervals import count_text
from mlp_lib.evidence.pool import residual_squares, weights
from mlp_lib.evidence.summaries import no_trial, short_name, untrained
from mlp_lib.run.parameters import Range, SearchSpace

POOLED = "pooled"  # stands for the architectures that share a forest
MIN_TRIALS = 60  # finite trials below which an architecture gets no forest of its own
MIN_BETTER = 20  # better trials below which a forest says nothing
FOLDS = 5


def _finite(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that did not diverge, best first (ties: the lowest number, as the winner is chosen)."""
    finite = trials[np.isfinite(trials["val_loss"].astype(float))]
    return finite.sort_values(["val_loss", "trial"])


def fixed(trials: pd.DataFrame) -> list[str]:
    """The hyperparameters that have one value in all trials, of several."""
    several = trials["trial"].nunique() > 1
    return [name for name in HYPERPARAMETERS if several and trials[name].nunique() == 1]


def range_position(values: pd.Series, range_: Range) -> pd.Series:
    """Where values lie in a search range: 0 at its low end, 1 at its high end, on the scale it is drawn on.

    A fixed hyperparameter (low == high) has no position: NaN.
    """
    values, low, high = values.astype(float), range_.low, range_.high
    if low == high:
        return values * np.nan
    if range_.distribution == "log_uniform":
        return np.log(values / low) / np.log(high / low)
    return (values - low) / (high - low)


def expected_best(trials: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Best validation loss after n random trials: architecture, n, expected, low, high; n = 1 .. trials.

    `expected` is the unbiased U-statistic, the mean of the minimum over all subsets of n trials: the i-th smallest of
    N losses has the weight C(N - i, n - 1) / C(N, n) (Tang et al. 2020, on Dodge et al. 2019).

    `low` and `high` are the exact (1 -+ confidence) / 2 quantiles of the best of n fresh draws from the trials,
    1 - (1 - F)^n: where another search of n trials would end. That is the bootstrap with infinitely many resamples, so
    it needs no seed; drawing without replacement instead would give width 0 at n = N. The band can't reach below the
    best loss seen, so it is too narrow as n nears N (the bootstrap of a minimum: Bickel & Freedman 1981).

    A diverged trial counts as the worst finite loss of its architecture: as infinity it would make every expectation
    up to n = the diverged infinite. So small n look no worse than a search without divergence would.
    """
    tables = []
    for architecture, group in trials.groupby("architecture", sort=False):
        losses = group["val_loss"].to_numpy(dtype=float)
        worst = max(losses[np.isfinite(losses)], default=np.nan)
        losses = np.sort(np.where(np.isfinite(losses), losses, worst))  # [N]
        n, tail = np.arange(1, len(losses) + 1), (1 - confidence) / 2
        # the first rank of which 1 - (1 - rank / N)^n reaches either tail
        ranks = (np.ceil(len(losses) * (1 - (1 - q + 1e-12) ** (1 / n))).astype(int) for q in (tail, 1 - tail))
        low, high = (losses[rank - 1] for rank in ranks)
        expected = [_expected_best(losses, k) for k in n]
        columns = {"architecture": architecture, "n": n, "expected": expected, "low": low, "high": high}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else _table([], "architecture n expected low high")


def _expected_best(losses: np.ndarray, n: int) -> float:
    """The mean of the minimum over all subsets of n losses, which are sorted [N]."""
    m = min(len(losses), math.ceil(40 * len(losses) / n))  # what comes after has a chance below e^-40
    return losses[:m] @ weights(n, len(losses), m)


def _table(rows: list, columns: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def unshared_seed_spread(trainings: pd.DataFrame) -> pd.Series:
    """The standard deviation of log validation loss over run seeds that trials of one seed do not share.

    trainings: architecture, seed, val_loss and the hyperparameters, several choices at the same seeds. The root of the
    residual mean square of choice + seed within an architecture, pooled over architectures (one rarely has enough): the
    same for each of them, and NaN without two choices at two seeds.
    """
    squares = []
    for _, group in trainings.groupby("architecture", sort=False):
        group = group.assign(choice=group.groupby(list(HYPERPARAMETERS)).ngroup())  # one number: pivots take products
        table = group.pivot_table(index="choice", columns="seed", values="val_loss", dropna=False)
        table = np.log(table.where(np.isfinite(table)).dropna(how="all"))
        table = table.loc[:, table.notna().sum() > 1]  # a seed of one choice alone tells nothing of it
        squares.append(residual_squares(table.to_numpy(float)))
    total, df = np.sum(squares, axis=0) if squares else (0.0, 0)
    return pd.Series(np.sqrt(total / df) if df else np.nan, trainings["architecture"].unique())


def winner_instability(trials: pd.DataFrame, seed_spread: Mapping[str, float]) -> pd.DataFrame:
    """How little it would take for another trial to win, a row an architecture.

    `seed_spread` maps an architecture to the relative standard deviation of a loss over run seeds, of the part that
    trials of one seed do not share: noise common to all trials changes no winner.

    Columns: architecture, trial (the winner), val_loss, seed_spread, gap_2nd and gap_5th (how far these trials lie
    above the winner, relative to it), spreads_2nd and spreads_5th (the same over seed_spread), change_probability: the
    chance that another trial is best after every loss is multiplied by fresh, independent log-normal noise of that
    spread. The losses seen hold one such noise already, which flattered the winner.
    """
    rows = []
    for architecture, group in trials.groupby("architecture", sort=False):
        finite = _finite(group)
        losses = finite["val_loss"].to_numpy(dtype=float)
        spread = float(seed_spread.get(architecture, np.nan))
        gaps = [losses[i] / losses[0] - 1 if len(losses) > i else np.nan for i in (1, 4)]
        change = _loses(np.log(losses), math.sqrt(math.log1p(spread**2))) if len(losses) > 1 else np.nan
        winner = finite.iloc[0][["trial", "val_loss"]] if len(finite) else (np.nan, np.nan)
        rows.append((architecture, *winner, spread, *gaps, *(g / spread if spread else np.nan for g in gaps), change))
    columns = "architecture trial val_loss seed_spread gap_2nd gap_5th spreads_2nd spreads_5th change_probability"
    return _table(rows, columns).astype({"trial": "Int64"})


def _loses(values: np.ndarray, spread: float) -> float:
    """The chance that the first of some values isn't the lowest, each with normal noise of that spread; NaN: unknown.

    1 less the integral over its own noise z of the density times the chance that all others are above it.
    """
    noise, step = np.linspace(-9, 9, 361, retstep=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # without noise it loses to none, or ties
        above = scipy.stats.norm.logcdf((values[1:] - values[0]) / spread - noise[:, None]).sum(1)
    return float(1 - step * np.exp(above + scipy.stats.norm.logpdf(noise)).sum())


def search_warnings(trials: pd.DataFrame, space: SearchSpace, max_epochs: int) -> list[str]:
    """Plain sentences on what the search may have cut off: best trials at the edge of a range or at `max_epochs`.

    The edge is the outer 5 % at either end, on the log scale where the range is log_uniform.
    """
    finite = _finite(trials)
    best = finite.groupby("architecture", sort=False).head(1)
    names = untrained(trials)
    warnings = [f"{no_trial(names)}: the best of those that did not diverge stands for them."] if names else []
    for name in HYPERPARAMETERS:
        range_ = getattr(space, name)
        position = range_position(best[name], range_)
        for end, at_end in (("lower", position <= 0.05), ("upper", position >= 0.95)):
            if at_end.any():
                warnings.append(
                    f"The best {name} of {at_end.sum()} of {count_text(len(best), 'architecture')} lies in the {end}"
                    f" 5 % of its range, {range_.low:g} to {range_.high:g} ({_names(best[at_end])}): better values may"
                    f" lie beyond (chance alone would put {0.05 * len(best):.2g} there)."
                )
    capped = best[best["epochs_trained"] >= max_epochs]
    if len(capped):
        warnings.append(
            f"The best trial of {len(capped)} of {count_text(len(best), 'architecture')} trained until max_epochs"
            f" ({max_epochs}; {_names(capped)}): longer training may have improved it."
        )
    at_cap = trials["epochs_trained"] >= max_epochs
    if at_cap.any():
        share = trials.loc[at_cap, "epochs_trained"].sum() / trials["epochs_trained"].sum()
        warnings.append(
            f"{share:.0%} of all epochs went to trials that hit max_epochs".replace("%", " %")
            + f" ({at_cap.sum()} of {count_text(len(trials), 'trial')})."
        )
    return warnings


def _names(best: pd.DataFrame) -> str:
    return ", ".join(map(short_name, sorted(best["architecture"])))


def importance(trials: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Permutation importance of each hyperparameter among the better half of the trials, a row a hyperparameter.

    The better half: finite trials at or below their architecture's median validation loss. A random forest is fitted
    to log validation loss (lr, eps, weight_decay as logs), architecture by architecture; those with fewer than
    60 finite trials share one forest, on log losses centred by architecture.

    Columns: architecture (`pooled` for the shared forest), hyperparameter, importance, error, r2, trials,
    architectures, pooled. `importance` is the increase of the squared error of held-out trials when the
    hyperparameter is permuted (Breiman 2001), over twice the variance of the log losses: the share of the variance
    that it has a part in, alone or with others (its total Sobol index; Gregorutti et al. 2017). `error` is its
    standard error over the 5 folds, widened for the training data they share (Nadeau & Bengio 2003). `r2` is the
    share of variance that held-out predictions explain: where it is not above 0, the importances say nothing. NaN
    below 20 better trials of different hyperparameters, and of a fixed hyperparameter. Trials that share theirs, as
    architectures do, are held out together.
    """
    finite = _finite(trials)
    losses = finite.groupby("architecture", sort=False)["val_loss"]
    better = finite[finite["val_loss"] <= losses.transform("median")]
    sizes = losses.size().reindex(trials["architecture"].unique(), fill_value=0)
    few = list(sizes.index[sizes < MIN_TRIALS])
    forests = {name: [name] for name in sizes.index if name not in few}
    if few:
        forests[POOLED if len(few) > 1 else few[0]] = few
    tables = []
    for label, architectures in forests.items():
        table = _importance(better[better["architecture"].isin(architectures)], seed)
        table.insert(0, "architecture", label)
        tables.append(table.assign(architectures=len(architectures), pooled=len(architectures) > 1))
    columns = "architecture hyperparameter importance error r2 trials architectures pooled"
    return pd.concat(tables, ignore_index=True) if tables else _table([], columns)


def _importance(better: pd.DataFrame, seed: int) -> pd.DataFrame:
    """hyperparameter, importance, error, r2, trials of one forest."""
    from sklearn.ensemble import RandomForestRegressor  # half a second, which only what shows it takes
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    better = better.sort_values(["architecture", "trial"])  # the folds depend on the trials, not on the rows' order
    inputs = better[list(HYPERPARAMETERS)].astype(float)
    for name in LOG_HYPERPARAMETERS:
        if (inputs[name] > 0).all():
            inputs[name] = np.log(inputs[name])
    target = np.log(better["val_loss"].astype(float))
    target -= target.groupby(better["architecture"]).transform("mean")
    x, y = inputs.to_numpy(), target.to_numpy()
    table = pd.DataFrame({"hyperparameter": HYPERPARAMETERS, "importance": np.nan, "error": np.nan, "r2": np.nan})
    vector = inputs.groupby(list(HYPERPARAMETERS), sort=False).ngroup().to_numpy()  # [trials], by first appearance
    vectors = np.unique(vector)
    if len(vectors) >= MIN_BETTER and y.var() > 0:
        increases, squares = [], 0.0
        for _, apart in KFold(FOLDS, shuffle=True, random_state=seed).split(vectors):
            held_out = np.isin(vector, apart)
            train = ~held_out
            forest = RandomForestRegressor(100, min_samples_leaf=2, random_state=seed).fit(x[train], y[train])
            found = permutation_importance(
                forest, x[held_out], y[held_out], scoring="neg_mean_squared_error", n_repeats=5, random_state=seed
            )
            increases.append(found.importances_mean / (2 * y.var()))
            squares += ((forest.predict(x[held_out]) - y[held_out]) ** 2).sum()
        increases = np.array(increases)  # [folds, hyperparameters]
        table["importance"] = increases.mean(axis=0)
        table["error"] = increases.std(axis=0, ddof=1) * np.sqrt(1 / FOLDS + 1 / (FOLDS - 1))
        table.loc[table["hyperparameter"].isin(fixed(better)), ["importance", "error"]] = np.nan
        table["r2"] = 1 - squares / len(y) / y.var()
    return table.assign(trials=len(y))


def lr_envelope(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials on the lower envelope of validation loss over lr: architecture, lr, val_loss, by rising lr.

    The envelope falls to the best trial and rises after it: of the trials up to there a trial is on it if none of
    lower lr is better, of those after it if none of higher lr is better. So it shows what a lr allows, the other
    hyperparameters well drawn.
    """
    finite = _finite(trials).sort_values(["architecture", "lr"], ignore_index=True)[["architecture", "lr", "val_loss"]]
    up_to, from_there = (rows.groupby("architecture")["val_loss"].cummin() for rows in (finite, finite[::-1]))
    return finite[finite["val_loss"] == np.maximum(up_to, from_there.sort_index())].reset_index(drop=True)


def lr_sensitivity(trials: pd.DataFrame, within: float = 0.1) -> pd.DataFrame:
    """How wide the range of good learning rates is: architecture, best_lr, low, high, decades, trials.

    `low` to `high` is where the envelope (see lr_envelope) is at most (1 + within) times the best loss, that is from
    the smallest to the largest lr of the trials that good; `decades` is log10(high / low), `trials` counts them.
    The true range is at least that wide, and few trials show little of it: `decades` is NaN for a lone trial, and of a
    fixed lr.
    """
    rows = []
    for architecture, group in trials.groupby("architecture", sort=False):
        finite = _finite(group)
        good = finite[finite["val_loss"] <= (1 + within) * finite["val_loss"].min()]
        best_lr = finite["lr"].iloc[0] if len(finite) else np.nan
        low, high = good["lr"].min(), good["lr"].max()
        rows.append((architecture, best_lr, low, high, np.log10(high / low) if high > low else np.nan, len(good)))
    return _table(rows, "architecture best_lr low high decades trials")
