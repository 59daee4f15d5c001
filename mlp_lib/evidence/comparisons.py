"""Pure functions of tables of losses: what transfers better than another architecture's hyperparameters, and two runs.

`losses`: target, source, seed, test_loss, as in transfer_seed_losses.csv. Differences are of log losses, paired by run
seed, so effects are quotients; their intervals are Student's t over the seeds, so they speak of these architectures.
"""

import numpy as np
import pandas as pd
import scipy

from mlp_lib.evidence.intervals import count_text, mean_interval
from mlp_lib.evidence.search import expected_best
from mlp_lib.evidence.searches import OverSearches
from mlp_lib.evidence.summaries import log_costs

ANY = "an architecture at random"


def _mean_over_seeds(values: pd.Series, seeds: pd.Series, confidence: float) -> dict[str, float]:
    """The geometric mean of exp(values) with its interval, and the number of seeds that it is over."""
    by_seed = values.groupby(seeds).mean().dropna()
    mean, low, high = np.exp(mean_interval(by_seed, confidence))
    return {"n": len(by_seed), "quotient": float(mean), "low": float(low), "high": float(high)}


def extra_sources(losses: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """What the hyperparameters of each source that is no architecture cost, over all targets: a row a source.

    Columns: source, targets, n (seeds), quotient (transferred / own: a geometric mean over the targets, at each seed,
    then over the seeds), low, high, diverged (trainings, which are left out of the quotient). The last row, ANY, is for
    comparison: the mean over the architectures as sources for all targets, also for themselves.
    """
    table = log_costs(losses)
    architecture = table["source"].isin(table["target"])
    groups = [*table[~architecture].groupby("source", sort=False), (ANY, table[architecture])]
    rows = []
    for source, group in groups:
        known = group["target"].where(group["cost"].notna())
        mean = _mean_over_seeds(group["cost"], group["seed"], confidence)
        diverged = int(group["log"].isna().sum())
        rows.append({"source": source, "targets": known.nunique(), **mean, "diverged": diverged})
    return pd.DataFrame(rows)


def gain_kept(losses: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The share of the tuning gain that transfer keeps: a row a target, then all; empty without the source `default`.

    (default - transferred) / (default - own) of log losses, a quotient of means over the other architectures as sources
    and the seeds at which all three are known. Columns: target, n (seeds), gain (default / own, a geometric mean),
    kept, low, high (Student's t over the seeds, of the quotient made linear), diverged (trainings with the default or
    another's hyperparameters, which are left out). kept is NaN where no gain is shown: where its interval, or with one
    seed the gain, isn't above 1.
    """
    table = log_costs(losses)
    by = ["target", "seed"]
    gain = table[table["source"] == "default"].set_index(by)["cost"]
    others = table[table["source"].isin(table["target"]) & (table["source"] != table["target"])]
    both = pd.concat({"gain": gain, "cost": others.groupby(by)["cost"].mean()}, axis=1).dropna().reset_index()
    lost = pd.concat([others, table[table["source"] == "default"]]).loc[lambda rows: rows["log"].isna()]
    rows = []
    for name, group in [*both.groupby("target", sort=False), ("all", both)] if len(both) else []:
        seeds = group.groupby("seed")[["gain", "cost"]].mean()
        mean, kept = seeds["gain"].mean(), 1 - seeds["cost"].mean() / seeds["gain"].mean()
        least = mean_interval(seeds["gain"], confidence)[1] if len(seeds) > 1 else mean
        _, *ends = mean_interval((seeds["gain"] - seeds["cost"] - kept * seeds["gain"]) / mean, confidence)
        shares = (kept, kept + ends[0], kept + ends[1]) if least > 0 else (np.nan,) * 3
        left_out = lost if name == "all" else lost[lost["target"] == name]
        rows.append((name, len(seeds), float(np.exp(mean)), *shares, len(left_out)))
    return pd.DataFrame(rows, columns=["target", "n", "gain", "kept", "low", "high", "diverged"])


def other_search(transfers: pd.DataFrame, retrainings: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """What it costs to take each architecture's hyperparameters from another run's search: a row a target, then all.

    transfers: of the run whose `search_dir` names the other; retrainings (architecture, seed, test_loss): with what
    this run's own search chose. Columns: target, n (seeds), quotient (other / own), low, high, diverged.
    """
    own = retrainings.rename(columns={"architecture": "target"}).assign(source=lambda table: table["target"])
    other = transfers[transfers["target"] == transfers["source"]].assign(source="other")
    losses = pd.concat([own, other[other["target"].isin(own["target"])]])
    groups = [*losses.groupby("target", sort=False), ("all", losses)]
    rows = [extra_sources(group, confidence).iloc[:-1].assign(target=name) for name, group in groups]
    return pd.concat(rows, ignore_index=True)[["target", "n", "quotient", "low", "high", "diverged"]]


def compare_transfer(here: pd.DataFrame, there: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The transfer of two runs, paired by (target, source, seed): a row a quantity.

    Quantities: regret (transferred / own), own (test loss with the target's own hyperparameters) and transferred (with
    another architecture's). Columns: quantity, pairs (of target and source that both runs have), n (seeds), here and
    there (geometric means; losses in nats), quotient (here / there), low, high, left_out (trainings that diverged here
    or there). The regret is smaller here where high is below 1.
    """
    keys = ["target", "source", "seed"]
    both = log_costs(here).merge(log_costs(there), on=keys, suffixes=("_here", "_there"))
    both = both[both["source"].isin(both["target"])]
    own = both["target"] == both["source"]
    rows = []
    for quantity, of, value in (("regret", ~own, "cost"), ("own", own, "log"), ("transferred", ~own, "log")):
        columns = both.loc[of, [*keys, f"{value}_here", f"{value}_there"]]
        finite = columns.dropna()
        sides = {side: finite[f"{value}_{side}"] for side in ("here", "there")}
        means = {side: _mean_over_seeds(of, finite["seed"], confidence)["quotient"] for side, of in sides.items()}
        effect = _mean_over_seeds(sides["here"] - sides["there"], finite["seed"], confidence)
        pairs = len(finite[["target", "source"]].drop_duplicates())
        counts = {"quantity": quantity, "pairs": pairs, "left_out": len(columns) - len(finite)}
        rows.append(counts | means | effect)
    columns = ["quantity", "pairs", "n", "here", "there", "quotient", "low", "high", "left_out"]
    return pd.DataFrame(rows)[columns]


def compare_search(here: pd.DataFrame, there: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """The best validation loss of a search beside what another is expected to find at the same cost.

    Tables of trials: architecture, trial, val_loss, epochs_trained. A row an architecture that both have: best (here),
    epochs (that all trials here cost), trials_there (how many those epochs buy there, at most all), expected_there (the
    best validation loss of that many, with low and high, between which another search of so many would end, by
    expected_best), quotient (best / expected_there), epochs_there (of all there).
    """
    rows = []
    for name, trials in here.groupby("architecture", sort=False):
        others = there[there["architecture"] == name]
        expected = expected_best(others, confidence)[["expected", "low", "high"]]
        if expected.empty:
            continue
        epochs, each = int(trials["epochs_trained"].sum()), others["epochs_trained"].mean()
        number = min(max(1, int(epochs / each)), len(expected))
        best, found = trials["val_loss"].astype(float).min(), expected.iloc[number - 1]
        quotient, of_all = best / found["expected"], int(others["epochs_trained"].sum())
        rows.append((name, best, epochs, number, *found, quotient, of_all))
    names = "architecture best epochs trials_there expected_there low high quotient epochs_there"
    return pd.DataFrame(rows, columns=names.split())


def replication(here: OverSearches, there: OverSearches) -> pd.DataFrame:
    """What two runs with trials and run seeds of their own say over searches: a row a pair of architectures of both.

    Columns: question (as in answers.yaml), first, second (of a transfer target and source), here, there (logs),
    se_here, se_there, difference, low, high (Student's t of T / 2 degrees of freedom, T of the run with fewer trials),
    holds, held (whether the unadjusted interval here holds the estimate there, and the other way), verdict_here,
    verdict_there (of a transfer costly, within or undetermined). What has no interval in both is NaN, or False.
    """
    both = _estimates(here).merge(_estimates(there), on=["question", "first", "second"], suffixes=("_here", "_there"))
    both = both.rename(columns={"log_here": "here", "log_there": "there"})
    reach = scipy.stats.t.ppf((1 + here.confidence) / 2, min(here.trials, there.trials) / 2)
    difference = both["here"] - both["there"]
    half = reach * np.hypot(both["se_here"], both["se_there"])
    both = both.assign(difference=difference, low=difference - half, high=difference + half)
    for name, se in (("holds", "se_here"), ("held", "se_there")):
        both[name] = (difference.abs() <= reach * both[se]) & half.notna()
    columns = "question first second here there se_here se_there difference low high holds held"
    return both[[*columns.split(), "verdict_here", "verdict_there"]]


def _estimates(found: OverSearches) -> pd.DataFrame:
    """Both answers' pairs as question, first, second, log, se and verdict; of architectures in alphabetical order."""
    transfers = found.pairs.rename(columns={"target": "first", "source": "second", "regret": "log"}).assign(
        question="hyperparameter_transfer",
        verdict=np.select([found.costly, found.within], ["costly", "within"], "undetermined"),
    )
    pairs = found.architectures.assign(log=found.architectures["difference"], question="architecture_sensitivity")
    swap = pairs["first"] > pairs["second"]
    pairs.loc[swap, ["first", "second"]] = pairs.loc[swap, ["second", "first"]].to_numpy()
    pairs.loc[swap, "log"] *= -1
    return pd.concat([transfers, pairs])[["question", "first", "second", "log", "se", "verdict"]]


def replication_sentences(table: pd.DataFrame, name: str, confidence: float) -> list[str]:
    """How far the run `name` found what this one did, a sentence or some a question; see replication.

    Were both alike, an interval would hold the other's estimate where two errors differ by less than one's interval:
    with the chance 2 Phi(z / sqrt 2) - 1 of the normal distribution.
    """
    told, level = [], f"{100 * confidence:g}%"
    alike = 2 * scipy.stats.norm.cdf(scipy.stats.norm.ppf((1 + confidence) / 2) / np.sqrt(2)) - 1
    for question, of_question in table.groupby("question", sort=False):
        rows, transfer = of_question.dropna(subset="low"), question == "hyperparameter_transfer"
        what = "costs of transfer" if transfer else "differences between architectures"
        if rows.empty:
            told.append(f"Of the {what} that {name} estimates too none has an interval in both.")
            continue
        means = np.expm1(rows[["here", "there"]].mean())
        average = f" They average {means['here']:+.2%} here and {means['there']:+.2%} there." if transfer else ""
        ratio, apart = (rows["se_there"] / rows["se_here"]).median(), ((rows["low"] > 0) | (rows["high"] < 0)).sum()
        decided = rows[(rows[["verdict_here", "verdict_there"]] != "undetermined").all(axis=1)]
        same, clash = _compare_verdicts(decided)
        sentence = (
            f"Of {len(rows)} {what} that {name} estimates too, with trials and run seeds of its own, "
            f"{rows['holds'].sum()} of the {level} intervals here hold its estimate, and {rows['held'].sum()} of its "
            f"intervals the one here (were both runs alike, {alike:.0%} would); its standard errors are {ratio:.2g} "
            f"times those here (median).{average} Beyond what both together allow: {apart} (by chance "
            f"{(1 - confidence) * len(rows):.2g} on average). Both decide {len(decided)}: {same.sum()} alike, "
            f"{clash.sum()} the other way."
        )
        told.append(sentence.replace("%", " %"))
    return told


def _compare_verdicts(decided: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """(which pairs have one verdict in both runs, which have verdicts that exclude each other)."""
    here, there = decided["verdict_here"], decided["verdict_there"]
    differ = here.str.startswith("different") & there.str.startswith("different")
    turned = differ & (decided["here"] * decided["there"] < 0)
    opposite = np.array([{*pair} in _OPPOSITES for pair in zip(here, there, strict=True)], bool)
    return (here == there) & ~turned, turned | opposite


_OPPOSITES = ({"costly", "within"}, {"equivalent", "different_beyond_margin"})


def comparison_sentence(comparison: pd.DataFrame, name: str, confidence: float) -> str:
    """Whether the regret of transfer is smaller here than in the run `name`, in a sentence; see compare_transfer."""
    regret, own, _ = comparison.itertuples()
    if not regret.n:
        return f"This run and {name} share no pair of architectures and run seed that could be compared."
    claim = (
        f"Using another architecture's hyperparameters multiplies the test loss by {regret.here:.3f} here and by "
        f"{regret.there:.3f} in {name}: a quotient of {regret.quotient:.3f}"
    )
    if regret.n == 1:
        return f"{claim} at one seed, which gives no interval."
    interval = f"{100 * confidence:g} % interval {regret.low:.3f} to {regret.high:.3f}"
    basis = f"({interval}, {count_text(regret.pairs, 'pair')}, {count_text(regret.n, 'seed')})"
    smaller, larger = regret.high < 1, regret.low > 1
    verdict = "is smaller here" if smaller else "is larger here" if larger else "may be the same in both"
    verdict += " for the hyperparameters that these two searches chose, which others might turn round"
    level = f"With its own hyperparameters the test loss is {own.quotient:.3f} times that of {name}."
    said = f"{claim} {basis}. The regret of transfer {verdict}. {level}"
    return said + _left_out(regret.left_out)


def sources_sentence(sources: pd.DataFrame, confidence: float) -> str:
    """What each source that is no architecture costs, in a sentence; see extra_sources."""
    known = sources.dropna(subset="quotient")
    costs = [f"{row.source} {_interval(row.quotient, row.low, row.high)}" for row in known.itertuples()]
    costs += [f"{name} does not train" for name in sources.loc[sources["quotient"].isna(), "source"]]
    basis = _basis(sources["n"].max(), sources["low"].notna().any(), confidence)
    targets = count_text(sources["targets"].max(), "target")
    said = f"Test loss over {targets}, in times that with own hyperparameters{basis}: {'; '.join(costs)}."
    return said + _left_out(sources["diverged"].sum())


def kept_sentence(kept: pd.DataFrame, confidence: float) -> str:
    """How much of tuning's gain another architecture's hyperparameters keep, in a sentence; see gain_kept."""
    row = kept.iloc[-1]
    if pd.isna(row["kept"]):
        said = "That tuning gains anything over torch's default is not shown, so neither is what transfer keeps of it."
    else:
        share = _interval(row["kept"], row["low"], row["high"])
        said = (
            f"Of what tuning gains over torch's default hyperparameters ({row['gain']:.3f} times the loss), another "
            f"architecture's keep a share of {share}{_basis(row['n'], pd.notna(row['low']), confidence)}."
        )
    return said + _left_out(row["diverged"])


def other_search_sentence(other: pd.DataFrame, name: str, confidence: float) -> str:
    """What the hyperparameters of another run's search cost, in a sentence; see other_search."""
    row = other.iloc[-1]
    if pd.isna(row["quotient"]):
        return f"What the search of {name} chose and what this run's own chose share no run seed at which both trained."
    cost = _interval(row["quotient"], row["low"], row["high"])
    return (
        f"With what the search of {name} chose, the test loss is {cost} times that with what this run's own search "
        f"chose{_basis(row['n'], pd.notna(row['low']), confidence)}.{_left_out(row['diverged'])}"
    )


def _basis(seeds: int, interval: bool, confidence: float) -> str:
    """What the numbers of a sentence hold for, and their interval, if they have one."""
    level = f"{100 * confidence:g} % interval over " if interval else ""
    return f" ({level}{count_text(seeds, 'run seed')}, for the hyperparameters that were chosen)"


def _left_out(diverged: int) -> str:
    return f" Left out: {count_text(diverged, 'training')} that diverged or did not train." if diverged else ""


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f}" + ("" if pd.isna(low) else f" ({low:.3f} to {high:.3f})")
