"""Thousands of generated wrong inputs are refused in a line or two, and nothing is made; right ones are accepted."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from study import FIXED, command, in_this_process

from mlp_lib import __main__
from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import HYPERPARAMETERS, MAX_SEED
from mlp_lib.run import parsing
from mlp_lib.run.files import ROOT, read_yaml
from mlp_lib.run.meta import continue_run
from mlp_lib.run.parameters import DEFAULTS, PARAMETERS
from mlp_lib.run.parsing import PARAMS, check_all, merge

# --- wrong values, parameter by parameter ---------------------------------------------------------------------------

NOT_FINITE = st.sampled_from([float("nan"), float("inf"), float("-inf")])
HUGE = st.integers(10**10, 10**400)
NEGATIVE = st.integers(-(10**20), -1)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: not value.is_integer())
WORDS = st.text(st.characters(codec="utf-8"), max_size=30).filter(lambda text: not any(map(str.isdigit, text)))
NESTED = st.recursive(st.lists(WORDS, min_size=1, max_size=2), lambda inner: st.lists(inner, min_size=1, max_size=2))
MAPPINGS = st.dictionaries(st.sampled_from(["x", "lr", "grid "]), st.integers(), min_size=1)
NOTHING = st.just(None)
NO_NUMBER = NOT_FINITE | WORDS | NESTED | MAPPINGS | st.booleans()
NO_WHOLE = NO_NUMBER | FRACTIONS | HUGE | NEGATIVE
NO_TEXT = st.integers() | FRACTIONS | NOT_FINITE | NESTED | MAPPINGS | st.booleans()
BAD_LETTERS = st.sampled_from(["/", "\n", "\t", "\x1b[31m", "\x7f", " ", "ä", ":", "*", "\\", "'"])
NO_NAME = st.one_of(
    st.tuples(st.text("abc.-_", max_size=5), BAD_LETTERS, st.text("abc", max_size=5)).map("".join),
    st.integers(101, 400).map(lambda length: "x" * length),
    st.sampled_from(["", ".", "..", "../x", "/etc", "-x", "_x", ".hidden", "a/../b"]),
)


def no_choice(*allowed: Any) -> st.SearchStrategy:
    return (NO_WHOLE | NOTHING).filter(lambda value: value not in allowed)


def seeds_with(wrong: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.lists(st.integers(1, 9), max_size=3), wrong).map(lambda pair: [*pair[0], pair[1]])


NO_SEEDS = st.one_of(
    st.just([]),
    st.integers(),
    WORDS,
    seeds_with(NO_WHOLE),
    st.lists(st.integers(1, 3), min_size=4, max_size=8),  # three values: one is repeated
)
WRONG_WIDTHS = st.one_of(st.just([]), st.lists(NO_WHOLE | st.just(0), min_size=1, max_size=3), st.integers(), WORDS)
NO_ARCHITECTURES = st.one_of(
    NO_NUMBER,
    st.just({}),
    st.just({"list": []}),
    st.lists(st.integers(1, 99), min_size=1, max_size=3).map(lambda widths: {"list": [widths, widths]}),
    st.lists(st.integers(1, 99), min_size=1, max_size=3).map(lambda widths: {"grid": [widths, [*widths, widths[0]]]}),
    WRONG_WIDTHS.map(lambda widths: {"list": [[8], widths]}),
    WRONG_WIDTHS.map(lambda widths: {"grid": [[8], widths]}),
    st.just({"grid": [list(range(1, 101))] * 3}),
)


WRONG_CASES = st.tuples(
    st.sampled_from(["architecture", "members", "batch_size", "workers"]), NO_WHOLE | st.just(0)
).map(lambda wrong: [{"architecture": [8], "members": 2, "batch_size": 9, "workers": 1} | dict([wrong])])


def default_space() -> dict[str, dict[str, Any]]:
    return {name: dict(end) for name, end in DEFAULTS["search_space"].items()}


@st.composite
def wrong_space(draw: st.DrawFn) -> Any:
    """The default search space with one thing wrong."""
    space = default_space()
    name = draw(st.sampled_from(HYPERPARAMETERS))
    end = draw(st.sampled_from(["low", "high"]))
    match draw(st.integers(0, 5)):
        case 0:
            del space[name]
        case 1:
            space[draw(WORDS)] = space[name]
        case 2:
            space[name][end] = draw(NO_NUMBER | NOTHING | NEGATIVE | st.floats(1001, 1e300))
        case 3:
            space[name]["low"], space[name]["high"] = space[name]["high"], space[name]["low"]
        case 4:
            space[name]["distribution"] = draw(no_choice())
        case _:
            space[name] = draw(NO_WHOLE | NOTHING)
    return space


WHOLE = ("split_seed", "loader_workers", "batch_size", "max_epochs", "patience", "val_interval", "num_trials")
WHOLE += ("search_seed", "training_seed", "analysis_seed")
SWITCHES = ("deterministic", "mixed_devices", "save_checkpoints", "same_trials_for_all_architectures")
CHOICES = ("device", "dataset", "matmul_precision", "parts", "contenders", "parametrization", "search_method")
NO_PLACE = NO_TEXT | st.sampled_from(["", "a\0b", "a\nb", "x" * 5000])
WRONG: dict[str, st.SearchStrategy] = {
    **dict.fromkeys(CHOICES, no_choice()),
    **dict.fromkeys(WHOLE, NO_WHOLE | NOTHING),
    **dict.fromkeys(SWITCHES, (NO_WHOLE | NOTHING).filter(lambda value: not isinstance(value, bool))),
    **dict.fromkeys(("retrain_seeds", "transfer_seeds"), NO_SEEDS | seeds_with(st.just(0))),  # the training seed
    "seeds": NO_SEEDS | NOTHING | seeds_with(st.just(0)),
    "grid_seeds": NO_SEEDS | NOTHING,
    "grid_points": NO_WHOLE | NOTHING | st.sampled_from([0, 1, 10_001]),
    "validation_size": NO_WHOLE | st.integers(60000, 10**9) | st.just(0),
    "workers": no_choice("auto") | st.just(0),
    "preload": no_choice(False),
    "search_budget": no_choice("auto") | st.just(0) | st.integers(16, 10**9),  # half of the 30 trials are 15
    "base_width": NO_WHOLE | NOTHING | st.just(0) | st.integers(65537, 10**9),
    "transfer_extra_sources": st.integers() | WORDS | NOTHING | st.lists(WORDS, min_size=1, max_size=3),
    "project_name": NO_TEXT | NO_NAME | NOTHING,
    "data_root": NO_PLACE | NOTHING,
    **dict.fromkeys(("search_dir", "compare_with", "scheduler"), NO_PLACE),
    "search_space": wrong_space() | NO_WHOLE | NOTHING,
    "architectures": NO_ARCHITECTURES | NOTHING,
    "margin": NO_NUMBER | NOTHING | NEGATIVE | st.floats(10.1, 1e300) | st.just(0),
    "confidence": NO_NUMBER | NOTHING | NEGATIVE | st.floats(1, 1e300) | st.just(0),
    "benchmark_rounds": NO_WHOLE | NOTHING | st.just(0),
    "benchmark_methods": NO_SEEDS | NOTHING | st.lists(WORDS, min_size=1, max_size=3),
    "benchmark_cases": WRONG_CASES | NO_WHOLE | NOTHING,
}


def test_every_parameter_has_its_wrong_values() -> None:
    assert set(WRONG) == set(PARAMETERS)


@st.composite
def wrong_option(draw: st.DrawFn) -> list[str]:
    """A right name with a wrong value, or a name that there isn't, as -p."""
    if draw(st.integers(0, 5)) == 0:
        name = draw(WORDS | st.sampled_from(PARAMETERS).map(lambda name: name[:-1] + "x")).lstrip("-")
        return [] if name in PARAMETERS else ["-p", name, "1"]
    name = draw(st.sampled_from(PARAMETERS))
    return ["-p", name, yaml.safe_dump(draw(WRONG[name]), default_flow_style=True, allow_unicode=True)]


TAGS = ["!!python/object/apply:os.system ['touch made']", "!!python/name:os.system", "!!python/object/new:set [[1]]"]
TAGS += ["!!int ''", "!!bool maybe", "!!float x", "!!binary x", "!!timestamp x", "!x {a: 1}", "!!python/module:os"]
TAGS += ["!!python/object/apply:pathlib.Path.touch [made]"]
NAMES = st.sampled_from(PARAMETERS)


@st.composite
def wrong_text(draw: st.DrawFn) -> bytes:
    """A file that isn't strict, safe YAML of parameters, in UTF-8."""
    name, value = draw(NAMES), draw(st.integers(1, 9))
    depth = draw(st.integers(1000, 1500))
    texts = [
        f"{name}: {value}\n{name}: {value}",
        f"{name}: {value}\n'{name}': {value}",
        f"search_space: {{lr: {{low: {value}, low: {value}}}}}",
        f"{name}: {draw(st.sampled_from(TAGS))}",
        draw(st.sampled_from(TAGS)),
        f"{name}: " + "[" * depth,
        f"{name}: " + "[" * depth + "]" * depth,
        f"{name}: " + "{a: " * depth + "1" + "}" * depth,
        f"{name}: &a [*a]",
        f"{name}: *nowhere",
        f"<<: {{{name}: {value}}}\nbatch: 1",
        f"{name}: {value}\n---\n{name}: {value}",
        f"{name}:\n\t- {value}",
        f"{value}: {name}",
        f"[{name}, {value}]",
        f"{name}",
        f"? [{name}]\n: {value}",
        f"{name}: '{value}",
        f"{name}: \x01",
    ]
    return draw(st.sampled_from(texts)).encode()


WRONG_BYTES = st.one_of(
    st.tuples(NAMES, st.binary(min_size=1, max_size=20)).map(lambda pair: pair[0].encode() + b": \xff\xfe" + pair[1]),
    NAMES.map(lambda name: f"{name}: ü".encode("latin-1")),
    NAMES.map(lambda name: f"{name}: 1".encode("utf-32")),
    st.binary(min_size=1, max_size=50).map(lambda content: b"\x80" + content),
)
WRONG_RUN_NAME = NO_NAME.filter(lambda name: not name.startswith("-"))


# --- refusing -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of params/ are read once, the working directory is empty."""
    known = functools.lru_cache(read_yaml)
    monkeypatch.setattr(parsing, "read_yaml", lambda path: (known if path.parent == PARAMS else read_yaml)(path))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(__main__, "make_run_directory", lambda *arguments: pytest.fail(f"accepted: {arguments}"))


def check_refusal(code: int, out: str, err: str, root: Path) -> None:
    assert code == 2, err
    assert out == ""
    assert err.startswith("mlp_lib: ")
    assert len(err.splitlines()) <= 2
    assert len(err) < 1000
    assert "Traceback" not in err
    assert not root.exists()
    assert not list(Path.cwd().iterdir())  # nothing was executed


def refuse(capsys: pytest.CaptureFixture, tmp_path: Path, *arguments: str) -> str:
    root = tmp_path / "runs"
    code = in_this_process("run", *arguments, "--runs-root", root)
    out, err = capsys.readouterr()
    check_refusal(code, out, err, root)
    return err


def generated(number: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=checks,
        phases=[Phase.generate],
    )


@generated(1100)
@given(option=wrong_option().filter(bool))
def test_wrong_options(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    refuse(capsys, tmp_path, *option)


@generated(400)
@given(content=wrong_text())
def test_wrong_files(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    refuse(capsys, tmp_path, "-f", str(tmp_path / "my.yaml"))


@generated(200)
@given(content=WRONG_BYTES)
def test_wrong_encodings(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    refuse(capsys, tmp_path, "-f", str(tmp_path / "my.yaml"))


@generated(300)
@given(name=WRONG_RUN_NAME)
def test_wrong_run_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    refuse(capsys, tmp_path, "--run-name", name)


GRID, CONSENSUS = {"search_method": "grid"}, {"transfer_extra_sources": "[consensus]"}
REPLICATION = "executed/reference/replication"  # 60 trials of the run seed 100
ON_CUDA = {"device": "cpu", "preload": "cuda"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ON_CUDA, "-p preload: preload = 'cuda': needs a training device of cuda, not cpu"),
        ({"preload": "cuda"}, "preload = auto follows the device"),
        ({"device": "cuda"}, "device = auto takes one when there is one"),
        (ON_CUDA | {"scheduler": "tcp://127.0.0.1:9"}, "not cpu; preload = auto"),
        ({"training_seed": 3}, "should not hold the training_seed 3"),
        (GRID, "grid_points = 9: should give at most 10000 trials, not 4782969: 9 values each of lr, beta1, beta2"),
        (GRID | {"search_space": str(FIXED), "grid_seeds": "[2, 101]"}, "should not hold the grid_seeds 2"),
        ({"num_trials": 3, "search_budget": 2}, "at most half of num_trials (3), so at most 1, or auto"),
        ({"num_trials": 1, "search_budget": 2}, "at most half of num_trials (1), so at most 1, or auto"),
        (CONSENSUS | {"same_trials_for_all_architectures": "false"}, "needs same_trials_for_all_architectures = true"),
        (CONSENSUS | {"architectures": "{list: [[8]]}"}, "consensus needs two architectures or more"),
        ({"search_dir": "executed/example", "search_budget": 7}, "at most half of num_trials (12), so at most 6"),
        ({"search_dir": REPLICATION, "seeds": "[100, 101]"}, "should not hold the training_seed 100, which chose"),
        ({"compare_with": "[executed/example, executed/../executed/example]"}, "here example, example: rename one"),
        ({"search_dir": "executed/example"}, "search_dir = executed/example: its search has no 120x204x408, 160x"),
        ({"search_dir": "nowhere/x"}, f"search_dir = nowhere/x: no search there (none in {ROOT / 'nowhere/x'})"),
        ({"compare_with": "nowhere/x"}, f"compare_with = nowhere/x: no search there (none in {ROOT / 'nowhere/x'})"),
        ({"compare_with": "[executed/example, nowhere/x]"}, "compare_with = nowhere/x: no search there"),
    ],
)
def test_parameters_that_do_not_go_together(
    options: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is trained, whichever phase needs it; a dry run says so too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [word for name, value in options.items() for word in ("-p", name, str(value))]
    assert said in refuse(capsys, tmp_path, *arguments)
    assert said in refuse(capsys, tmp_path, *arguments, "--dry-run")


def test_later_files_and_options_win_over_earlier_ones_and_the_profile(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("patience: 11\nmax_epochs: 22\nval_interval: 3\nproject_name: a\n")
    (tmp_path / "b.yaml").write_text("max_epochs: 33\nval_interval: 5\n")
    merged = merge("quick", [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")], [("val_interval", "6")])
    found = check_all(merged)
    names = ("dataset", "project_name", "patience", "max_epochs", "val_interval")
    assert [found[name] for name in names] == ["digits", "a", 11, 33, 6]


def test_what_goes_together_is_asked_of_what_is_stored_and_not_of_defaults() -> None:
    given = [("search_budget", "25"), ("seeds", "[0, 11, 12, 13, 14, 15]")]
    merged = continue_run(ROOT / REPLICATION, merge(None, [], given))
    assert check_all(merged)["transfer_seeds"] == [0, 11, 12, 13, 14, 15]
    with pytest.raises(SettingsError, match="search_budget = 31: should be at most half of num_trials"):
        check_all(continue_run(ROOT / REPLICATION, merge(None, [], [("search_budget", "31")])))


# --- the real command -----------------------------------------------------------------------------------------------


def cases_for_the_command(folder: Path) -> list[list[str]]:
    """Forty of them, drawn from the same strategies, as far as an operating system can pass them."""
    drawn: list[list[str]] = []

    def collect(strategy: st.SearchStrategy, number: int, make: Callable[[Any], list[str]]) -> None:
        @generated(number)
        @given(value=strategy)
        def take(value: Any) -> None:
            drawn.append(make(value))

        take()

    def file_with(content: bytes) -> list[str]:
        path = folder / f"{len(drawn)}.yaml"
        path.write_bytes(content)
        return ["-f", str(path)]

    collect(wrong_option().filter(lambda option: option and "\0" not in "".join(option)), 20, list)
    collect(wrong_text(), 8, file_with)
    collect(WRONG_BYTES, 4, file_with)
    collect(WRONG_RUN_NAME, 8, lambda name: ["--run-name", name])
    return drawn


def test_forty_wrong_inputs_to_the_command(tmp_path: Path) -> None:
    cases = cases_for_the_command(tmp_path)
    assert len(cases) == 40
    root, empty = tmp_path / "runs", tmp_path / "empty"
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda case: command("run", *case, "--runs-root", root, cwd=empty), cases))
    for case, done in zip(cases, ended, strict=True):
        assert done.args[3:-2] == ["run", *case]
        check_refusal(done.returncode, done.stdout, done.stderr, root)


# --- accepting ------------------------------------------------------------------------------------------------------

SEED = st.integers(0, MAX_SEED)
SEEDS = st.lists(st.integers(1, MAX_SEED), min_size=1, max_size=6, unique=True)
COUNT = st.integers(1, 10**9) | st.sampled_from(["1e3", "2E+2", "1e0"])  # as YAML 1.1 reads them: text
COUNT_SMALL = st.integers(1, 1000)
WIDTHS = st.lists(st.integers(1, 65536), min_size=1, max_size=5, unique=True)
RUN = st.sampled_from(["executed/x", "/runs/x/search"])
BOUNDS = {"lr": (1e-9, 1e3), "eps": (1e-12, 1.0), "weight_decay": (1e-9, 1e3)}
BOUNDS |= {"beta1": (0.0, 0.999), "beta2": (0.0, 0.999), "dropout": (0.0, 0.999), "leaky_relu_alpha": (0.0, 1.0)}


@st.composite
def right_space(draw: st.DrawFn) -> dict[str, Any]:
    space = {}
    for name, (low, high) in BOUNDS.items():
        ends = sorted(draw(st.tuples(st.floats(low, high), st.floats(low, high))))
        choices = ["uniform", "log_uniform"] if low else ["uniform"]
        space[name] = {"distribution": draw(st.sampled_from(choices)), "low": ends[0], "high": ends[1]}
    return space


ARCHITECTURES = st.one_of(
    st.lists(st.lists(st.integers(1, 65536), min_size=1, max_size=5), min_size=1, max_size=5, unique_by=tuple).map(
        lambda widths: {"list": widths}
    ),
    st.lists(WIDTHS, min_size=1, max_size=3).map(lambda grid: {"grid": grid}),
)
RIGHT: dict[str, st.SearchStrategy] = {
    **dict.fromkeys(("batch_size", "max_epochs", "patience", "val_interval"), COUNT),
    **dict.fromkeys(("split_seed", "search_seed", "analysis_seed"), SEED),
    **dict.fromkeys(("seeds", "retrain_seeds", "transfer_seeds", "grid_seeds"), SEEDS),
    "grid_points": st.integers(2, 10_000),
    **dict.fromkeys(SWITCHES, st.booleans()),
    "training_seed": st.just(0),
    "loader_workers": st.integers(0, 256),
    "num_trials": st.integers(1, 10**6),
    "validation_size": st.none() | st.integers(1, 59999),
    "workers": st.just("auto") | st.integers(1, 1024),
    "scheduler": st.sampled_from([None, "tcp://127.0.0.1:8786", "tls://host:8786", "scheduler.json"]),
    "device": st.sampled_from(["auto", "cpu"]),
    "dataset": st.sampled_from(["mnist", "fashion_mnist", "kmnist", "qmnist"]),
    "preload": st.sampled_from(["auto", "cpu", False]),
    "matmul_precision": st.sampled_from(["highest", "high", "medium", "auto"]),
    "parts": st.sampled_from(["all", "search"]),
    "contenders": st.sampled_from(["auto", "chosen"]),
    "search_budget": st.sampled_from(["auto", 1]),  # what any number of trials allows
    "parametrization": st.sampled_from(["standard", "mup", "mup_independent_decay", "standard_by_layer"]),
    "search_method": st.sampled_from(["random", "sobol", "successive_halving"]),  # a grid may be too large
    "base_width": st.integers(1, 65536),
    "transfer_extra_sources": st.lists(st.sampled_from(["cheapest", "median", "default"]), unique=True),
    "project_name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
    "data_root": st.sampled_from(["data", "/data", "~/data", "a b/ü"]),
    "search_dir": st.none() | RUN,
    "compare_with": st.none() | RUN | st.lists(RUN, min_size=1, unique=True),
    "search_space": right_space(),
    "architectures": ARCHITECTURES,
    "margin": st.floats(1e-9, 10) | st.just("1e-2"),
    "confidence": st.floats(0.5, 0.999),
    "benchmark_rounds": st.integers(1, 1000),
    "benchmark_methods": st.lists(st.sampled_from(["plain", "population"]), min_size=1, unique=True),
    "benchmark_cases": st.lists(
        st.fixed_dictionaries(
            {"architecture": WIDTHS, "members": COUNT_SMALL, "batch_size": COUNT_SMALL, "workers": COUNT_SMALL}
        ),
        min_size=1,
        max_size=3,
        unique_by=str,
    ),
}


@generated(500)
@given(values=st.fixed_dictionaries({}, optional=RIGHT))
def test_right_parameters_are_accepted(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    parsed = check_all(merge(None, [str(tmp_path / "my.yaml")], []))
    assert set(RIGHT) == set(PARAMETERS)
    for name, value in values.items():
        if not isinstance(value, (str, dict)):
            assert parsed[name] == value
