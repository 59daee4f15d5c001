"""Sources that are no architecture, and the comparison of two runs' transfers: chosen by hand, computed by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from study import ARCHITECTURES, VALUES, evidence_of, refusing, run_all, settings_of, study_of

from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.evidence import intervals
from mlp_lib.evidence.comparisons import (
    ANY,
    compare_transfer,
    comparison_sentence,
    extra_sources,
    gain_kept,
    kept_sentence,
    other_search,
    other_search_sentence,
    sources_sentence,
)
from mlp_lib.figures.losses import quotient_intervals
from mlp_lib.reports.analysis import Evidence
from mlp_lib.reports.session import Session
from mlp_lib.run import parsing
from mlp_lib.run.files import RunDirectoryError, RunFiles, read_table, write_yaml
from mlp_lib.run.ledger import read_trainings
from mlp_lib.run.meta import different_parameters, merge_parameters
from mlp_lib.study import phases
from mlp_lib.study.phases import read_sources
from mlp_lib.study.sources import consensus, median, read_best
from mlp_lib.study.study import Study

ALL_EXTRA = ["cheapest", "median", "consensus", "default"]
SAME = {"same_trials_for_all_architectures": True}
STUDY = {**SAME, "search_seed": 3, "contenders": "chosen"}  # whose two architectures choose different trials


# --- the sources ----------------------------------------------------------------------------------------------------


def test_the_median_is_geometric_for_what_is_searched_on_a_log_scale() -> None:
    two = [Hyperparameters(**VALUES | {"lr": lr, "dropout": d}) for lr, d in [(1e-4, 0.1), (1e-2, 0.3)]]
    middle = median(two)
    assert middle.lr == pytest.approx(1e-3)
    assert middle.dropout == pytest.approx(0.2)
    third = Hyperparameters(**VALUES | {"lr": 5e-4, "dropout": 0.4})
    assert median([*two, third]).lr == pytest.approx(5e-4)
    without_decay = [h.model_copy(update={"weight_decay": d}) for h, d in zip(two, (0.0, 0.02), strict=True)]
    assert median(without_decay).weight_decay == pytest.approx(0.01)  # 0 has no logarithm


def trials_of(losses: dict[str, list[float]]) -> pd.DataFrame:
    """Trials with the same hyperparameters on all: trial i has lr (i + 1) / 1000."""
    return pd.DataFrame(
        {"architecture": name, "trial": i, **VALUES, "lr": (i + 1) / 1000, "val_loss": loss}
        for name, values in losses.items()
        for i, loss in enumerate(values)
    )


def test_consensus_leaves_the_target_out() -> None:
    """Mean ranks: of a and b 2, 1.5, 2.5; of b and c 2.5, 2, 1.5."""
    trials = trials_of({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.1, 0.2], "c": [0.2, 0.3, 0.1]})
    assert consensus(trials, "c").lr == 0.002
    assert consensus(trials, "a").lr == 0.003
    assert consensus(trials, "none of them").lr == 0.001  # all ranks are 2: the lowest number


def test_in_a_consensus_a_diverged_trial_ranks_last() -> None:
    trials = trials_of({"a": [math.nan, 0.2, 0.3], "b": [0.1, 0.2, 0.3]})
    assert consensus(trials, "c").lr == 0.002  # mean ranks 2, 1.5, 2.5
    assert consensus(trials_of({"a": [0.1, math.nan], "b": [0.1, math.nan]}), "c").lr == 0.001


def test_there_is_no_consensus_without_common_trials() -> None:
    """What is refused before anything is made: see test_bad_input."""
    parsing.check_all(parsing.merge(None, [], [("transfer_extra_sources", "[consensus]")]))
    trials = trials_of({"a": [0.1, 0.2], "b": [0.1, 0.2]})
    trials.loc[0, "lr"] = 0.5
    with pytest.raises(RunDirectoryError, match="same_trials_for_all_architectures"):
        consensus(trials, "c")
    with pytest.raises(RunDirectoryError, match="at least two architectures"):
        consensus(trials_of({"a": [0.1, 0.2]}), "a")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("extended")
    run_all(run_dir, **STUDY, transfer_extra_sources=ALL_EXTRA)
    return run_dir


def test_every_extra_source_is_a_column(extended: Path) -> None:
    files = RunFiles(extended)
    relative = read_table(files.relative_regret, index="target")
    assert list(relative.columns) == [*ARCHITECTURES, *ALL_EXTRA]
    assert list(relative.index) == list(ARCHITECTURES)
    study = study_of(extended, "transfer", **STUDY, transfer_extra_sources=ALL_EXTRA)
    sources = read_sources(study)
    for target in ARCHITECTURES:
        other = next(name for name in ARCHITECTURES if name != target)
        assert all(sources[target][name] == sources[target][other] for name in ("cheapest", "median", "consensus"))
        assert sources[target]["default"] == Hyperparameters()
        assert relative.loc[target, "cheapest"] == relative.loc[target, other]


def test_an_extra_source_with_known_hyperparameters_trains_nothing(extended: Path) -> None:
    trainings = read_trainings(RunFiles(extended), "transfer")
    vectors = trainings.groupby(["architecture", "seed"]).size()
    assert (vectors == 1 + 1).all()  # the other architecture's, the default


def test_extra_sources_can_be_added_and_change_nothing_else(tmp_path: Path, extended: Path) -> None:
    """The answers too are about the architectures alone."""
    run_all(tmp_path, **STUDY)
    plain, evidence = read_table(RunFiles(tmp_path).transfer_losses), evidence_of(tmp_path, **STUDY)
    answers, effects = evidence.answers(), evidence.transfer_effects()
    assert evidence.extra_sources().empty
    run_all(tmp_path, **STUDY, transfer_extra_sources=ALL_EXTRA)
    for name in ("transfer_losses", "trainings", "regret"):
        assert getattr(RunFiles(tmp_path), name).read_bytes() == getattr(RunFiles(extended), name).read_bytes()
    whole = read_table(RunFiles(extended).transfer_losses)
    ours = whole[whole["source"].isin(ARCHITECTURES)].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, plain, check_exact=True, check_dtype=False)
    more = evidence_of(extended, **STUDY, transfer_extra_sources=ALL_EXTRA)
    assert more.answers() == answers
    assert more.transfer_effects().equals(effects)
    assert list(more.extra_sources()["source"]) == [*ALL_EXTRA, ANY]
    assert (extended / "analysis" / "extra_sources.png").exists()


def test_what_may_be_added_to_a_run() -> None:
    stored = {"architectures": {}, "transfer_extra_sources": ["median"]}
    assert merge_parameters(stored, {"transfer_extra_sources": ["default", "median"]}, Path("x"))
    with pytest.raises(RunDirectoryError, match="transfer_extra_sources"):
        merge_parameters(stored, {"transfer_extra_sources": ["default"]}, Path("x"))


def test_runs_differ_in_what_decides_results_alone() -> None:
    old = {"batch_size": 32}  # of a version that knew of no parametrization
    assert different_parameters(old, old | {"parametrization": "mup", "workers": 3}) == [
        "parametrization (standard here, mup there)"
    ]


def test_the_parametrization_is_part_of_what_decides_a_result(extended: Path) -> None:
    conditions = [study_of(extended, "transfer", **STUDY, parametrization=p).conditions for p in ("standard", "mup")]
    standard, mup = (one.describe()["training"] for one in conditions)
    assert mup == standard | {"parametrization": "mup", "base_width": 128}  # which standard has not
    assert phases.reusable(study_of(extended, "transfer", **STUDY, parametrization="mup")).empty


# --- their statistics -----------------------------------------------------------------------------------------------


def losses_of(cells: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"target": target, "source": source, "seed": seed, "test_loss": loss}
        for (target, source), values in cells.items()
        for seed, loss in enumerate(values)
    )


def test_extra_sources_by_hand() -> None:
    """`median` costs 2 and 1/2 at seed 0, 4 and 1 at seed 1: means 1 and 2, in all sqrt(2)."""
    own = {("a", "a"): [1.0, 2.0], ("b", "b"): [4.0, 4.0], ("a", "b"): [2.0, 4.0], ("b", "a"): [2.0, 2.0]}
    table = extra_sources(losses_of(own | {("a", "median"): [2.0, 8.0], ("b", "median"): [2.0, 4.0]}), 0.95)
    assert list(table["source"]) == ["median", ANY]
    first, last = table.itertuples()
    assert first.quotient == pytest.approx(math.sqrt(2))
    assert (first.n, first.targets, first.diverged) == (2, 2, 0)
    half = 12.7062 * np.std([0, math.log(2)], ddof=1) / math.sqrt(2)
    assert first.high == pytest.approx(math.sqrt(2) * math.exp(half), rel=1e-4)
    assert first.low == pytest.approx(math.sqrt(2) * math.exp(-half), rel=1e-4)
    assert last.quotient == pytest.approx(1.0)  # 1, 1, 2 and 1/2, at either seed


def test_the_share_of_the_tuning_gain_that_transfer_keeps() -> None:
    """Tuning halves b's loss and quarters a's; of it the other's hyperparameters lose log sqrt(2), and nothing."""
    e = math.sqrt(2)
    cells = {("a", "a"): [1.0, 3.0], ("a", "b"): [e, 3 * e], ("b", "b"): [1.0, 1.0], ("b", "a"): [1.0, 1.0]}
    assert gain_kept(losses_of(cells), 0.95).empty
    losses = losses_of(cells | {("a", "default"): [4.0, 12.0], ("b", "default"): [2.0, math.nan]})
    table = gain_kept(losses, 0.5).set_index("target")
    assert table["n"].tolist() == [2, 1, 2]
    assert table["diverged"].tolist() == [0, 1, 1]
    assert table["kept"].tolist() == pytest.approx([0.75, 1.0, 1 - (0.25 + 0.5) / (1.5 + 2)])
    assert table["gain"].tolist()[:2] == pytest.approx([4, 2])
    assert table.loc["a", ["low", "high"]].tolist() == pytest.approx([0.75, 0.75])
    assert math.isnan(table.loc["b", "low"])
    assert "keep a share of 0.786" in kept_sentence(table.reset_index(), 0.5)
    assert "Left out: 1 training that" in kept_sentence(table.reset_index(), 0.5)
    worse = losses_of(cells | {("a", "default"): [0.5, 0.5], ("b", "default"): [0.5, 0.5]})
    assert gain_kept(worse, 0.95)["kept"].isna().all()
    unsure = gain_kept(losses, 0.95)  # two seeds, at one of which b's default diverged
    assert kept_sentence(unsure, 0.95).startswith("That tuning gains anything over torch's default is not shown")


def test_what_a_sentence_is_about_is_said() -> None:
    """The hyperparameters that were chosen, over run seeds; what diverged; without an interval none is named."""
    own, nan = {("a", "a"): [1.0, 1.1], ("b", "b"): [1.0, 1.1]}, math.nan
    extra = losses_of(own | {("a", "default"): [2.0, nan], ("b", "default"): [nan, nan]})
    said = sources_sentence(extra_sources(extra, 0.95), 0.95)
    assert said.startswith("Test loss over 2 targets, in times that with own hyperparameters (95 % interval over 2 run")
    assert said.endswith("Left out: 3 trainings that diverged or did not train.")
    said = sources_sentence(extra_sources(extra[extra["seed"] == extra["seed"].max()], 0.95), 0.95)
    assert "default does not train" in said
    assert "interval" not in said
    retrained = losses_of(own).rename(columns={"target": "architecture"}).drop(columns="source")
    apart = losses_of(own).assign(seed=lambda table: table["seed"] + 10)
    assert "share no run seed" in other_search_sentence(other_search(apart, retrained, 0.95), "x", 0.95)


def test_a_diverged_training_of_an_extra_source_is_counted_apart() -> None:
    cells = {("a", "a"): [1.0, 1.0], ("a", "default"): [2.0, math.nan]}
    first = extra_sources(losses_of(cells), 0.95).iloc[0]
    assert (first["n"], first["quotient"], first["diverged"]) == (1, 2.0, 1)
    assert math.isnan(first["low"])


def test_a_comparison_by_hand() -> None:
    """The transferred loss is 1.5 times the own here and 3 times there, whose own is twice as high."""
    here = losses_of({("a", "a"): [1.0, 2.0, 1.0], ("a", "b"): [1.5, 3.0, 1.5], ("b", "b"): [1.0] * 3})
    there = losses_of({("a", "a"): [2.0, 4.0, 2.0], ("a", "b"): [6.0, 12.0, 6.0], ("b", "b"): [2.0] * 3})
    more = losses_of({("a", "median"): [9.0] * 3})
    here, there = pd.concat([here, more]), pd.concat([there, more, losses_of({("b", "a"): [9.0] * 3})])
    table = compare_transfer(here, there, 0.95).set_index("quantity")
    assert table.loc["regret", ["here", "there", "quotient"]].tolist() == pytest.approx([1.5, 3.0, 0.5])
    assert table.loc["own", "quotient"] == pytest.approx(0.5)
    assert table.loc["transferred", "quotient"] == pytest.approx(0.25)
    assert table["pairs"].tolist() == [1, 2, 1]
    assert set(table["n"]) == {3}
    sentence = comparison_sentence(table.reset_index(), "x", 0.95)
    assert "is smaller here for the hyperparameters that these two searches chose" in sentence
    assert "0.500 times that of x" in sentence
    swapped = compare_transfer(there, here, 0.95)
    assert "is larger here" in comparison_sentence(swapped, "x", 0.95)
    assert swapped["quotient"].tolist() == pytest.approx([2.0, 2.0, 4.0])


def test_a_comparison_has_an_interval_over_the_seeds() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.1, (2, 5)))
    own = {("a", "a"): [1.0] * 5, ("b", "b"): [1.0] * 5}
    one, other = ({**own, ("a", "b"): list(2 * factors)} for factors in noise)
    regret = compare_transfer(losses_of(one), losses_of(other), 0.95).iloc[0]
    mean, low, high = intervals.mean_interval(np.log(noise[0] / noise[1]), 0.95)
    assert regret[["quotient", "low", "high"]].tolist() == pytest.approx(np.exp([mean, low, high]).tolist())
    assert regret["low"] < 1 < regret["high"]
    assert "may be the same" in comparison_sentence(compare_transfer(losses_of(one), losses_of(other), 0.95), "x", 0.95)


def test_what_diverged_in_one_run_is_left_out_of_the_comparison() -> None:
    own = {("a", "a"): [1.0, 1.0], ("b", "b"): [1.0, 1.0]}
    here, there = (losses_of({**own, ("a", "b"): values}) for values in ([2.0, math.inf], [1.0, 1.0]))
    table = compare_transfer(here, there, 0.95)
    assert table.iloc[0]["left_out"] == 1
    assert table.iloc[0]["n"] == 1
    assert "gives no interval" in comparison_sentence(table, "x", 0.95)
    nothing = compare_transfer(here, losses_of({("c", "c"): [1.0]}), 0.95)
    assert "share no pair" in comparison_sentence(nothing, "x", 0.95)


# --- in the analysis ------------------------------------------------------------------------------------------------


def test_a_run_compared_with_itself_is_the_same(extended: Path) -> None:
    evidence_of(extended, **STUDY, transfer_extra_sources=ALL_EXTRA)
    files = RunFiles(extended)
    evidence = Evidence(files, settings_of("analysis", compare_with=str(extended)))
    assert evidence.comparison()["quotient"].tolist() == [1.0] * 3
    assert set(evidence.comparison()["run"]) == {extended.name}
    assert "nothing that decides a result" in evidence.comparison_answers()[0]
    assert (extended / "analysis" / "comparison.csv").exists()
    assert evidence.replication().empty  # it has the same trials and seeds
    alone = Evidence(files, settings_of("analysis"))
    assert alone.comparison().empty
    assert not (extended / "analysis" / "comparison.csv").exists()  # that of the analysis before


def test_the_figure_draws_every_quotient() -> None:
    table = pd.DataFrame({"source": ["x", "y"], "quotient": [1.2, 0.9], "low": [1.1, np.nan], "high": [1.3, np.nan]})
    figure = quotient_intervals(table, "source", "a title")
    unknown = table.assign(quotient=[1.2, np.nan])
    assert quotient_intervals(unknown, "source", "a title").get_label() == "a title: x 1.200"
    assert isinstance(figure, Figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]
    assert figure.axes[0].lines[-1].get_xdata().tolist() == [1.2, 0.9]


# --- between data sets ----------------------------------------------------------------------------------------------


def test_another_search_by_hand() -> None:
    transfers = losses_of({("a", "a"): [2.0, 3.0], ("a", "b"): [9.0, 9.0], ("b", "b"): [1.0, 1.0]})
    retrainings = pd.DataFrame({"architecture": ["a", "a", "b", "b"], "seed": [0, 1] * 2, "test_loss": [1.0, 1, 2, 2]})
    table = other_search(transfers, retrainings, 0.95).set_index("target")
    assert table["quotient"].to_dict() == pytest.approx(
        {"a": math.sqrt(6), "b": 0.5, "all": math.sqrt(math.sqrt(6) / 2)}
    )
    assert table["n"].tolist() == [2, 2, 2]


def test_hyperparameters_can_come_from_a_search_on_other_data(extended: Path, tmp_path: Path, monkeypatch) -> None:
    """Other data: the digits split otherwise, which has its own context, so that nothing of the other run is reused."""
    other = {**STUDY, "split_seed": 5, "search_seed": 1}
    phases.search(study_of(tmp_path, "search", **other))
    phases.retrain(study_of(tmp_path, "retrain", **other))
    study = study_of(tmp_path, "transfer", **other, search_dir=str(extended))
    losses = phases.transfer(study)
    assert not losses["reused"].any()
    sources = read_table(RunFiles(tmp_path).sources).set_index(["target", "source"])
    for name in ARCHITECTURES:
        chosen = read_best(RunFiles(extended).architecture(Architecture.from_name(name)))
        assert sources.loc[(name, name), "lr"] == chosen.lr
    evidence = evidence_of(tmp_path, **other, search_dir=str(extended))
    said = evidence.answers()["hyperparameter_transfer"]["sentence"]
    assert said.endswith(f"The searches are of another run: {extended.name}, on digits.")
    table = evidence.other_search()
    assert table["target"].tolist() == [*ARCHITECTURES, "all"]
    assert (table["quotient"] != 1).all()
    assert evidence_of(extended, **STUDY, transfer_extra_sources=ALL_EXTRA).other_search().empty


@pytest.mark.parametrize(
    ("search_dir", "dataset", "said"),
    [
        (None, "digits", "this run's own search, on digits"),
        ("there", "digits", "another run, there, on the same data set, digits"),
        ("there", "mnist", "on **digits**, and are trained here on **mnist**"),
    ],
)
def test_the_report_says_on_which_data_hyperparameters_were_chosen(tmp_path, search_dir, dataset, said) -> None:
    here, there = RunFiles(tmp_path / "here"), RunFiles(tmp_path / "there")
    for files in (here, there):
        searched = {"dataset": "digits", "architectures": {"list": [[4]]}}
        write_yaml(files.meta, {"parameters": searched, "phases": {}})
    path = str(tmp_path / search_dir) if search_dir else None
    settings = settings_of("transfer", search_dir=path, dataset=dataset)
    study = Study(settings, here, (), "", refusing())
    assert said in Session("transfer", settings, here, study).source_note()
