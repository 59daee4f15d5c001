"""Random draws: in their ranges, of their distributions, a function of seed and architecture alone."""

import itertools

import pytest
from scipy import stats

from mlp_lib.core.values import HYPERPARAMETERS, Architecture
from mlp_lib.run.parameters import DEFAULTS, SearchSpace
from mlp_lib.study.draws import draw_trials

RANGES = {name: tuple(ends.values()) for name, ends in DEFAULTS["search_space"].items()}  # (distribution, low, high)
NARROW, WIDE = Architecture((4,)), Architecture((3, 2))


def space(**changes: tuple[str, float, float]) -> SearchSpace:
    keys = ("distribution", "low", "high")
    return SearchSpace.model_validate({n: dict(zip(keys, r, strict=True)) for n, r in (RANGES | changes).items()})


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_draws_lie_in_their_range_and_follow_its_distribution(name: str) -> None:
    draws = [getattr(trial, name) for trial in draw_trials(space(), 2000, 0, NARROW)]
    kind, low, high = RANGES[name]
    assert low <= min(draws) < max(draws) <= high
    uniform, log_uniform = stats.uniform(low, high - low), stats.loguniform(low, high)
    right, wrong = (log_uniform, uniform) if kind == "log_uniform" else (uniform, log_uniform)
    assert stats.kstest(draws, right.cdf).pvalue > 1e-3
    assert stats.kstest(draws, wrong.cdf).pvalue < 1e-3 or high / low < 2  # nearly the same where the range is short


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
@pytest.mark.parametrize("value", [1e-8, 0.1 + 0.2, 1 / 3, 0.9])
def test_equal_ends_give_exactly_that_value(kind: str, value: float) -> None:
    ends = dict.fromkeys(("lr", "beta1", "dropout", "weight_decay"), (kind, value, value))
    for trial in draw_trials(space(**ends), 50, 0, NARROW):
        assert {trial.lr, trial.beta1, trial.dropout, trial.weight_decay} == {value}


@pytest.mark.parametrize("sobol", [False, True])
def test_a_trial_does_not_depend_on_the_number_of_trials(sobol: bool) -> None:
    many = draw_trials(space(), 40, 7, WIDE, sobol)
    for number in (1, 2, 3, 17):
        assert draw_trials(space(), number, 7, WIDE, sobol) == many[:number]


def test_a_draw_depends_on_its_own_range_alone() -> None:
    fixed = draw_trials(space(lr=("uniform", 0.5, 0.5)), 5, 0, NARROW)
    free = draw_trials(space(), 5, 0, NARROW)
    assert [t.model_copy(update={"lr": 0.5}) for t in free] == fixed


def test_draws_are_those_of_their_seed_architecture_and_method() -> None:
    """Without an architecture all share the draws of the seed."""
    architectures = (None, NARROW, WIDE, Architecture((2, 3)), Architecture((32,)))
    keys = list(itertools.product((0, 1, 7, 2**32 - 1), architectures, (False, True)))
    assert len({draw_trials(space(), 1, *key)[0].lr for key in keys}) == len(keys)


def test_hyperparameters_of_a_trial_are_independent() -> None:
    trials = draw_trials(space(), 500, 0, NARROW)
    columns = [[getattr(trial, name) for trial in trials] for name in HYPERPARAMETERS]
    for i in range(len(columns)):
        for j in range(i):
            assert abs(stats.spearmanr(columns[i], columns[j]).statistic) < 0.15


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_sobol_trials_are_spread_evenly(name: str) -> None:
    """Of 32 points of a scrambled sequence each of 32 equal parts of a range holds one; of random draws some none."""
    kind, low, high = RANGES[name]
    cdf = (stats.loguniform(low, high) if kind == "log_uniform" else stats.uniform(low, high - low)).cdf
    for sobol in (True, False):
        parts = {int(32 * cdf(getattr(t, name))) for t in draw_trials(space(), 32, 0, NARROW, sobol=sobol)}
        assert (len(parts) == 32) == sobol
