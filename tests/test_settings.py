"""Every parameter is parsed strictly, and a refusal says what was found where and what is allowed."""

import copy
from typing import Any

import pytest
import yaml

from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.run.parameters import DEFAULTS, NOTEBOOK_SETTINGS, PARAMETERS, PHASES, ArchitectureChoice
from mlp_lib.run.parsing import check_names, describe_seeds, parse

NAN, INF = float("nan"), float("inf")


def phase_of(name: str) -> str:
    return next(phase for phase, kind in NOTEBOOK_SETTINGS.items() if name in kind.model_fields)


def parsed(phase: str, **changes: Any) -> Any:
    return parse(NOTEBOOK_SETTINGS[phase], changes, "my.yaml")


def refusal(phase: str, **changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        parsed(phase, **changes)
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    words = ("Traceback", "pydantic", "literal[", "tuple", "dictionary", "Input")
    assert not [word for word in words if word in message]
    return message


def space(**changes: Any) -> dict[str, Any]:
    """The default search space with some ranges changed key by key."""
    ranges = copy.deepcopy(DEFAULTS["search_space"])
    for name, change in changes.items():
        ranges[name] = ranges[name] | change if isinstance(change, dict) and name in ranges else change
    return ranges


ONE_TO_A_BILLION = "a whole number from 1 to 1000000000"
SEED = "a whole number from 0 to 4294967295"
SEEDS = "a list of 1 to 100000 values (such as [1, 2, 8])"
ALLOWED = {
    **dict.fromkeys(("batch_size", "max_epochs", "patience", "val_interval"), ONE_TO_A_BILLION),
    **dict.fromkeys(("split_seed", "search_seed", "training_seed", "analysis_seed"), SEED),
    **dict.fromkeys(("deterministic", "mixed_devices", "save_checkpoints"), "true or false"),
    **dict.fromkeys(("scheduler", "search_dir"), "a line of text or null"),
    **dict.fromkeys(("seeds", "grid_seeds"), SEEDS),
    **dict.fromkeys(("retrain_seeds", "transfer_seeds"), f"{SEEDS} or null"),
    "project_name": "letters, digits",
    "device": "auto, cpu or cuda",
    "dataset": "mnist, fashion_mnist, kmnist, qmnist or digits",
    "data_root": "a line of text",
    "preload": "auto, cuda, cpu or false",
    "validation_size": f"{ONE_TO_A_BILLION} or null",
    "loader_workers": "a whole number from 0 to 256",
    "workers": "a whole number from 1 to 1024 or auto",
    "matmul_precision": "highest, high, medium or auto",
    "parametrization": "standard, mup, mup_independent_decay or standard_by_layer",
    "base_width": "a whole number from 1 to 65536",
    "search_space": f"a mapping of {', '.join(HYPERPARAMETERS)}; give the whole of it, as in params/search_space.yaml",
    "architectures": "a mapping of grid, list (such as {list: [[256, 128], [64]]})",
    "search_method": "random, sobol, successive_halving or grid",
    "grid_points": "a whole number from 2 to 10000",
    "num_trials": "a whole number from 1 to 1000000",
    "same_trials_for_all_architectures": "true or false",
    "transfer_extra_sources": "a list of 0 to 4 values (such as [cheapest, median])",
    "search_budget": f"auto or {ONE_TO_A_BILLION}",
    "contenders": "auto or chosen",
    "margin": "a number above 0 and at most 10",
    "confidence": "a number at least 0.5 and below 1",
    "compare_with": "a line of text or a list of 1 to 20 values or null",
    "parts": "all or search",
    "benchmark_cases": "a list of 1 to 1000 values",
    "benchmark_methods": "a list of 1 to 10 values (such as [plain, population])",
    "benchmark_rounds": "a whole number from 1 to 1000",
}


def test_every_parameter_is_tested():
    assert set(ALLOWED) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, 10**400, 0.5j, "\n", object], ids=repr)
def test_what_no_parameter_allows(name: str, value: Any):
    message = refusal(phase_of(name), **{name: value})
    if value == "\n" and f"{name}[0]" in message:  # a word may stand for a list of one
        assert name in ("transfer_extra_sources", "benchmark_methods")
        return
    assert message.startswith(f"my.yaml: {name} = ")
    assert ALLOWED[name] in message


def test_a_benchmark_case_is_given_once() -> None:
    case = {"architecture": [8], "members": 2, "batch_size": 32, "workers": 1}
    assert "benchmark_cases" in refusal("benchmark", benchmark_cases=[case, case])


WRONG = {
    "batch_size max_epochs patience val_interval": ("12", 1.5, 4.0, True, 0, None),
    "split_seed search_seed training_seed analysis_seed": (True, "x", 2**32, 0.0),
    "deterministic mixed_devices save_checkpoints same_trials_for_all_architectures": (0, 1, "yes", "true", None, []),
    "device dataset matmul_precision parametrization search_method parts": ("", "gpu", None, 0, True, ["cpu"]),
    "preload": (0, 0.0, True, None, "False", "gpu", []),
    "workers": (0, True, "many", 1025, 2.0, None),
    "loader_workers": (257, True, "auto"),
    "validation_size": (0, "null", 0.1, False),
    "project_name": ("", ".hidden", "a/b", "a b", "x" * 101, 3, None, "name\n"),
    "data_root": ("", 3, None, "a\0b", "x" * 4097),
    "search_dir": ("", 3, False),
    "compare_with": ("", 3, False, [], ["a", "a"], ["a", ""], ["a", 3], {"a": 1}),
    "grid_points": (1, 10**4 + 1, True, "9", 4.5, None),
    "margin": (0, 10.1, True, "5%", None),
    "confidence": (0, 0.3, 1, 95, True, None),
    "num_trials": (0, 10**6 + 1, True, "30"),
    "retrain_seeds transfer_seeds": ([], 5, "12", {1: 2}),
    "seeds grid_seeds": ([], 5, "12", {1: 2}, None),
    "search_space architectures": (None, [], 3, "x", True),
}
CASES = [(name, value) for names, values in WRONG.items() for name in names.split() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=repr)
def test_wrong_values(name: str, value: Any):
    message = refusal(phase_of(name), **{name: value})
    assert message.startswith(f"my.yaml: {name} = {value!r}"[:60])
    assert ALLOWED[name] in message


WIDTH = "a whole number from 1 to 65536"
WIDTHS = "a list of 1 to 64 values (such as [256, 128])"
NUMBER = "architectures: grid and list should give 1 to 100000 architectures"
CHOICES = "a list of 1 to any number of values (such as [32, 64])"


def test_grid_and_list_are_joined():
    choice = ArchitectureChoice(grid=[[32, 64], [8]], list=[[5]])
    assert [a.name for a in choice.architectures] == ["mlp_32x8", "mlp_64x8", "mlp_5"]
    widths = [[256, 128], [64]]
    assert parsed("search", architectures=widths) == parsed("search", architectures={"list": widths})


REFUSED = {
    "retrain_seeds": [
        ([1, 2, 1], "retrain_seeds = [1, 2, 1]: should not repeat 1"),
        ([1, -2], f"retrain_seeds[1] = -2: should be {SEED}"),
        ([1, True], f"retrain_seeds[1] = True: should be {SEED}"),
        ([1.0], f"retrain_seeds[0] = 1.0: should be {SEED}"),
        (["1"], f"retrain_seeds[0] = '1': should be {SEED}"),
        ([NAN], f"retrain_seeds[0] = nan: should be {SEED}"),
    ],
    "architectures": [
        ({}, f"{NUMBER}, not 0"),
        ({"grid": [], "list": []}, f"{NUMBER}, not 0"),
        ({"grid": [list(range(1, 101))] * 3}, f"{NUMBER}, not 1000000"),
        ({"grid": [[]]}, f"architectures.grid[0] = []: should be {CHOICES}"),
        ({"grid": [[32], []]}, f"architectures.grid[1] = []: should be {CHOICES}"),
        ({"list": [[]]}, f"architectures.list[0] = []: should be {WIDTHS}"),
        ({"list": [[32], [16], [32]]}, "architectures: should not repeat mlp_32"),
        ({"grid": [[32], [16, 16]]}, "architectures: should not repeat mlp_32x16"),
        ({"grid": [[32], [16]], "list": [[32, 16]]}, "architectures: should not repeat mlp_32x16"),
        ({"list": [32]}, f"architectures.list[0] = 32: should be {WIDTHS}"),
        ([32, 16], f"architectures.list[0] = 32: should be {WIDTHS}"),
        (["12x"], f"architectures.list[0] = '12x': should be {WIDTHS}"),
        ({"list": [[32, 0]]}, f"architectures.list[0][1] = 0: should be {WIDTH}"),
        ({"list": [[True]]}, f"architectures.list[0][0] = True: should be {WIDTH}"),
        ({"grid": [[16.0]]}, f"architectures.grid[0][0] = 16.0: should be {WIDTH}"),
        ({"grid": [[NAN]]}, f"architectures.grid[0][0] = nan: should be {WIDTH}"),
        ({"lists": [[32]]}, "unknown name architectures.lists; did you mean list?"),
    ],
    "search_space": [
        (space(lr={"low": 0.1, "high": 0.01}), "search_space.lr: low (0.1) should not be above high (0.01)"),
        (space(lr={"low": 0}), "search_space.lr: low (0.0) of a log_uniform range should be above 0"),
        (space(lr={"low": NAN}), "search_space.lr.low = nan: should be a finite number"),
        (space(eps={"high": INF}), "search_space.eps.high = inf: should be a finite number"),
        (space(lr={"low": "small"}), "search_space.lr.low = 'small': should be a finite number"),
        (space(lr={"low": True}), "search_space.lr.low = True: should be a finite number"),
        (space(lr={"high": 5000}), "search_space: lr.high = 5000.0 should be less than or equal to 1000"),
        (space(dropout={"high": 1}), "search_space: dropout.high = 1.0 should be less than 1"),
        (space(beta1={"low": -0.1}), "search_space: beta1.low = -0.1 should be greater than or equal to 0"),
        (space(lr={"distribution": "x"}), "search_space.lr.distribution = 'x': should be log_uniform or uniform"),
        (space(lr={"lo": 1}), "unknown name search_space.lr.lo; did you mean low?"),
        (
            space(lr=0.1),
            "search_space.lr = 0.1: should be a mapping of distribution, low, high (such as "
            "{distribution: log_uniform, high: 0.01, low: 0.0001})",
        ),
        (space(drop_out=0.1), "unknown name search_space.drop_out; did you mean dropout?"),
        ({"lr": space()["lr"]}, "search_space.beta1 is missing; give the whole of it, as in params/search_space.yaml"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "message"), [(name, *case) for name, cases in REFUSED.items() for case in cases], ids=repr
)
def test_what_is_refused_is_said_in_full(name: str, value: Any, message: str):
    assert refusal(phase_of(name), **{name: value}) == f"my.yaml: {message}"


def test_validation_must_leave_training_data():
    message = refusal("search", validation_size=60000)
    assert "validation_size = 60000 should be below the 60000 training images" in message
    assert "1437 training images of digits" in refusal("search", dataset="digits", validation_size=10000)
    assert parsed("search", dataset="digits", validation_size=None).validation_size is None


def test_seeds_are_those_of_both_phases_unless_one_is_given():
    assert parsed("retrain", seeds=[7, 8]).retrain_seeds == parsed("transfer", seeds=[7, 8]).transfer_seeds == (7, 8)
    assert parsed("retrain", seeds=[7, 8], retrain_seeds=[9]).retrain_seeds == (9,)
    uneven = {"retrain_seeds": [9], "transfer_seeds": [7, 8], "seeds": [7, 8]}
    assert describe_seeds(uneven).startswith("retrain_seeds = [9], transfer_seeds = [7, 8]: ")
    assert describe_seeds(uneven | {"transfer_seeds": [9]}) == describe_seeds({"retrain_seeds": [9]}) == ""


def test_a_word_stands_for_a_list_of_one():
    assert parsed("transfer", transfer_extra_sources="cheapest").transfer_extra_sources == ("cheapest",)
    assert refusal("transfer", transfer_extra_sources="cheap").startswith(
        "my.yaml: transfer_extra_sources[0] = 'cheap': should be cheapest, median"
    )


def test_unknown_key_comes_with_the_nearest_name():
    assert refusal("search", num_trial=3) == "my.yaml: unknown name num_trial; did you mean num_trials?"
    told = {"batchsize": r"'batchsize'; did you mean batch_size\?", "zzz": "'zzz'; allowed: .*, confidence,", 3: "3"}
    for name, said in told.items():
        with pytest.raises(SettingsError, match=f"my.yaml: unknown parameter {said}"):
            check_names({name: 1}, "my.yaml")
    for name, whole in (("lr", "search_space"), ("list", "architectures")):
        with pytest.raises(SettingsError, match=f"a part of {whole}: give the whole of it, as in params/{whole}.yaml"):
            check_names({name: 1}, "-p")
    check_names(dict.fromkeys(PARAMETERS), "my.yaml")
    check_names({"run_dir": "x"}, "my.yaml", also=("run_dir",))
    with pytest.raises(SettingsError, match="unknown parameter 'runs_root'; give it as --runs-root"):
        check_names({"runs_root": "x"}, "my.yaml")


def test_a_misspelled_key_is_told_before_the_one_it_leaves_missing():
    ranges = space(dropuot=space()["dropout"])
    del ranges["dropout"]
    assert refusal("search", search_space=ranges).endswith("unknown name search_space.dropuot; did you mean dropout?")


def test_the_file_of_each_parameter_is_named():
    where = {"margin": "a.yaml", "confidence": "-p"}
    values = {n: DEFAULTS[n] for n in PHASES["analysis"].model_fields}
    with pytest.raises(SettingsError, match=r"a.yaml: margin = 0: "):
        parse(PHASES["analysis"], values | {"margin": 0}, where)
    with pytest.raises(SettingsError, match="-p: confidence = 2: "):
        parse(PHASES["analysis"], values | {"confidence": 2}, where)
    values = {n: DEFAULTS[n] for n in PHASES["search"].model_fields} | {"validation_size": 70000}
    with pytest.raises(SettingsError, match=r"b.yaml: validation_size = 70000"):
        parse(PHASES["search"], values, {"validation_size": "b.yaml", "dataset": "c.yaml"})


def test_a_huge_value_is_cut():
    assert len(refusal("retrain", retrain_seeds=list(range(1000)) * 2)) < 200


def test_exponents_that_yaml_reads_as_text_are_numbers():
    written = yaml.safe_load("{low: 1e-3, high: 1E+0, dot: 1.0e-3}")
    assert written["low"] == "1e-3"
    assert parsed("search", search_space=space(lr={"low": "1e-3", "high": "1E+0"})).search_space.lr.low == 1e-3
    assert parsed("analysis", margin="1e-2").margin == 0.01
    assert parsed("search", batch_size="1e3", num_trials="2e1").batch_size == 1000
    assert parsed("retrain", retrain_seeds=["1e1", 2]).retrain_seeds == (10, 2)
    assert parsed("search", validation_size="1e2", workers="2e0").workers == 2
    assert parsed("search", architectures={"list": [["1e1"]]}).architectures.architectures[0].widths == (10,)
    assert parsed("search", project_name="1e3").project_name == "1e3"
    for value in ("1e-3", "1.5e0", "1e999"):
        assert f"batch_size = {float(value)}: should be" in refusal("search", batch_size=value)
    for value in ("nan", "inf", "1", "1_0e2", "e3", " 1e3", "0x1e3", "01e3"):
        assert "batch_size = " in refusal("search", batch_size=value)


def test_old_numbers_are_refused_with_the_reason():
    """As text, however it came: of YAML, by papermill's -p or -r, or in quotes in JupyterLab."""
    reason = "; a number has no leading zeros, colons or underscores"
    for value in ("010", "1:30", "1_000", "0x10", "01e1"):
        assert refusal("search", num_trials=value).endswith(reason)
        assert refusal("search", architectures={"list": [[value]]}).endswith(reason)
        assert refusal("analysis", margin=value).endswith(reason)
    for name, value in (("num_trials", "yes"), ("num_trials", "1"), ("deterministic", "010"), ("project_name", "1:30")):
        assert not refusal("search", **{name: value}).endswith(reason)


def test_numbers_and_types_keep_their_kind():
    assert isinstance(parsed("analysis", margin=1).margin, float)
    assert parsed("search", preload=False).preload is False
    assert isinstance(parsed("search").batch_size, int)


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        parsed("analysis").margin = 1
    with pytest.raises(AttributeError):
        Architecture((3,)).widths = (4,)


@pytest.mark.parametrize("name", HYPERPARAMETERS)
@pytest.mark.parametrize("value", [NAN, INF, -0.1, 1e4, "x", True, None])
def test_hyperparameters(name: str, value: Any):
    good = Hyperparameters().model_dump()
    assert parse(Hyperparameters, good, "h").lr == 1e-3
    with pytest.raises(SettingsError, match=f"h: {name} = .*: should be a number "):
        parse(Hyperparameters, good | {name: value}, "h")


@pytest.mark.parametrize("widths", [(1,), (32,), (252, 32, 16), (1, 65536, 3, 3)])
def test_architecture_names(widths: tuple[int, ...]):
    architecture = Architecture(widths)
    assert architecture.name == "mlp_" + "x".join(str(w) for w in widths)
    assert Architecture.from_name(architecture.name) == architecture


def test_count_parameters_by_hand():
    assert Architecture((3,)).count_parameters(2) == (2 * 3 + 3) + (3 * 10 + 10)
    assert Architecture((3, 5)).layer_sizes(2) == [(2, 3), (3, 5), (5, 10)]
