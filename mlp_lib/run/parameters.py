"""The parameters of a study, each told once: kind, default, description, and what a change means for a run on disk."""

import itertools
import math
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)

from mlp_lib.core.values import (
    FREE,
    GROWS,
    HYPERPARAMETERS,
    Architecture,
    Count,
    DataSettings,
    Flag,
    Hyperparameters,
    Real,
    Seed,
    Text,
    TrainingSettings,
    Whole,
    Width,
    _Exponent,
    _Frozen,
    told,
)

ANEW = "made anew"  # a change: what the phase writes is made again, and no training is another


def _refuse_repeats(values: tuple) -> tuple:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"should not repeat {repeated[0]}")
    return values


def _read_word(value: Any) -> Any:
    """A word stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _or_seeds(value: tuple | None, info: ValidationInfo) -> tuple | None:
    return info.data.get("seeds") if value is None else value


Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1, max_length=10**5, examples=[[1, 2, 8]]), AfterValidator(_refuse_repeats)
]
OwnSeeds = Annotated[Seeds | None, AfterValidator(_or_seeds), Field(validate_default=True)]  # null: `seeds`
MOST_POINTS = 10_000  # trials of a grid
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of a run's directory
NAME_RULE = "at most 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"
Name = Annotated[str, Field(strict=True, pattern=NAME, title=NAME_RULE)]


class Range(_Frozen):
    """The distribution that one hyperparameter is drawn from, both ends included."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"distribution": "log_uniform", "low": 0.0001, "high": 0.01}]}
    )
    distribution: Literal["log_uniform", "uniform"]
    low: Annotated[Real, _Exponent]
    high: Annotated[Real, _Exponent]

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) should not be above high ({self.high})")
        if self.distribution == "log_uniform" and self.low <= 0:
            raise ValueError(f"low ({self.low}) of a log_uniform range should be above 0")
        return self


class SearchSpace(create_model("_Ranges", __base__=_Frozen, **dict.fromkeys(HYPERPARAMETERS, (Range, ...)))):
    """A range for each of the seven hyperparameters."""

    @property
    def free(self) -> tuple[str, ...]:
        """The hyperparameters that are not fixed."""
        ranges = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return tuple(name for name, range_ in ranges.items() if range_.low < range_.high)

    @model_validator(mode="after")
    def _ends_are_allowed(self) -> "SearchSpace":
        for end in ("low", "high"):
            values = {name: getattr(getattr(self, name), end) for name in HYPERPARAMETERS}
            try:
                Hyperparameters(**values)
            except ValidationError as error:
                first = error.errors()[0]
                reason = first["msg"].removeprefix("Input ")
                raise ValueError(f"{first['loc'][0]}.{end} = {first['input']} {reason}") from None
        return self


Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=64, examples=[[256, 128]])]


class ArchitectureChoice(_Frozen):
    """The architectures of a study: every combination of the grid's widths, then the list."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"list": [[256, 128], [64]]}]})
    grid: tuple[Annotated[tuple[Width, ...], Field(min_length=1, examples=[[32, 64]])], ...] = ()
    list: tuple[Widths, ...] = ()

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        grid = itertools.product(*self.grid) if self.grid else ()
        return tuple(Architecture(tuple(widths)) for widths in (*grid, *self.list))

    @model_validator(mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        """Architectures alone are the list."""
        return {"list": value} if value and isinstance(value, (tuple, list)) else value

    @model_validator(mode="after")
    def _some_and_distinct(self) -> "ArchitectureChoice":
        size = len(self.list)
        if self.grid:
            size += math.prod(len(widths) for widths in self.grid)
        if not 1 <= size <= 10**5:
            raise ValueError(f"grid and list should give 1 to 100000 architectures, not {size}")
        _refuse_repeats(tuple(architecture.name for architecture in self.architectures))
        return self


# --- the parameters, by the phase that takes them


class NamedSettings(_Frozen):
    """What is kept has a name."""

    project_name: Name = told("mnist-mlp", "a name for the directories of runs and the reports", FREE, small="notebook")


class DeviceSettings(_Frozen):
    """What is trained has a device."""

    device: Literal["auto", "cpu", "cuda"] = told("auto", "auto: CUDA when there is one", FREE)


class StudySettings(TrainingSettings, DataSettings, DeviceSettings, NamedSettings):
    """What every phase that trains needs."""

    mixed_devices: Flag = told(
        False, "true: go on with a run that was begun on another device, or with another torch", FREE
    )
    workers: Annotated[Whole, Field(ge=1, le=1024), _Exponent] | Literal["auto"] = told(
        "auto", "processes; auto: one a core, on CUDA four at most", FREE
    )
    scheduler: Text | None = told(
        None, "a Dask scheduler whose workers train (tcp://HOST:8786, or its file); null: this machine", FREE
    )


_SPACE = {
    "lr": ("log_uniform", 1e-5, 3e-2),
    "beta1": ("uniform", 0.85, 0.99),
    "beta2": ("uniform", 0.9, 0.9999),
    "eps": ("log_uniform", 1e-9, 1e-6),
    "weight_decay": ("log_uniform", 1e-6, 1e-2),
    "dropout": ("uniform", 0.01, 0.5),
    "leaky_relu_alpha": ("uniform", 0.01, 0.1),
}
_SHAPES = "252-32-16 248-32-92 244-48-56 216-120-84 188-192-112 160-264-140 160-204-224 120-204-408"


class SearchSettings(StudySettings):
    """Phase 01: the search."""

    search_space: SearchSpace = told(
        SearchSpace(**{n: Range(distribution=d, low=low, high=high) for n, (d, low, high) in _SPACE.items()}),
        "a range for each of the seven hyperparameters; equal ends fix a value",
    )
    architectures: ArchitectureChoice = told(
        ArchitectureChoice(list=tuple(tuple(map(int, shape.split("-"))) for shape in _SHAPES.split())),
        "widths: a grid by layer, and a list\n"
        "Every combination of the grid, [[widths of layer 1], [widths of layer 2], ...], and what the list adds. The "
        "default: eight three-layer shapes of exactly 206,614 parameters each.",
        GROWS,
        small={"grid": [], "list": [[64], [32, 32], [64, 32, 16]]},
    )
    search_method: Literal["random", "sobol", "successive_halving", "grid"] = told(
        "random",
        "how trials are drawn, and dropped\n"
        "random: independent draws; sobol: a scrambled Sobol sequence, which covers the space more evenly; "
        "successive_halving: random draws of which the worse half is dropped at each rung, after max_epochs / 2^k "
        "epochs (a winner may peak late); grid: every combination of grid_points values of each range that is not "
        "fixed, the same on all architectures, in place of num_trials draws.",
    )
    grid_points: Annotated[Whole, Field(ge=2, le=MOST_POINTS), _Exponent] = told(
        9,
        "of a grid: values of each range that is not fixed\nEvenly spaced on the range's scale, both ends among them.",
    )
    grid_seeds: Seeds = told((101, 102, 103), "of a grid: run seeds of each trial; no other phase's", GROWS)
    num_trials: Annotated[Whole, Field(ge=1, le=10**6), _Exponent] = told(
        30, "hyperparameter draws an architecture", GROWS, small=8
    )
    search_seed: Seed = told(0, "decides the draws; with draws of its own, an architecture's depend on it too")
    training_seed: Seed = told(0, "run seed of every trial; no retrain seed")
    same_trials_for_all_architectures: Flag = told(True, "true: the same draws for all, as answers over searches need")

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The run seeds of every trial."""
        return self.grid_seeds if self.search_method == "grid" else (self.training_seed,)

    @model_validator(mode="after")
    def _grid_is_no_wall(self) -> "SearchSettings":
        trials = self.grid_points ** len(self.search_space.free)
        if self.search_method == "grid" and trials > MOST_POINTS:
            raise ValueError(
                f"grid_points = {self.grid_points}: should give at most {MOST_POINTS} trials, not {trials}: "
                f"{self.grid_points} values each of {', '.join(self.search_space.free)}; fix some of search_space "
                "(low == high), or take fewer points"
            )
        return self


class SeededSettings(StudySettings):
    """What the phases that train need. Later files and -p override these key by key."""

    seeds: Seeds = told(
        (1, 2, 3, 4, 5), "run seeds of 02 and 03, one training each; on a run they may only grow", FREE, small=[1, 2, 3]
    )


class RetrainSettings(SeededSettings):
    """Phase 02: the chosen hyperparameters trained again with fresh seeds."""

    retrain_seeds: OwnSeeds = told(None, "run seeds of 02 alone; null: seeds", GROWS)
    save_checkpoints: Flag = told(True, "keep each training's weights")


ExtraSource = Literal["cheapest", "median", "consensus", "default"]
ExtraSources = Annotated[
    tuple[ExtraSource, ...],
    Field(max_length=4, examples=[["cheapest", "median"]]),
    AfterValidator(_refuse_repeats),
    BeforeValidator(_read_word),
]


class TransferSettings(SeededSettings):
    """Phase 03: every architecture with every source's hyperparameters."""

    transfer_seeds: OwnSeeds = told(None, "run seeds of 03 alone; null: seeds", GROWS)
    transfer_extra_sources: ExtraSources = told(
        (),
        "more sources than the architectures: cheapest, median, consensus, default\n"
        "cheapest: chosen on the other architecture with the fewest parameters; median: of the others' chosen "
        "values; consensus: the trial that ranks best on the others (needs "
        "same_trials_for_all_architectures: true); default: torch's AdamW without dropout.",
        GROWS,
    )
    search_budget: Literal["auto"] | Count = told(
        "auto", "trials of a search that answers are about; auto: a third of num_trials", ANEW
    )
    contenders: Literal["auto", "chosen"] = told(
        "auto",
        "auto: train with every trial that such a search could choose\n"
        "Needs random trials that all architectures share; elsewhere auto means chosen: the architectures' own choices "
        "alone, which can't answer over searches.",
        ANEW,
    )
    search_dir: Text | None = told(
        None, "another run whose search gives the hyperparameters, also on other data; null: this run's"
    )


Runs = Annotated[tuple[Text, ...], Field(min_length=1, max_length=20), AfterValidator(_refuse_repeats)]


class AnalysisSettings(_Frozen):
    """Phase 04: the answers."""

    margin: Annotated[Real, Field(gt=0, le=10), _Exponent] = told(
        0.05, "relative difference of test loss that counts as practically the same", ANEW
    )
    confidence: Annotated[Real, Field(ge=0.5, lt=1), _Exponent] = told(0.95, "level of the intervals", ANEW)
    analysis_seed: Seed = told(0, "seed of resampling", ANEW)
    compare_with: Text | Runs | None = told(
        None,
        "another run, or a list of them, to compare this one with; null: none\n"
        "The regret of transfer, what the searches find, with other trials and run seeds whether the answers are the "
        "same, and of grids how the optimum moves with the width.",
        ANEW,
    )
    parts: Literal["all", "search"] = told("all", "the whole, or the part on the search alone", FREE)

    @property
    def phase(self) -> str:
        """The phase as it is recorded: the part on the search alone doesn't stand for the analysis."""
        return "search_report" if self.parts == "search" else "analysis"


class ExploreSettings(TrainingSettings, DataSettings, DeviceSettings):
    """Notebook 00: training by hand. It is no phase: it writes nothing, and the command doesn't run it."""

    runs_root: Text = told("executed", "where the stored runs lie that a training is compared with", FREE)


class BenchmarkCase(_Frozen):
    """What the benchmark trains: `members` MLPs of one architecture, on that many worker processes."""

    architecture: Widths
    members: Annotated[Whole, Field(ge=1, le=10**4), _Exponent]
    batch_size: Count
    workers: Annotated[Whole, Field(ge=1, le=1024), _Exponent]


Method = Literal["seed_way", "plain", "compiled", "vmap", "jax", "population", "medium", "limit", "sklearn", "optuna"]
_CASES = (
    BenchmarkCase(architecture=(120, 204, 408), members=8, batch_size=4096, workers=1),
    BenchmarkCase(architecture=(120, 204, 408), members=4, batch_size=4096, workers=2),  # a search of 8, 4 a worker
    BenchmarkCase(architecture=(252, 32, 16), members=8, batch_size=256, workers=1),
    BenchmarkCase(architecture=(32, 32), members=16, batch_size=256, workers=1),
    BenchmarkCase(architecture=(32, 32), members=16, batch_size=4096, workers=1),
)


class BenchmarkSettings(DataSettings, DeviceSettings, NamedSettings):
    """Notebook 05: how fast populations train."""

    benchmark_cases: Annotated[
        tuple[BenchmarkCase, ...], Field(min_length=1, max_length=1000), AfterValidator(_refuse_repeats)
    ] = told(
        _CASES,
        "what is trained\nMembers of one architecture at a batch size, on that many worker processes.",
        FREE,
        small=[{"architecture": [32, 32], "members": 8, "batch_size": 256, "workers": 1}],
    )
    benchmark_methods: Annotated[
        tuple[Method, ...],
        Field(min_length=1, max_length=10, examples=[["plain", "population"]]),
        AfterValidator(_refuse_repeats),
        BeforeValidator(_read_word),
    ] = told(
        ("seed_way", "plain", "vmap", "population", "limit"),
        "also those of docs/speed.md",
        FREE,
    )
    benchmark_rounds: Annotated[Whole, Field(ge=1, le=1000), _Exponent] = told(
        7, "the methods take turns that often; medians are reported", FREE, small=3
    )


PHASES: dict[str, type[_Frozen]] = {
    "search": SearchSettings,
    "retrain": RetrainSettings,
    "transfer": TransferSettings,
    "analysis": AnalysisSettings,
}
NOTEBOOK_SETTINGS = {**PHASES, "benchmark": BenchmarkSettings}  # the phases of a study, and what stands beside it
PARAMETERS = tuple(dict.fromkeys(name for settings in NOTEBOOK_SETTINGS.values() for name in settings.model_fields))
_KINDS = (*NOTEBOOK_SETTINGS.values(), ExploreSettings)
FIELDS = {name: field for kind in _KINDS for name, field in kind.model_fields.items()}
# as they are given: what null stands for is found when they are parsed
DEFAULTS = {name: value for kind in _KINDS for name, value in kind.model_construct().model_dump(mode="json").items()}


def change_of(name: str) -> str:
    """What another value of a parameter means for a run on disk; FREE also for what is no parameter any more."""
    return FIELDS[name].json_schema_extra["change"] if name in PARAMETERS else FREE


def _by_file() -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    placed = {"parts"}  # in no file: the command sets it
    for file, kind in {"defaults": SeededSettings, **NOTEBOOK_SETTINGS}.items():
        for name in [name for name in kind.model_fields if name not in placed]:
            files.setdefault(name if isinstance(FIELDS[name].default, BaseModel) else file, []).append(name)
            placed.add(name)
    return files


PARAMETERS_OF_FILE = _by_file()  # of params/NAME.yaml; a mapping has a file of its own
