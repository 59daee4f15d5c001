"""The statistics of the two questions and their answers, against scipy, statsmodels and tables done by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from mlp_lib.core.values import HYPERPARAMETERS
from mlp_lib.evidence.architectures import (
    answer_architecture,
    architecture_anova,
    architecture_pairs,
    same_seed_correlation,
    seeds_of_pairs,
    seeds_to_decide,
)
from mlp_lib.evidence.intervals import mean_interval
from mlp_lib.evidence.summaries import regret_matrix
from mlp_lib.evidence.transfer import (
    answer_transfer,
    transfer_effects,
    transfer_summary,
    trial_rank_correlation,
)

NAMES = {"A": "mlp_32", "B": "mlp_256x128", "C": "mlp_8x8x8", "D": "mlp_64x64"}
A, B, C, D = NAMES.values()
ANSWER = ["verdict", "effect", "interval", "confidence", "margin", "n", "sentence"]


def transfer(**losses):
    """A transfer table from target_source = [loss of seed 1, loss of seed 2, …], letters for the names."""
    rows = [
        (NAMES[pair[0]], NAMES[pair[1]], seed, loss) for pair, row in losses.items() for seed, loss in enumerate(row, 1)
    ]
    return pd.DataFrame(rows, columns=["target", "source", "seed", "test_loss"])


def retrained(**losses):
    table = transfer(**{name * 2: row for name, row in losses.items()})
    return table.rename(columns={"target": "architecture"}).drop(columns="source").assign(test_accuracy=0.9)


def random_transfer(seed=0, names="ABCD", seeds=5, spread=0.03, **quotients):
    """Losses around 0.06 with a common seed effect; quotients: target_source = what that pair costs."""
    draws = np.random.default_rng(seed)
    common = draws.normal(0, spread, seeds)
    pairs = ["".join(pair) for pair in itertools.product(names, names)]
    return transfer(
        **{pair: 0.06 * quotients.get(pair, 1) * np.exp(common + draws.normal(0, spread, seeds)) for pair in pairs}
    )


def pair_of(effects, target, source):
    return effects[(effects["target"] == target) & (effects["source"] == source)].iloc[0]


def test_two_sources_are_the_paired_t_test_of_logs():
    losses = random_transfer(names="AB")
    effects = transfer_effects(losses, 0.05, 0.9)
    assert effects[["target", "source"]].to_numpy().tolist() == [[A, B], [B, A]]
    loss = losses.set_index(["target", "source"])["test_loss"]
    test = stats.ttest_rel(np.log(loss[A, B]), np.log(loss[A, A]))
    row, interval = effects.iloc[0], test.confidence_interval(0.9)
    assert row["p"] == pytest.approx(test.pvalue)
    assert row[["low", "high"]].tolist() == pytest.approx([math.exp(interval.low), math.exp(interval.high)])
    assert row["quotient"] == pytest.approx(stats.gmean(loss[A, B]) / stats.gmean(loss[A, A]))
    assert row["sd"] == pytest.approx(row["pooled_sd"])


def test_interval_by_hand():
    e = math.exp
    losses = transfer(AA=[e(1), e(3)], AB=[e(2), e(4)], AC=[e(6), e(5)])  # residual variance 1.5 on 2 degrees
    row = pair_of(transfer_effects(losses, 0.05, 0.95), A, C)
    half = 4.302653 * math.sqrt(1.5)  # Student's 97.5 % quantile for 2 degrees
    found = np.log(row[["quotient", "low", "high"]].astype(float)).tolist()
    assert found == pytest.approx([3.5, 3.5 - half, 3.5 + half], rel=1e-6)
    assert (row["n"], row["df"], row["diverged"]) == (2, 2, 0)
    assert row[["sd", "pooled_sd"]].tolist() == pytest.approx([1.5 * math.sqrt(2), math.sqrt(3)])


def test_errors_stand_beside_losses():
    losses = random_transfer(names="AB", seeds=2).assign(test_accuracy=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    losses.loc[3, "test_loss"] = np.nan  # A with B's at the second seed
    effects = transfer_effects(losses, 0.05, 0.95)
    assert effects["error"].tolist() == pytest.approx([0.3, 0.55])
    assert effects["own_error"].tolist() == pytest.approx([0.15, 0.75])
    pair = architecture_pairs(retrained(A=[1, 2], B=[3, 4]).assign(test_accuracy=[0.9, 0.8, 0.7, 0.6]), 0.05, 0.95)
    assert pair[["upper_error", "lower_error"]].to_numpy().tolist() == [pytest.approx([0.35, 0.15])]


def test_regrets_are_the_matrix():
    losses = random_transfer(AB=1.3, AC=0.8)
    effects = transfer_effects(losses, 0.05, 0.95)
    assert len(effects) == 12
    matrix = regret_matrix(losses)
    assert [row.regret for row in effects.itertuples()] == [matrix.at[r.target, r.source] for r in effects.itertuples()]
    assert pair_of(effects, A, C)["oracle_regret"] == 0
    assert pair_of(effects, A, B)["oracle_regret"] == pair_of(effects, A, B)["mean"] - pair_of(effects, A, C)["mean"]


def test_starred_cells_are_benjamini_hochbergs_and_the_margin_is_holms():
    seen = set()
    for seed in range(6):
        effects = transfer_effects(random_transfer(seed, AB=1.1, BC=1.08, CD=1.05, DA=0.93), 0.05, 0.95)
        adjusted = stats.false_discovery_control(effects["p"])
        np.testing.assert_allclose(effects["p_adjusted"], adjusted)
        assert (effects["excludes_zero"] == (adjusted <= 0.05)).all()
        se = effects["pooled_sd"] / np.sqrt(5)
        assert (effects["df"] == 12).all()
        above = stats.t.sf((np.log(effects["quotient"]) - math.log(1.05)) / se, 12)
        np.testing.assert_allclose(effects["p_beyond"], multipletests(above, method="holm")[1])
        below = [stats.t.sf((math.log(1.05) + sign * np.log(effects["quotient"])) / se, 12) for sign in (1, -1)]
        np.testing.assert_allclose(effects["p_within"], multipletests(np.max(below, axis=0), method="holm")[1])
        seen.add(int(effects["excludes_zero"].sum()))
    assert len(seen) > 1


def test_margins():
    losses = random_transfer(spread=0.003, AB=1.2, AC=1.03, AD=0.8, BA=1.05)
    effects = transfer_effects(losses, 0.05, 0.95)
    rows = {pair: pair_of(effects, NAMES[pair[0]], NAMES[pair[1]]) for pair in ("AB", "AC", "AD", "BA")}
    flags = ["excludes_zero", "beyond_margin", "within_margin"]
    assert {pair: row[flags].tolist() for pair, row in rows.items()} == {
        "AB": [True, True, False],
        "AC": [True, False, True],
        "AD": [True, True, False],
        "BA": [True, False, False],
    }


def test_equal_hyperparameters_cost_exactly_nothing_and_count_once():
    draws = np.random.default_rng(1).uniform(0.05, 0.1, (3, 3, 5))  # target, distinct vector, seed
    vector = {"A": 0, "B": 1, "C": 0, "D": 2}  # C's search chose A's hyperparameters
    losses = transfer(**{t + s: draws["ABC".index(t), vector[s]] for t in "ABC" for s in "ABCD"})
    effects = transfer_effects(losses, 0.05, 0.95)
    for target, source in ((A, C), (C, A)):
        row = pair_of(effects, target, source)
        assert row[["quotient", "low", "high"]].tolist() == [1] * 3
        assert row["regret"] == row["sd"] == 0
        assert row[["identical", "counted", "excludes_zero", "within_margin"]].tolist() == [True, False, False, True]
        assert math.isnan(row["p"])
    one, other = pair_of(effects, B, A), pair_of(effects, B, C)
    assert (one["counted"], other["counted"], other["same_as"]) == (True, False, A)
    same = [name for name in effects if name not in ("source", "counted")]
    pd.testing.assert_series_equal(one[same], other[same], check_names=False, check_exact=True)
    tested = effects[effects["counted"]]
    np.testing.assert_allclose(tested["p_adjusted"], stats.false_discovery_control(tested["p"]))
    alone = transfer_effects(losses[losses["source"] != C].query("target != @C"), 0.05, 0.95)
    assert pair_of(alone, B, A)["p"] == one["p"]
    summary = transfer_summary(effects)
    assert (summary["pairs"], summary["repeated"], summary["identical"]) == (6, 1, 2)
    assert answer_transfer(losses, 0.05, 0.95)["pairs"] == summary


def test_diverged_trainings_are_told_and_forbid_within():
    losses = random_transfer(spread=0.001)
    losses.loc[(losses["target"] == A) & (losses["source"] == B) & (losses["seed"] == 2), "test_loss"] = np.nan
    losses.loc[(losses["target"] == B) & (losses["source"] == A), "test_loss"] = np.inf
    losses.loc[(losses["target"] == C) & (losses["source"] == C), "test_loss"] = np.nan
    effects = transfer_effects(losses, 0.05, 0.95)
    partly, wholly, own = pair_of(effects, A, B), pair_of(effects, B, A), pair_of(effects, C, A)
    assert (partly["n"], partly["diverged"], partly["df"], partly["within_margin"]) == (4, 1, 11, False)
    assert partly["low"] > 0.95
    assert (wholly["n"], wholly["diverged"], own["n"], own["diverged"]) == (0, 5, 0, 0)
    assert wholly[["quotient", "low", "p"]].isna().all()
    assert own[["quotient", "regret", "p"]].isna().all()
    summary = transfer_summary(effects)
    assert (summary["pairs"], summary["diverged"], summary["within_margin"]) == (12, 2, 7)
    assert summary["share_within_margin"] == 7 / 9


def test_summary_by_hand():
    losses = transfer(AA=[1, 1], AB=[2, 2], AC=[1.5, 1.5], BB=[2, 2], BA=[1, 1], BC=[5, 5], CC=[1, 1])
    summary = transfer_summary(transfer_effects(losses, 0.05, 0.95))  # no spread at all: the effects are certain
    numbers = ["pairs", "diverged", "excludes_zero", "costs_beyond_margin", "gains_beyond_margin", "within_margin"]
    assert [summary[name] for name in numbers] == [4, 0, 4, 3, 1, 0]


def shared_trials(losses):
    rows = [(name, i, loss) for name, row in losses.items() for i, loss in enumerate(row)]
    trials = pd.DataFrame(rows, columns=["architecture", "trial", "val_loss"])
    return trials.assign(**{name: trials["trial"] / (k + 1) for k, name in enumerate(HYPERPARAMETERS)})


def test_trial_rank_correlation_is_spearmans():
    losses = {A: [1, 2, np.nan, 4, 0.5], B: [2, 1, 3, np.nan, 1.5], C: [5, 4, 3, 2, 1, 0]}
    trials = shared_trials(losses)
    matrix = trial_rank_correlation(trials)
    assert matrix.index.tolist() == matrix.columns.tolist() == [A, B, C]
    assert matrix.at[A, B] == pytest.approx(stats.spearmanr([1, 2, 9, 4, 0.5], [2, 1, 3, 9, 1.5])[0])
    assert matrix.at[A, C] == pytest.approx(stats.spearmanr([1, 2, 9, 4, 0.5], [5, 4, 3, 2, 1])[0])
    assert trial_rank_correlation(trials.assign(lr=np.arange(len(trials)))).empty
    assert trial_rank_correlation(shared_trials({A: [1], B: [2]})).isna().all(axis=None)
    assert np.isfinite(trial_rank_correlation(shared_trials({A: [1, 2], B: [2, 1]}))).all(axis=None)


def test_anova_by_hand():
    losses = retrained(A=[1, 3], B=[2, 4], C=[6, 5])  # means 2, 3, 5.5 of architectures, 3, 4 of seeds
    anova = architecture_anova(losses)
    assert anova.index.tolist() == ["architecture", "seed", "residual"]
    assert anova["df"].tolist() == [2, 1, 2]
    assert anova["sum_sq"].tolist() == pytest.approx([13, 1.5, 3])
    assert anova["F"].tolist()[:2] == pytest.approx([6.5 / 1.5, 1])
    assert anova["p"].tolist()[:2] == pytest.approx([stats.f.sf(6.5 / 1.5, 2, 2), stats.f.sf(1, 1, 2)])
    assert anova["sd"].tolist() == pytest.approx([math.sqrt(2.5), 0, math.sqrt(1.5)])
    assert anova["share"].tolist() == pytest.approx([0.625, 0, 0.375])
    assert same_seed_correlation(anova) == 0
    more = retrained(A=[np.nan] * 3, B=[1, 1, 1], C=[1, 1, 1], D=[np.nan] * 3).iloc[[2, 5, 8, 9]]
    pd.testing.assert_frame_equal(architecture_anova(pd.concat([losses, more])), anova)


def test_same_seed_correlation_is_shrout_and_fleiss():
    losses = retrained(A=[9, 6, 8, 7, 10, 6], B=[2, 1, 4, 1, 5, 2], C=[5, 3, 6, 2, 6, 4], D=[8, 2, 8, 6, 9, 7])
    found = same_seed_correlation(architecture_anova(losses))
    assert found == pytest.approx(0.715, abs=5e-4)  # ICC(3, 1) of their table


@pytest.mark.parametrize("losses", [retrained(A=[1], B=[2]), retrained(A=[1, 2]), retrained(A=[1, np.nan], B=[2, 3])])
def test_anova_needs_two_of_each(losses):
    anova = architecture_anova(losses)
    assert anova.isna().all(axis=None)
    assert math.isnan(same_seed_correlation(anova))


@pytest.mark.parametrize(("shift", "verdict", "level"), [(0, "equivalent", 0.8), (0.004, "different", 0.9)])
def test_two_architectures_are_the_paired_tests(shift, verdict, level):
    x, y = np.random.default_rng(6).normal(0.06, 0.002, (2, 7))
    x += shift
    pair = architecture_pairs(retrained(A=x, B=y), 0.05, 0.9).iloc[0]
    test, bound = stats.ttest_rel(np.log(x), np.log(y)), math.log(1.05)
    assert pair["upper"] == (A if test.statistic > 0 else B)
    assert pair["p"] == pair["p_adjusted"] == pytest.approx(test.pvalue)
    assert pair["p_equivalence"] == pytest.approx(ttost_paired(np.log(x), np.log(y), -bound, bound)[0])
    assert pair["verdict"] == verdict
    interval = np.sort(np.sign(test.statistic) * np.array(test.confidence_interval(level)))
    assert pair[["low", "high"]].tolist() == pytest.approx(np.expm1(interval).tolist())
    assert pair["relative"] == pytest.approx(abs(math.expm1(np.log(x / y).mean())), rel=0.01)
    assert abs(pair["difference"]) == pytest.approx(abs(x.mean() - y.mean()))


# residual variance 1.5
E1 = {name: np.exp(row).tolist() for name, row in {"A": [1, 3], "B": [2, 4], "C": [6, 5]}.items()}


def test_pairs_by_hand():
    pairs = architecture_pairs(retrained(**E1), 0.05, 0.95)
    assert pairs[["upper", "lower"]].to_numpy().tolist() == [[B, A], [C, A], [C, B]]
    assert np.log1p(pairs["relative"]).tolist() == pytest.approx([1, 3.5, 2.5])
    p = 2 * stats.t.sf(np.array([1, 3.5, 2.5]) / math.sqrt(1.5), 2)
    assert pairs["p"].tolist() == pytest.approx(p.tolist())
    assert pairs["p_adjusted"].tolist() == pytest.approx([max(p[0], 2 * p[2]), 3 * p[1], max(3 * p[1], 2 * p[2])])
    assert (pairs["verdict"] == "undetermined").all()


def test_four_verdicts_of_pairs():
    noise = np.random.default_rng(7).normal(0, 0.01, (3, 6))
    losses = retrained(A=1 + noise[0], B=1.02 + noise[1], C=1.2 + noise[2])
    verdicts = architecture_pairs(losses, 0.06, 0.95).set_index(["upper", "lower"])["verdict"]
    beyond = "different_beyond_margin"
    assert verdicts.to_dict() == {(B, A): "equivalent", (C, A): beyond, (C, B): beyond}
    wide = architecture_pairs(losses, 0.19, 0.95).set_index(["upper", "lower"])["verdict"]
    assert wide[C, A] == "different"
    few = architecture_pairs(losses[losses["seed"] <= 2], 0.001, 0.9999)
    assert (few["verdict"] == "undetermined").all()


def test_far_architectures_do_not_make_near_ones_equivalent():
    noise = np.exp(np.random.default_rng(0).normal(0, 0.005, (4, 5)))
    near = {"A": 0.0643 * noise[0], "B": 0.0683 * noise[1]}
    for more in ({}, {"C": 0.12 * noise[2], "D": 0.12 * noise[3]}):
        pairs = architecture_pairs(retrained(**near, **more), 0.05, 0.95).set_index(["upper", "lower"])
        assert pairs.loc[(B, A), "verdict"].startswith("different")


def test_seeds_to_decide_are_statsmodels():
    needed = seeds_to_decide(0.04, 2, 0.05, 0.95)
    power = [TTestPower().power(0.05 / 0.04, n, 0.05) for n in (needed["different"] - 1, needed["different"])]
    assert power[0] < 0.8 <= power[1]
    exact = TTestPower().solve_power(0.05 / 0.04, alpha=0.05, power=0.9, alternative="larger")  # 1 - 2 (1 - 0.9) = 0.8
    assert needed["pair_equivalent"] == math.ceil(exact)
    assert needed["all_equivalent"] <= needed["pair_equivalent"]
    many = seeds_to_decide(0.04, 8, 0.05, 0.95)
    assert many["all_equivalent"] > many["pair_equivalent"]
    assert many["different"] > needed["different"] - 3
    for unknown in ((math.nan, 8), (0.0, 8), (0.04, 1), (1e6, 2)):
        assert set(seeds_to_decide(*unknown, 0.05, 0.95).values()) == {None}


def test_where_spreads_differ_the_largest_decides_how_many_seeds_are_needed():
    rng = np.random.default_rng(0)
    spreads = dict.fromkeys("ABC", 0.005) | {"D": 0.08}
    losses = retrained(**{name: 0.07 * np.exp(rng.normal(0, sd, 6)) for name, sd in spreads.items()})
    limits = (4, 0.05, 0.95)
    pairs = architecture_pairs(losses, *limits[1:])
    assert (pairs["df"] == 5).all()
    found, pooled = seeds_of_pairs(pairs, *limits), seeds_to_decide(pairs["pooled_sd"].max(), *limits)
    assert found == seeds_to_decide(pairs["sd"].max(), *limits, own=True)
    assert found["pair_equivalent"] > 1.5 * pooled["pair_equivalent"]


def test_transfer_answer_by_hand():
    e = math.exp
    losses = transfer(AA=[1, 1, 2], AB=[e(0.1), e(0.2), 2 * e(0.1)], BB=[2, 1, 1], BA=[2 * e(0.1), e(0.1), e(0.3)])
    answer = answer_transfer(losses, margin=0.05, confidence=0.95)
    assert list(answer) == [*ANSWER, "pairs"]
    assert (answer["verdict"], answer["n"], answer["margin"]) == ("undetermined", 3, 0.05)
    expected = np.expm1(mean_interval([0.1, 0.15, 0.2], 0.95))
    assert [answer["effect"], *answer["interval"]] == pytest.approx(expected.tolist())
    assert "+16.18 % on average (95 % interval +2.61 % to +31.55 %, 2 pairs, 3 seeds)" in answer["sentence"]
    assert answer_transfer(losses, margin=0.4, confidence=0.95)["verdict"] == "transfers"
    assert answer_transfer(losses, margin=0.01, confidence=0.95)["verdict"] == "does_not_transfer"
    assert yaml.safe_load(yaml.safe_dump(answer)) == answer


def test_own_draws_have_a_jackknife_over_architectures_by_hand():
    costs = {"AB": 0.1, "AC": 0.2, "BA": 0.05, "BC": 0.25, "CA": 0.4, "CB": 0.2}
    trained = {pair: [math.exp(cost), 2 * math.exp(cost)] for pair, cost in costs.items()}
    losses = transfer(AA=[1, 2], BB=[1, 2], CC=[1, 2], **trained)
    answer = answer_transfer(losses, 0.05, 0.95, own_draws=True)
    half = stats.t.ppf(0.975, 2) * math.sqrt(2 / 3 * (0.025**2 + 0.1**2 + 0.125**2))  # .225, .3, .075 left
    assert [answer["effect"], *answer["interval"]] == pytest.approx(np.expm1([0.2, 0.2 - half, 0.2 + half]).tolist())
    assert "95 % interval by a jackknife over architectures -30.8" in answer["sentence"]
    pair = losses[losses["target"].isin([A, B]) & losses["source"].isin([A, B])]  # two leave nothing without one
    assert answer_transfer(pair, 0.05, 0.95, own_draws=True) == answer_transfer(pair, 0.05, 0.95)


def test_transfer_depends_on_the_pair():
    answer = answer_transfer(random_transfer(8, spread=0.01, AB=1.3), 0.05, 0.95)
    assert answer["verdict"] == "depends_on_the_pair"
    assert answer["interval"][1] < 0.05
    shown = (
        "1 of 12 pairs is shown to cost more than the 5 % margin and 11 to lie within it, so it depends on the pair."
    )
    assert answer["sentence"].endswith(shown)
    gain = answer_transfer(random_transfer(8, spread=0.01, AB=0.7), 0.05, 0.95)
    assert (gain["verdict"], gain["pairs"]["gains_beyond_margin"]) == ("transfers", 1)


def test_shared_hyperparameters_transfer():
    answer = answer_transfer(transfer(AA=[0.3, 0.1], AB=[0.3, 0.1], BB=[0.2, 0.3], BA=[0.2, 0.3]), 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["interval"], answer["n"]) == ("transfers", 0, [0, 0], 2)
    assert answer["sentence"] == "All architectures share their hyperparameters, so nothing is lost."


def test_transfer_does_not_hide_what_diverged():
    losses = random_transfer(spread=0.001)
    losses.loc[(losses["target"] == A) & (losses["source"] == B) & (losses["seed"] == 2), "test_loss"] = np.nan
    answer = answer_transfer(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["n"]) == ("undetermined", 5)
    assert "below the 5 % margin, but single pairs or trainings that diverged" in answer["sentence"]
    assert "Not counted: 1 training with transferred hyperparameters that diverged" in answer["sentence"]


def test_a_source_that_diverges_on_a_target_at_most_seeds_is_a_cost():
    losses = random_transfer(spread=0.001)
    pair = (losses["target"] == A) & (losses["source"] == B)
    for seeds, verdict in ((2, "undetermined"), (3, "depends_on_the_pair")):
        left = losses["test_loss"].mask(pair & (losses["seed"] <= seeds))
        answer = answer_transfer(losses.assign(test_loss=left), 0.05, 0.95)
        assert (answer["verdict"], answer["pairs"]["costs_beyond_margin"]) == (verdict, int(seeds == 3))
        assert answer["interval"][1] < 0.05  # of the other pairs


def test_swaps_that_all_diverge_cost():
    losses = transfer(AA=[1, 1], AB=[np.nan] * 2, BB=[1, 1], BA=[np.nan] * 2)
    answer = answer_transfer(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["effect"]) == ("does_not_transfer", None)
    assert answer["sentence"].startswith("For these hyperparameters only: every pair costs more than the 5 % margin")
    assert "4 trainings with transferred hyperparameters that diverged" in answer["sentence"]
    answer = answer_transfer(transfer(AA=[np.nan] * 2, AB=[1, 1], BB=[np.nan] * 2, BA=[1, 1]), 0.05, 0.95)
    assert answer["sentence"].startswith("No target has losses to compare")


def test_one_target_that_loses_with_every_source_depends_on_the_pair():
    costs = {f"A{source}": 1.6 for source in "BCD"}
    answer = answer_transfer(random_transfer(spread=0.01, **costs), 0.05, 0.95)
    assert answer["interval"][0] > 0.05  # the mean alone would say that they don't transfer
    assert answer["verdict"] == "depends_on_the_pair"


@pytest.mark.parametrize(
    ("losses", "n"),
    [
        (transfer(AA=[1], AB=[1.1], BB=[1], BA=[1.2]), 1),
        (transfer(AA=[1, 2]), 0),
        (transfer(AA=[np.nan] * 2, AB=[np.nan] * 2), 0),
        (transfer(AA=[np.nan] * 2, AB=[1, 1]), 0),
        (transfer(BA=[1, 2], CA=[2, 1]), 0),
        (transfer(AA=[1.0])[:0], 0),
    ],
    ids=["one seed", "one architecture", "all diverged", "own diverged", "foreign sources", "nothing"],
)
def test_transfer_says_what_cannot_be_said(losses, n):
    answer = answer_transfer(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["interval"], answer["n"]) == ("undetermined", [None, None], n)
    assert answer["effect"] is None or n == 1
    assert ("There is one architecture" in answer["sentence"]) == (losses["target"].nunique() == 1 and n == 0)
    assert "cannot be said" in answer["sentence"]
    assert "nan" not in answer["sentence"]
    effects = transfer_effects(losses, 0.05, 0.95)
    assert not effects.loc[~effects["broken"], ["excludes_zero", "beyond_margin", "within_margin"]].any(axis=None)


def test_architecture_answer_by_hand():
    answer = answer_architecture(retrained(**E1), margin=0.5, confidence=0.95)
    assert list(answer) == [*ANSWER, "interval_kind", "pair", "pairs", "seeds_to_decide"]
    half = stats.t.ppf(1 - 0.05 / 3 / 2, 2) * math.sqrt(1.5)
    assert [answer["effect"], *answer["interval"]] == pytest.approx(np.expm1([3.5, 3.5 - half, 3.5 + half]).tolist())
    assert (answer["verdict"], answer["n"]) == ("undetermined", 2)
    assert "8x8x8 above 32, is 3211.55 % (adjusted 95 % interval" in answer["sentence"]
    assert answer["sentence"].startswith("For these hyperparameters only: the largest")
    equivalent = answer_architecture(retrained(**E1), margin=math.expm1(8), confidence=0.95)
    half = stats.t.ppf(0.95, 2) * math.sqrt(1.5)
    assert (equivalent["verdict"], equivalent["interval_kind"]) == ("equivalent", "90 % interval")
    assert equivalent["interval"] == pytest.approx(np.expm1([3.5 - half, 3.5 + half]).tolist())
    assert yaml.safe_load(yaml.safe_dump(answer)) == answer


@pytest.mark.parametrize("seed", range(40))
def test_verdict_and_printed_interval_agree(seed):
    draws = np.random.default_rng(seed)
    effects = draws.choice([0, 0.03, 0.1], 4)
    table = 1 + effects[:, None] + draws.normal(0, 0.02, (4, 5))
    table[draws.random((4, 5)) < draws.choice([0, 0.1])] = np.nan
    answer = answer_architecture(retrained(**dict(zip("ABCD", table, strict=True))), 0.05, 0.95)
    low, high = answer["interval"]
    if answer["verdict"] == "equivalent":
        assert 1 / 1.05 - 1 <= low <= high <= 0.05
    elif answer["verdict"].startswith("different"):
        assert low > 0
        assert answer["verdict"] == "different" or answer["effect"] > 0.05
    assert f"{low:+.2%} to {high:+.2%}".replace("%", " %") in answer["sentence"]


def test_an_undetermined_answer_names_the_interval_of_the_pair_that_it_shows():
    losses = retrained(A=[1, 1.001, 1.002], B=[1, 1.002, 1.001], C=[np.nan] * 3)
    answer = answer_architecture(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["pairs"]["equivalent"]) == ("undetermined", 1)
    assert answer["interval_kind"] == "90 % interval"
    assert "(90 % interval" in answer["sentence"]


def test_architecture_order_does_not_matter():
    one = answer_architecture(retrained(A=[1.0, 1.1], B=[2.0, 2.3]), 0.05, 0.9)
    other = answer_architecture(retrained(B=[2.0, 2.3], A=[1.0, 1.1]), 0.05, 0.9)
    assert one["interval"] == pytest.approx(other["interval"])
    assert one["sentence"] == other["sentence"]


def test_divergence_forbids_equivalence():
    losses = retrained(A=[1, 1, np.nan], B=[1, 1, 1])
    answer = answer_architecture(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["effect"], answer["n"]) == ("undetermined", 0, 2)
    assert "so the question stays open" in answer["sentence"]
    assert "1 of 6 trainings diverged" in answer["sentence"]
    assert answer_architecture(losses[losses["seed"] < 3], 0.05, 0.95)["verdict"] == "equivalent"


@pytest.mark.parametrize(
    ("losses", "effect"),
    [
        (retrained(A=[1], B=[3]), 2),
        (retrained(A=[1, 2]), None),
        (retrained(A=[np.nan] * 2, B=[np.nan] * 2), None),
        (retrained(A=[np.nan] * 2, B=[1, 2]), None),
        (retrained(A=[1, np.nan], B=[np.nan, 2]), None),
        (retrained(A=[1.0])[:0], None),
    ],
    ids=["one seed", "one architecture", "all diverged", "one left", "no shared seed", "nothing"],
)
def test_architecture_says_what_cannot_be_said(losses, effect):
    answer = answer_architecture(losses, 0.05, 0.95)
    assert (answer["verdict"], answer["interval"]) == ("undetermined", [None, None])
    assert answer["effect"] == (effect and pytest.approx(effect))
    assert "cannot be said" in answer["sentence"]
    assert "nan" not in answer["sentence"]
    assert ("There is one architecture" in answer["sentence"]) == (losses["architecture"].nunique() == 1)
    assert answer["interval_kind"] is None
    assert set(answer["seeds_to_decide"].values()) == {None}
