"""The answers over searches on tables small enough to do by hand, and what must not move them."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from study import peak

from mlp_lib.core.errors import SettingsError, TrainingError
from mlp_lib.evidence import contenders, find_budget, over_searches
from mlp_lib.evidence.comparisons import replication, replication_sentences
from mlp_lib.evidence.pool import weights
from mlp_lib.evidence.practices import practices
from mlp_lib.evidence.sentences import answers_over_searches, in_plain_words
from mlp_lib.evidence.transfer import answer_transfer
from mlp_lib.evidence.tuning import (
    error_curves,
    error_pairs,
    image_variance,
    operations_of_a_trial,
    small_pays,
    tuning_cost,
)
from mlp_lib.evidence.verdicts import architecture_end

T, BUDGET = 12, 4
FRAMES = ("regret_by_budget", "pairs", "architectures", "tuning_curves")
LOW = np.arange(T) < T // 2  # the first half of the trials
EMPTY = pd.DataFrame(columns=["target", "seed", "test_loss"])
VALUES = ("test_loss", "val_loss")


def rungs(number):
    return [10, 20, 40]


def with_epochs(trials, judged):
    """(trials, judged, curves), all of 40 epochs with three checks of the same loss."""
    curves = pd.concat([trials.assign(epoch=epoch) for epoch in (10, 20, 40)])
    return trials.assign(epochs_trained=40, test_loss=trials["val_loss"]), judged, curves


def names(number):
    return [f"mlp_{place + 1}" for place in range(number)]


def tables(search, judged):
    """(trials, judged) of losses by search [A, T] and fresh seeds [A, T, k], architectures mlp_1, mlp_2, …"""
    index = pd.MultiIndex.from_product([names(len(search)), range(search.shape[1])], names=["architecture", "trial"])
    trials = pd.DataFrame({"val_loss": search.ravel()}, index).reset_index()
    seeds = range(1, judged.shape[2] + 1)
    index = pd.MultiIndex.from_product([*index.levels, seeds], names=["target", "trial", "seed"])
    return trials, pd.DataFrame({"test_loss": judged.ravel()}, index).reset_index()


def study(losses, seeds=3, noise=0.0):
    """Tables of losses [A, T] that are the same in the search and, but for the noise of seeds, when judged."""
    losses = np.asarray(losses, float)
    luck = np.random.default_rng(0).normal(0, noise, (*losses.shape, seeds))
    return tables(losses, losses[:, :, None] * np.exp(luck))


def random_study(seed, diverged=0.0):
    rng = np.random.default_rng(seed)
    search = np.exp(rng.normal(-2, 0.1, (3, T)) + rng.normal(0, 0.2, T))
    judged = search[:, :, None] * np.exp(rng.normal(0, 0.03, (3, T, 3)))
    return tables(search, np.where(rng.random(judged.shape) < diverged, np.nan, judged))


def verdicts(*args, **kwargs):
    answers = over_searches(*args, **kwargs).answers
    return answers["hyperparameter_transfer"], answers["architecture_sensitivity"]


def same_frames(found, expected):
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)


def test_weights_are_the_shares_of_the_searches_that_choose_a_rank():
    searches = list(combinations(range(6), 3))
    shares = [sum(min(search) == rank for search in searches) / len(searches) for rank in range(7)]
    np.testing.assert_allclose(weights(3, 6, 7), shares)


@pytest.mark.parametrize(
    ("margin", "wanted"), [(0.05, "different_beyond_margin"), (3, "equivalent"), (0.6, "different")]
)
def test_the_interval_of_a_pair_is_that_of_the_test_that_decides(margin, wanted):
    ramp = np.linspace(0.1, 0.2, T)
    results = [over_searches(*random_study(seed), BUDGET, margin=margin) for seed in range(5)]
    results.append(over_searches(*study([ramp, 1.05 * ramp, 1.6 * ramp], noise=0.02), BUDGET, margin=margin))
    pairs, bound = pd.concat([result.decided for result in results]), np.log1p(margin)
    assert wanted in set(pairs["verdict"])
    equivalent, differs = pairs["verdict"] == "equivalent", pairs["verdict"].str.startswith("different")
    assert ((pairs["low"] > -bound) & (pairs["high"] < bound) == equivalent).all()
    assert (((pairs["low"] > 0) | (pairs["high"] < 0)) == differs)[~equivalent].all()
    beyond = pairs[pairs["verdict"] == "different_beyond_margin"]
    assert ((beyond["low"] > bound) | (beyond["high"] < -bound)).all()
    unsure = over_searches(*random_study(0), BUDGET, confidence=0.4, margin=margin).decided
    assert (unsure["low"] <= unsure["high"]).all()


def test_contenders_miss_one_search_in_a_hundred_at_most():
    search = np.array([np.arange(T) + 1.0, np.roll(np.arange(T) + 1.0, 2)])
    m, chosen = contenders(tables(search, search[:, :, None])[0], BUDGET)
    missed = [np.mean([min(drawn) >= m for drawn in combinations(range(T), BUDGET)]) for m in range(T)]
    assert m == 8 == next(m for m, share in enumerate(missed) if share <= 0.01)
    assert chosen == list(range(10))  # trials 0 to 7 of the first architecture, 2 to 9 of the second
    assert [find_budget("auto", trials) for trials in (1, 2, 30, 60)] == [1, 1, 10, 20]


@pytest.mark.parametrize("budget", [0, -1, T // 2 + 1])
def test_a_budget_that_the_trials_cannot_tell_about_is_refused(budget):
    with pytest.raises(SettingsError, match=r"search_budget .* allowed is 1 to 6, half of the 12 trials"):
        over_searches(*random_study(0), budget)


def test_missing_and_repeated_rows_are_refused():
    trials, judged = random_study(0)
    chosen = contenders(trials, BUDGET)[1]
    row = judged.index[(judged["target"] == "mlp_2") & (judged["trial"] == chosen[0]) & (judged["seed"] == 3)]
    with pytest.raises(TrainingError, match=f"target mlp_2, trial {chosen[0]}, seed 3"):
        over_searches(trials, judged.drop(row), BUDGET)
    with pytest.raises(TrainingError, match=f"target mlp_2, trial {chosen[0]}, seed 3"):
        over_searches(trials, pd.concat([judged, judged.loc[row]]), BUDGET)
    with pytest.raises(TrainingError, match=r"judged has no contender: .* such as target mlp_1, trial 0"):
        over_searches(trials, judged[:0], BUDGET)
    with pytest.raises(TrainingError, match="the same trials of every architecture"):
        over_searches(trials[:-1], judged, BUDGET)
    others = ~judged["trial"].isin(chosen)
    assert others.any()
    for odd in (judged[~others], pd.concat([judged, judged[others]])):
        same_frames(over_searches(trials, odd, BUDGET), over_searches(trials, judged, BUDGET))


@pytest.mark.parametrize("wrong", [{"confidence": 95}, {"confidence": 0}, {"margin": -0.05}, {"budget": "auto"}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(SettingsError, match=rf"{next(iter(wrong))} .*allowed"):
        over_searches(*random_study(0), **{"budget": BUDGET} | wrong)


def test_one_trial_is_no_search():
    result = over_searches(*study([[0.1], [0.2]]), 1)
    assert all(getattr(result, name).empty for name in FRAMES)
    assert set(result.answers.values()) == {"undetermined"}
    assert all(math.isnan(value) for value in result.components.values())
    for answer in answers_over_searches(result).values():
        assert answer["effect"] is None
        assert answer["sentence"].startswith("One trial is no search")


def test_one_architecture_has_nothing_to_compare():
    result = over_searches(*study([np.linspace(0.1, 0.2, T)]), BUDGET)
    assert result.pairs.empty
    assert result.architectures.empty
    assert result.tuning_curves["loss"].notna().all()
    assert set(result.answers.values()) == {"undetermined"}
    assert answers_over_searches(result)["hyperparameter_transfer"]["sentence"].startswith("There is one architecture")


def test_a_search_of_one_trial_says_nothing_of_transfer():
    flat = np.full((2, T), 0.1)
    assert verdicts(*study(flat), 1) == ("undetermined", "equivalent")
    assert verdicts(*study(flat), 2) == ("transfers", "equivalent")
    for of in (study(flat), random_study(0)):
        answers = answers_over_searches(over_searches(*of, 1))
        answer = answers["hyperparameter_transfer"]
        assert answer["sentence"].startswith("A search of one trial chooses that one")
        assert [answer["effect"], *answer["interval"]] == [0, 0, 0]  # by itself, so no measurement that is told
        assert "cannot be said" in in_plain_words("hyperparameter_transfer", answer)
        assert "over searches of 1 trial, " in answers["architecture_sensitivity"]["sentence"]


def test_two_trials_are_enough_for_numbers():
    result = over_searches(*study([[0.1, 0.2], [0.2, 0.1]]), 1)
    # every trial is chosen as often as the other, and without one the other is all there is
    assert result.pairs["regret"].tolist() == pytest.approx([0, 0])
    assert result.pairs["se"].tolist() == pytest.approx([0, 0])
    assert list(result.tuned.values()) == pytest.approx([math.log(0.02) / 2] * 2)


def test_one_run_seed_says_nothing_of_architectures():
    result = over_searches(*study(np.full((2, T), 0.1), seeds=1), BUDGET)
    assert [*result.answers.values()] == ["transfers", "undetermined"]
    assert math.isnan(result.run_seed_variance)
    assert result.tuning_curves[["low", "high"]].isna().all(axis=None)
    assert [name for name, value in result.components.items() if not math.isnan(value)] == ["transfer"]
    assert "one run seed gives no interval" in answers_over_searches(result)["architecture_sensitivity"]["sentence"]


def test_where_everything_diverged_nothing_is_said():
    trials, judged = study(np.full((2, T), 0.1))
    result = over_searches(trials, judged.assign(test_loss=np.nan), BUDGET)
    assert set(result.answers.values()) == {"undetermined"}
    assert result.own_diverges == ["mlp_1", "mlp_2"]
    assert all(answer["effect"] is None for answer in answers_over_searches(result).values())


def test_an_architecture_that_no_trial_trained_leaves_both_questions_open():
    """However clear the pairs are: which trials a search would choose there is not known."""
    trials, judged = study([[0.1] * T, [0.2] * T, [0.4] * T], noise=0.005)
    assert verdicts(trials, judged, BUDGET) == ("transfers", "different_beyond_margin")
    trials["val_loss"] = trials["val_loss"].mask(trials["architecture"] == "mlp_2")
    assert verdicts(trials, judged, BUDGET) == ("undetermined", "undetermined")
    for answer in answers_over_searches(over_searches(trials, judged, BUDGET)).values():
        assert answer["sentence"].startswith("No trial of 2 came below guessing (a loss of ln 10 = 2.303 nats")
        assert (answer["effect"], answer["interval"]) == (None, [None, None])


def test_opposite_needs_do_not_transfer():
    losses = [np.where(LOW, 0.1, 0.2), np.where(LOW, 0.2, 0.1)]
    result = over_searches(*study(losses), BUDGET)
    assert result.answers["hyperparameter_transfer"] == "does_not_transfer"
    lost = 1 - 2 * weights(BUDGET, T, 8)[6:].sum() / weights(BUDGET, T, 8).sum()  # ranks 6 and 7 are the other half
    assert result.pairs["regret"].tolist() == pytest.approx([lost * math.log(2)] * 2)
    assert result.architectures["difference"].item() == 0
    sentence = answers_over_searches(result)["hyperparameter_transfer"]["sentence"]
    assert "over searches of 4 trials" in sentence
    assert "every pair costs more than the 5 % margin, so hyperparameters do not transfer." in sentence


def test_one_target_that_loses_with_every_source_depends_on_the_pair():
    flat = np.full(T, 0.1)  # ties: the first trials are its choice
    result = over_searches(*study([flat, flat, np.where(LOW, 0.16, 0.1)]), BUDGET)
    assert result.answers["hyperparameter_transfer"] == "depends_on_the_pair"
    assert result.costly.tolist() == [False] * 4 + [True] * 2
    assert result.within.tolist() == [True] * 4 + [False] * 2
    answer = answers_over_searches(result)["hyperparameter_transfer"]
    assert answer["pairs"] == {"all": 6, "costly": 2, "broken": 0, "within": 4}
    assert "3 with 1's (+" in answer["sentence"]


def test_a_source_that_diverges_on_a_target_at_most_seeds_is_a_cost():
    flat = np.full(T, 0.1)
    trials, judged = study([flat, np.where(LOW, 0.11, 0.1)])
    bad = (judged["target"] == "mlp_1") & (judged["trial"] >= T // 2)
    half = over_searches(trials, judged.assign(test_loss=judged["test_loss"].mask(bad & (judged["seed"] == 1))), BUDGET)
    assert half.broken.tolist() == [False, False]
    chances = weights(BUDGET, T, 8)
    assert half.pairs["diverged"][0] == pytest.approx((1 - chances[6:].sum() / chances.sum()) / 3)
    most = over_searches(trials, judged.assign(test_loss=judged["test_loss"].mask(bad & (judged["seed"] < 3))), BUDGET)
    assert most.broken.tolist() == [True, False]
    assert most.pairs["p_beyond"].isna().tolist() == [True, False]
    assert most.regret_by_budget["regret"].notna().all()  # of the other pair alone
    assert "1 with 2's (does not train)" in answers_over_searches(most)["hyperparameter_transfer"]["sentence"]


def test_a_target_whose_own_choice_diverges_is_named_and_all_its_pairs_are_broken():
    trials, judged = study([np.where(LOW, 0.1, 0.2), np.where(LOW, 0.2, 0.1), np.full(T, 0.1)])
    bad = (judged["target"] == "mlp_1") & (judged["trial"] < T // 2)
    result = over_searches(trials, judged.assign(test_loss=judged["test_loss"].mask(bad)), BUDGET)
    assert result.own_diverges == ["mlp_1"]
    assert result.broken.tolist() == [True, True, False, False, False, False]
    sentence = answers_over_searches(result)["hyperparameter_transfer"]["sentence"]
    assert sentence.endswith("Does not train with its own hyperparameters: 1.")
    assert "1 with 2's (its own does not train)" in sentence
    words = in_plain_words("hyperparameter_transfer", answers_over_searches(result)["hyperparameter_transfer"])
    assert "4 of 6 pairs are shown to lose more than 5 % or not to train" in words
    trials, judged = study(np.full((3, T), 0.1), seeds=5)
    bad = (judged["target"] == "mlp_1") & (judged["seed"] < 4)
    alike = over_searches(trials, judged.assign(test_loss=judged["test_loss"].mask(bad)), BUDGET)
    answer = answers_over_searches(alike)["architecture_sensitivity"]
    assert (set(alike.architectures["verdict"]), answer["verdict"]) == ({"equivalent"}, "undetermined")
    assert answer["sentence"].endswith("Does not train with its own hyperparameters: 1.")


def test_where_no_pair_trains_the_first_line_says_what_the_verdict_does():
    trials, judged = study([np.where(LOW, 0.1, 0.2), np.where(LOW, 0.2, 0.1)])
    bad = (judged["target"] == "mlp_1") == (judged["trial"] >= T // 2)
    judged["test_loss"] = judged["test_loss"].mask(bad)
    (name, transfer), (other, matters) = answers_over_searches(over_searches(trials, judged, BUDGET)).items()
    assert transfer["verdict"] == "does_not_transfer"
    assert in_plain_words(name, transfer) == transfer["sentence"]
    unsaid = matters | {"verdict": "undetermined", "interval": [None, None]}
    assert in_plain_words(other, unsaid).endswith("this cannot be said from this run.")


def test_an_architecture_that_always_diverges_leaves_the_others_comparable():
    trials, judged = study(np.full((3, T), 0.1), noise=0.001)
    judged["test_loss"] = judged["test_loss"].mask(judged["target"] == "mlp_1")
    result = over_searches(trials, judged, BUDGET)
    assert result.architectures["verdict"].tolist() == ["undetermined", "undetermined", "equivalent"]
    assert result.answers["architecture_sensitivity"] == "undetermined"


def test_far_architectures_do_not_make_near_ones_equivalent():
    near = [[0.0643] * T, [0.0683] * T]
    for losses in (near, [*near, [0.12] * T, [0.12] * T]):
        result = over_searches(*study(losses, noise=0.005), BUDGET)
        assert result.architectures["verdict"][0].startswith("different")
    answer = answers_over_searches(result)["architecture_sensitivity"]
    assert answer["verdict"] == "different_beyond_margin"
    assert answer["effect"] == pytest.approx(0.12 / 0.0643 - 1, rel=0.02)
    assert answer["interval"][0] < answer["effect"] < answer["interval"][1]


def test_a_small_but_certain_difference_is_different_and_nothing_more():
    result = over_searches(*study([[0.1] * T, [0.1045] * T], noise=0.005), BUDGET)
    assert result.architectures["verdict"].tolist() == ["different"]
    sentence = answers_over_searches(result)["architecture_sensitivity"]["sentence"]
    assert "over searches of 4 trials, 2 above 1, is 4." in sentence


def test_answers_are_plain_values():
    for seed in range(3):
        answers = answers_over_searches(over_searches(*random_study(seed, 0.1), BUDGET))
        assert yaml.safe_load(yaml.safe_dump(answers)) == answers
        assert all({"verdict", "effect", "interval", "n", "sentence"} <= set(answer) for answer in answers.values())
        assert all(f"over searches of {BUDGET} trials" in answer["sentence"] for answer in answers.values())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), shuffle=st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(seed, shuffle):
    trials, judged = random_study(seed, 0.1)
    mixed = trials.sample(frac=1, random_state=shuffle)
    mixed = mixed.sort_values("architecture", kind="stable")  # whose first appearance is the frames' order
    found = over_searches(mixed, judged.sample(frac=1, random_state=shuffle), BUDGET)
    same_frames(found, over_searches(trials, judged, BUDGET))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(["mlp_1", "mlp_2", "mlp_3"]))
def test_another_order_of_architectures_permutes_the_answers(seed, order):
    trials, judged = random_study(seed, 0.1)
    found = over_searches(trials.set_index("architecture").loc[order].reset_index(), judged, BUDGET)
    expected = over_searches(trials, judged, BUDGET)
    assert found.answers == expected.answers
    for name, by in (("pairs", ["target", "source"]), ("tuning_curves", ["n", "architecture"])):
        pair = [getattr(result, name).sort_values(by, ignore_index=True) for result in (found, expected)]
        pd.testing.assert_frame_equal(*pair, rtol=1e-9, atol=1e-9)
    assert found.components == pytest.approx(expected.components, rel=1e-9, nan_ok=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), monotone=st.floats(0.5, 2))
def test_the_scale_of_losses_does_not_matter_and_of_the_search_only_the_ranks(seed, scale, monotone):
    trials, judged = random_study(seed, 0.1)
    expected = over_searches(trials, judged, BUDGET)
    ranked, scaled = trials["val_loss"] ** monotone, scale * judged["test_loss"]
    found = over_searches(trials.assign(val_loss=ranked), judged.assign(test_loss=scaled), BUDGET)
    for name in ("regret_by_budget", "pairs", "architectures"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-9)
    shift = found.tuning_curves["loss"] - expected.tuning_curves["loss"]
    np.testing.assert_allclose(shift, math.log(scale), atol=1e-9)


def test_error_curves_are_the_tuning_curves_without_the_logarithm():
    trials, judged = random_study(1, 0.1)
    result = over_searches(trials, judged, BUDGET)
    judged["test_accuracy"] = 1 - np.log(judged["test_loss"].fillna(0.5))  # an error that is the log loss
    curves = error_curves(trials, judged, BUDGET)
    expected = result.tuning_curves.rename(columns={"loss": "error"})
    pd.testing.assert_frame_equal(curves, expected, rtol=1e-9, atol=1e-9)
    pairs = error_pairs(trials, judged, BUDGET)
    others = pairs[pairs["target"] != pairs["source"]]
    np.testing.assert_allclose(others["regret"], result.pairs["regret"], atol=1e-9)
    own = pairs[pairs["target"] == pairs["source"]]
    np.testing.assert_allclose(own["error"], list(result.tuned.values()), atol=1e-9)


def test_tuning_cost_counts_the_search_and_one_training_of_the_target():
    trials, judged = study([np.linspace(0.1, 0.2, T), np.linspace(0.3, 0.4, T)], noise=0.01)
    trials, judged = trials.assign(epochs_trained=10), judged.assign(epochs_trained=20)
    trials.loc[trials["trial"] == 0, "epochs_trained"] = 22  # a mean of 11
    parameters = {"mlp_1": 100, "mlp_2": 1000}
    searching, training = (6 * images * pd.Series(parameters) for images in (40, 50))  # of the search's data, and here
    costs = tuning_cost(trials, judged, BUDGET, searching, training)
    row = costs[(costs["target"] == "mlp_2") & (costs["source"] == "mlp_1") & (costs["n"] == 5)]
    assert row["operations"].item() == pytest.approx(6 * (40 * 5 * 11 * 100 + 50 * 20 * 1000))
    own = costs[costs["target"] == costs["source"]].rename(columns={"target": "architecture"}).reset_index(drop=True)
    curves = over_searches(trials, judged, BUDGET).tuning_curves
    pd.testing.assert_frame_equal(own[["architecture", "n", "loss", "low", "high"]], curves.drop(columns="share_best"))

    a_trial = operations_of_a_trial(trials, searching)
    assert small_pays(costs, a_trial, parameters, BUDGET) == ""  # the ends of both intervals hold 1
    narrow = costs.assign(low=costs["loss"], high=costs["loss"])
    paid = small_pays(narrow, a_trial, parameters, BUDGET)
    share = (40 * 6 * 11 * 100 + 50 * 20_000) / (40 * 4 * 11 * 1000 + 50 * 20_000)
    losses = costs.set_index(["target", "source", "n"])["loss"]
    quotient = np.exp(losses["mlp_2", "mlp_1", 6] - losses["mlp_2", "mlp_2", 4])  # as many as the curves reach
    assert paid.startswith(
        f"With at most the cost of 4 trials on 2 itself, tuning on 1 (6 trials, {100 * share:.0f} % of the cost) gives "
        f"{quotient:.3f} times its loss ("
    )
    for equal in ({"mlp_1": 2, "mlp_2": 1}, {"mlp_1": 1, "mlp_2": 1}):
        assert small_pays(narrow, a_trial, equal, BUDGET) == ""  # none is smaller


def test_no_loss_is_told_where_most_trainings_diverge():
    search = np.linspace(0.1, 0.2, T)
    trials, judged = study([search, search[::-1]])  # what is best on one is worst on the other
    trials, judged = trials.assign(epochs_trained=10), judged.assign(epochs_trained=20)
    judged.loc[(judged["target"] == "mlp_2") & (judged["trial"] < 2), "test_loss"] = math.nan
    an_epoch = pd.Series({"mlp_1": 100.0, "mlp_2": 1000.0})
    costs = tuning_cost(trials, judged, BUDGET, an_epoch, an_epoch)
    loss = costs.set_index(["target", "source", "n"])["loss"]
    assert np.isnan([loss["mlp_2", "mlp_1", BUDGET], loss["mlp_2", "mlp_2", BUDGET]]).tolist() == [True, False]
    assert small_pays(costs, operations_of_a_trial(trials, an_epoch), {"mlp_1": 1, "mlp_2": 2}, BUDGET) == ""


@pytest.mark.parametrize(("number", "budget"), [(200, 60), (60, 1)], ids=["many trials", "most are contenders"])
def test_memory_grows_no_faster_than_the_trials(number, budget):
    rng, peaks = np.random.default_rng(0), []
    for size in (number, 2 * number):
        peaks.append(peak(over_searches, *study(rng.uniform(0.1, 0.2, (3, size))), budget))
    assert peaks[1] < 2.5 * peaks[0]


def test_the_luck_of_the_images_is_what_drawing_others_would_change():
    """Whatever the run seeds make of single images is no part of it; what both architectures share is none either."""
    rng, architectures = np.random.default_rng(0), ("mlp_1", "mlp_2")
    common, own = rng.gamma(0.2, 1, 4000), rng.gamma(0.2, 1, (2, 1, 4000)) / 10
    luck = rng.gamma(0.2, 1, (2, 4, 4000)) / 5

    def variance(losses):
        return image_variance({name: dict(enumerate(of, 1)) for name, of in zip(architectures, losses, strict=True)})

    for noise, tolerance in ((0 * luck, 1e-6), (luck, 0.3)):
        means = (common + own + noise.mean())[:, 0]
        influence = means[0] / means[0].mean() - means[1] / means[1].mean()
        found = variance(common + own + noise)
        assert found == pytest.approx(influence.var() / 4000 / 2, rel=tolerance)
    assert variance(common + luck) < 1e-6
    assert math.isnan(variance((common + luck)[:, :1]))
    luck[0, 1] = math.nan  # a training that diverged
    assert variance(common + own + 0 * luck) == pytest.approx(variance(common + own + np.zeros((2, 4, 1))))


def test_replications_of_one_world_differ_as_often_as_chance_allows():
    """Two runs of their own draws and seeds; the architectures' order is no matter."""
    apart = []
    for seed in range(40):
        here, there = (over_searches(*random_study(1000 * run + seed), BUDGET) for run in (1, 2))
        table = replication(here, there)
        apart += [*((table["low"] > 0) | (table["high"] < 0))]
    assert len(apart) == 40 * (6 + 3)
    assert 0 < np.mean(apart) < 0.1


def test_a_replication_by_hand():
    one, other = study([[1.0] * T, [1.2] * T]), study([[1.0] * T, [1.3] * T])
    renamed = {"mlp_1": "mlp_2", "mlp_2": "mlp_1"}
    swapped = [table.replace(renamed).iloc[::-1] for table in study([[1.3] * T, [1.0] * T])]
    here = over_searches(*one, BUDGET)
    for table in (replication(here, over_searches(*other, BUDGET)), replication(here, over_searches(*swapped, BUDGET))):
        assert table["question"].tolist() == ["hyperparameter_transfer"] * 2 + ["architecture_sensitivity"]
        pair = table.iloc[-1]
        assert (pair["first"], pair["second"], pair["verdict_here"]) == ("mlp_1", "mlp_2", "different_beyond_margin")
        assert pair[["here", "there"]].tolist() == pytest.approx([-math.log(1.2), -math.log(1.3)])
        assert not pair["holds"]
        assert not pair["held"]
        costs, differences = replication_sentences(table, "x", 0.95)
        assert "2 of the 95 % intervals here hold its estimate" in costs
        assert "(were both runs alike, 83 % would)" in costs
        assert "They average +0.00 % here and +0.00 % there." in costs
        assert "allow: 1 (by chance 0.05 on average). Both decide 1: 1 alike, 0 the other way." in differences


def test_a_replication_that_turns_a_difference_round_is_no_confirmation():
    here, there = (over_searches(*study([[1.0] * T, [loss] * T]), BUDGET) for loss in (1.2, 0.8))
    table = replication(here, there)
    assert table["verdict_here"].iloc[-1] == table["verdict_there"].iloc[-1] == "different_beyond_margin"
    assert "Both decide 1: 0 alike, 1 the other way." in replication_sentences(table, "x", 0.95)[1]


def test_of_a_replication_only_what_has_an_interval_in_both_is_counted():
    trials, judged = study([[1.0] * T, [1.2] * T])
    broken = judged.assign(test_loss=judged["test_loss"].where(judged["target"] == "mlp_1"))
    table = replication(over_searches(trials, judged, BUDGET), over_searches(trials, broken, BUDGET))
    costs, differences = replication_sentences(table, "x", 0.95)
    assert costs.startswith("Of 1 costs")
    assert differences.endswith("none has an interval in both.")


def test_practices_are_those_of_all_searches_one_by_one():
    """Every subset of the budget's size is searched, and what it would have come to averaged."""
    trials, judged = random_study(5)
    judged["val_loss"] = judged["test_loss"] * np.exp(np.random.default_rng(1).normal(0, 0.05, len(judged)))
    default = pd.DataFrame({"target": names(3) * 2, "seed": [1] * 3 + [2] * 3, "test_loss": [0.2, 0.3, 0.4] * 2})
    table = practices(*with_epochs(trials, judged), BUDGET, dict(zip(names(3), (3, 1, 2), strict=True)), default, rungs)
    rows = table[table["n"] == BUDGET].set_index("practice")["quotient"].map(math.log)
    search = trials.pivot(index="architecture", columns="trial", values="val_loss")
    known = contenders(trials, BUDGET)[1]
    losses = {name: judged.assign(log=np.log(judged[name])).set_index(["target", "trial"]) for name in VALUES}
    cells = {name: {key: rows["log"].to_numpy() for key, rows in t.groupby(level=[0, 1])} for name, t in losses.items()}
    total = {name: [[] for _ in search.index] for name in ("own", "other", "fewest", "again")}
    for drawn in combinations(range(T), BUDGET):
        best = {name: search.loc[name, list(drawn)].sort_values().index for name in search.index}
        for number, target in enumerate(search.index):
            test = {source: cells["test_loss"][target, best[source][0]].mean() for source in search.index}
            total["own"][number].append(test.pop(target))
            total["other"][number].append(np.mean([*test.values()]))
            total["fewest"][number].append(test["mlp_2" if target != "mlp_2" else "mlp_3"])
            for seed in range(3):
                few = [trial for trial in best[target][:3] if trial in known]
                chosen = min(few, key=lambda trial: cells["val_loss"][target, trial][seed])
                total["again"][number].append(np.delete(cells["test_loss"][target, chosen], seed).mean())
    mean = {name: np.mean([np.mean(values) for values in found]) for name, found in total.items()}
    assert rows["tune on the target"] == 0
    expected = {
        "tune on another architecture": mean["other"],
        "tune on the smallest other": mean["fewest"],
        "best 3 judged again at 1 seed": mean["again"],
        "torch's defaults": np.mean(np.log([0.2, 0.3, 0.4])),
    }
    for practice, loss in expected.items():
        assert rows[practice] == pytest.approx(loss - mean["own"], abs=2e-3), practice
    costs = table[table["n"] == BUDGET].set_index("practice")[["on_target", "elsewhere", "epochs"]]
    assert costs.loc["best mean rank on all others"].tolist() == [0, 2 * BUDGET, 80 * BUDGET]
    assert costs.loc["tune on the target"].tolist() == [BUDGET, 0, 40 * BUDGET]


def one_ranking(number, budget, architectures=2):
    """(trials, judged, curves) without luck: each trial is 2 % worse than the one before, everywhere."""
    losses = np.array([[1.02**trial for trial in range(number)]] * architectures)
    trials, judged = tables(losses, np.repeat(losses[..., None], 5, axis=2))
    judged = judged[judged["trial"].isin(contenders(trials, budget)[1])]
    return with_epochs(trials, judged.assign(val_loss=judged["test_loss"]))


def practised(trials, judged, curves, budget=20, default=EMPTY):
    table = practices(trials, judged, curves, budget, dict.fromkeys(names(9), 1), default, rungs)
    return table[table["n"] == budget].set_index("practice")


@pytest.mark.parametrize(("number", "budget"), [(60, 3), (60, 6), (60, 20), (100, 10)])
def test_without_luck_every_way_to_search_finds_the_same(number, budget):
    """Also of small searches, which choose beyond the best trials that were judged."""
    table = practised(*one_ranking(number, budget), budget).filter(regex="^((?! more).)*$", axis=0)
    assert len(table) == 6
    np.testing.assert_allclose(table[["quotient", "low", "high"]], 1)


def test_a_seed_that_diverges_is_told_and_decides_no_choice():
    trials, judged, curves = one_ranking(60, 20, architectures=3)
    judged.loc[(judged["trial"] == 0) & (judged["seed"] == 3), ["test_loss", "val_loss"]] = math.nan
    table = practised(trials, judged, curves)
    assert table.loc["best 3 judged again at 2 seeds", "quotient"] == pytest.approx(1)
    chance = 20 / 60 / 5  # that the best is drawn, and judged at that seed
    for practice in ("tune on the target", "tune on another architecture", "best 3 judged again at 2 seeds"):
        assert table.loc[practice, "diverged"] == pytest.approx(chance)


def test_the_defaults_are_compared_target_by_target():
    """They are as good as tuning; one target is ten times as hard, and one training of it is missing, or none is."""
    trials, judged, curves = one_ranking(60, 20)
    trials.loc[trials["architecture"] == "mlp_2", ["test_loss", "val_loss"]] *= 10
    judged.loc[judged["target"] == "mlp_2", ["test_loss", "val_loss"]] *= 10
    tuned = over_searches(trials, judged, 20).tuned
    default = pd.DataFrame([(name, seed, math.exp(tuned[name])) for name in names(2) for seed in range(1, 6)])
    default.columns = ["target", "seed", "test_loss"]
    for known in (default, default[1:], default[default["target"] == "mlp_2"]):
        row = practised(trials, judged, curves, default=known).loc["torch's defaults"]
        assert row["quotient"] == pytest.approx(1, abs=2e-3)
        assert row["low"] > 0.9
    lucky = default.assign(test_loss=default["test_loss"] * np.exp(0.05 * default["seed"]))
    rows = (practised(trials, judged, curves, default=known).loc["torch's defaults"] for known in (default, lucky))
    alone, both = (math.log(row["high"] / row["quotient"]) for row in rows)
    search, luck = (alone / stats.t.ppf(0.975, 6)) ** 2, 0.05**2 * 2.5 / 5  # of 2 x 60 / 20 and 4 degrees of freedom
    df = (search + luck) ** 2 / (search**2 / 6 + luck**2 / 4)
    assert both == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(search + luck), rel=1e-6)


def test_halving_needs_all_curves():
    trials, judged, curves = one_ranking(60, 20)
    for known in (curves[curves["architecture"] == "mlp_1"], curves[curves["trial"] > 0]):
        assert "successive halving" not in practised(trials, judged, known).index
    trials.loc[trials["trial"] == 59, "val_loss"] = math.nan  # which diverged before its first check
    assert "successive halving" in practised(trials, judged, curves[curves["trial"] < 59]).index


def test_what_halving_finds_beyond_the_contenders_is_told_by_the_search():
    """Until the last rung the worst trials look best, so halving has only such ones left."""
    trials, judged, curves = one_ranking(60, 20)
    early = curves["epoch"] <= 20
    curves.loc[early, "val_loss"] = 9.0 - curves.loc[early, "trial"] / 100
    told, left_out = (
        practised(known, judged, curves).loc["successive halving", "quotient"]
        for known in (trials, trials.drop(columns="test_loss"))
    )
    assert told > left_out + 0.1


def test_halving_drops_who_peaks_late_and_saves_epochs():
    """The best trial is the worst of all until epoch 20: halving at 10 and 20 of 40 epochs never chooses it."""
    losses = np.array([[1.0, *np.linspace(2, 3, T - 1)]] * 2)
    trials, judged = study(losses)
    judged["val_loss"] = judged["test_loss"]
    trials, judged, curves = with_epochs(trials, judged)
    curves.loc[(curves["trial"] == 0) & (curves["epoch"] <= 20), "val_loss"] = 9.0
    table = practices(trials, judged, curves, BUDGET, dict.fromkeys(names(2), 1), EMPTY, rungs)
    found = table[table["n"] == BUDGET].set_index("practice").loc["successive halving"]
    assert found["epochs"] == 4 * 10 + 2 * 10 + 20
    chosen = [min(others) for others in combinations(range(1, T), BUDGET)]  # of searches without it, and
    late = [min(others) for others in combinations(range(1, T), BUDGET - 1)]  # of those with it
    drawn = np.log(losses[0])[[*chosen, *late]].mean()
    own = np.log(losses[0])[[min(of) for of in combinations(range(T), BUDGET)]].mean()
    assert math.log(found["quotient"]) == pytest.approx(drawn - own, abs=0.01)


def test_where_one_trial_is_all_of_a_pair_there_is_a_mean_without_an_interval():
    trials, judged = study(np.broadcast_to([0.1, 0.2, 0.3, 0.4], (3, 4)))
    lost = (judged["target"] == "mlp_1") & (judged["trial"] > 0)
    answer = answers_over_searches(over_searches(trials, judged.assign(test_loss=judged["test_loss"].mask(lost)), 2))
    sentence = answer["hyperparameter_transfer"]["sentence"]
    assert "on average over searches of 2 trials" in sentence
    assert "where one trial is all of a pair whether hyperparameters transfer cannot be said" in sentence
    assert "without finite losses" not in sentence


def test_one_pair_is_and_two_are():
    counts = {"equivalent": 0, "different_beyond_margin": 0, "different": 1, "undetermined": 2}
    assert architecture_end("different", counts, 0.05).startswith("1 of 3 pairs is shown to differ, so")
    assert architecture_end("different", counts | {"different": 2}, 0.05).startswith(
        "2 of 4 pairs are shown to differ, so"
    )


def test_where_all_share_their_hyperparameters_nothing_is_counted():
    losses = pd.DataFrame(
        [(t, s, k, 0.1 + k) for t in "ab" for s in "ab" for k in (1, 2)],
        columns=["target", "source", "seed", "test_loss"],
    )
    words = in_plain_words("hyperparameter_transfer", answer_transfer(losses, 0.05, 0.95))
    assert words.endswith("All architectures share their hyperparameters, so nothing is lost by another's.")
