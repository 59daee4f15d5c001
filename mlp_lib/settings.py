"""The parameters of a study as frozen values, parsed strictly."""

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mlp_lib.errors import SettingsError

MAX_SEED = 2**32 - 1
CLASSES = 10  # of every data set
TRAINING_DATA_SIZES = {"mnist": 60000, "fashion_mnist": 60000, "kmnist": 60000, "qmnist": 60000, "digits": 1437}
INPUTS = {"mnist": 784, "fashion_mnist": 784, "kmnist": 784, "qmnist": 784, "digits": 64}  # pixels an image
_EXPONENT_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _read_exponent(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 (no dot) as text; it is a number here."""
    if isinstance(value, str) and _EXPONENT_NUMBER.fullmatch(value):
        value = float(value)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def _refuse_repeats(values: tuple) -> tuple:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"should not repeat {repeated[0]}")
    return values


def _refuse_number(value: Any) -> Any:
    """Python takes 0 for False."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise PydanticCustomError("number", "a number is neither a name nor false")
    return value


# the bounds come before the reader: only then does the JSON schema, which the messages are made from, show them
_Exponent = BeforeValidator(_read_exponent)
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(ge=1, le=10**9), _Exponent]
Width = Annotated[Whole, Field(ge=1, le=65536), _Exponent]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED), _Exponent]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=10**5), AfterValidator(_refuse_repeats)]
Flag = Annotated[bool, Field(strict=True)]
_NAME_RULE = "at most 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"
Text = Annotated[str, Field(strict=True, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$", description="a line of text")]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description=_NAME_RULE)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, order=True)
class Architecture:
    """The hidden widths of a multilayer perceptron, first layer first."""

    widths: tuple[int, ...]

    @property
    def name(self) -> str:
        return "mlp_" + "x".join(map(str, self.widths))

    @classmethod
    def from_name(cls, name: str) -> "Architecture":
        return cls(tuple(int(width) for width in name.removeprefix("mlp_").split("x")))

    def layer_sizes(self, inputs: int, classes: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer, the last one to the classes."""
        return list(itertools.pairwise((inputs, *self.widths, classes)))

    def count_parameters(self, inputs: int, classes: int) -> int:
        """Number of weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.layer_sizes(inputs, classes))


class Hyperparameters(_Frozen):
    """What the search tunes: AdamW's five numbers and the two of the regularization (all without unit)."""

    lr: Annotated[Real, Field(gt=0, le=1e3), _Exponent]
    beta1: Annotated[Real, Field(ge=0, lt=1), _Exponent]
    beta2: Annotated[Real, Field(ge=0, lt=1), _Exponent]
    eps: Annotated[Real, Field(gt=0, le=1), _Exponent]
    weight_decay: Annotated[Real, Field(ge=0, le=1e3), _Exponent]
    dropout: Annotated[Real, Field(ge=0, lt=1), _Exponent]
    leaky_relu_alpha: Annotated[Real, Field(ge=0, le=1), _Exponent]


HYPERPARAMETERS = tuple(Hyperparameters.model_fields)
LOG_HYPERPARAMETERS = ("lr", "eps", "weight_decay")  # shown and modelled on a log scale


class Range(_Frozen):
    """The distribution that one hyperparameter is drawn from, both ends included."""

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


class SearchSpace(_Frozen):
    """A range for each of the seven hyperparameters."""

    lr: Range
    beta1: Range
    beta2: Range
    eps: Range
    weight_decay: Range
    dropout: Range
    leaky_relu_alpha: Range

    @model_validator(mode="after")
    def _ends_are_allowed(self) -> "SearchSpace":
        for end in ("low", "high"):
            values = {name: getattr(getattr(self, name), end) for name in HYPERPARAMETERS}
            try:
                Hyperparameters(**values)
            except ValidationError as error:
                name = error.errors()[0]["loc"][0]
                allowed = _allowed(_schema_at(Hyperparameters, (name,))[1])
                raise ValueError(f"{name}.{end} = {values[name]} should be {allowed}") from None
        return self


class ArchitectureChoice(_Frozen):
    """The architectures of a study: every combination of the grid's widths, then the list."""

    grid: tuple[Annotated[tuple[Width, ...], Field(min_length=1)], ...] = ()
    list: tuple[Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)], ...] = ()

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        grid = itertools.product(*self.grid) if self.grid else ()
        return tuple(Architecture(tuple(widths)) for widths in (*grid, *self.list))

    @model_validator(mode="after")
    def _some_and_distinct(self) -> "ArchitectureChoice":
        size = len(self.list)
        if self.grid:
            combinations = 1
            for widths in self.grid:
                combinations *= len(widths)
            size += combinations
        if not 1 <= size <= 10**5:
            raise ValueError(f"grid and list should give 1 to 100000 architectures, not {size}")
        _refuse_repeats(tuple(architecture.name for architecture in self.architectures))
        return self


class DataSettings(_Frozen):
    """Which data, where from, how split, how fed."""

    dataset: Literal["mnist", "fashion_mnist", "kmnist", "qmnist", "digits"]
    data_root: Text
    preload: Annotated[Literal["auto", "cuda", "cpu", False], BeforeValidator(_refuse_number)]
    validation_size: Count | None
    split_seed: Seed
    loader_workers: Annotated[Whole, Field(ge=0, le=256), _Exponent]

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "DataSettings":
        size = TRAINING_DATA_SIZES[self.dataset]
        if self.validation_size is not None and self.validation_size >= size:
            raise ValueError(
                f"validation_size = {self.validation_size} should be below the {size} training images of {self.dataset}"
            )
        return self


Parametrization = Literal["standard", "mup"]


class TrainingSettings(_Frozen):
    """What decides the result of one training besides data, hyperparameters and run seed."""

    batch_size: Count  # images an optimizer step
    max_epochs: Count
    patience: Count  # validation checks without improvement
    val_interval: Count  # epochs between checks
    matmul_precision: Literal["highest", "high", "medium"]
    deterministic: Flag
    parametrization: Parametrization = "standard"
    base_width: Width = 128  # under mup, the width that is trained as standard


class StudySettings(DataSettings, TrainingSettings):
    """What every phase that trains needs (params/defaults.yaml)."""

    project_name: Name
    parametrization: Parametrization  # a study says it
    base_width: Width
    device: Literal["auto", "cpu", "cuda"]
    mixed_devices: Flag
    workers: Annotated[Whole, Field(ge=1, le=1024), _Exponent] | Literal["auto"]
    scheduler: Text | None


class SearchSettings(StudySettings):
    """Phase 01: the search."""

    search_space: SearchSpace
    architectures: ArchitectureChoice
    search_method: Literal["random", "sobol", "successive_halving"]
    num_trials: Annotated[Whole, Field(ge=1, le=10**6), _Exponent]
    search_seed: Seed
    training_seed: Seed
    same_trials_for_all_architectures: Flag
    reevaluate_top_k: Annotated[Whole, Field(ge=0, le=1000), _Exponent]


class RetrainSettings(StudySettings):
    """Phase 02: the chosen hyperparameters trained again with fresh seeds."""

    retrain_seeds: Seeds
    save_checkpoints: Flag


ExtraSource = Literal["cheapest", "median", "consensus", "default"]


_ArchitectureName = Annotated[str, Field(strict=True, pattern=r"^mlp_[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){0,63}$")]
Pair = tuple[_ArchitectureName, _ArchitectureName]  # target, source
Pairs = Annotated[tuple[Pair, ...], Field(min_length=1, max_length=10**6), AfterValidator(_refuse_repeats)]


class TransferSettings(StudySettings):
    """Phase 03: every architecture with every source's hyperparameters."""

    transfer_seeds: Seeds
    transfer_pairs: Literal["all"] | Count | Pairs
    transfer_extra_sources: Annotated[tuple[ExtraSource, ...], Field(max_length=4), AfterValidator(_refuse_repeats)]
    search_dir: Text | None


class AnalysisSettings(_Frozen):
    """Phase 04: the answers."""

    margin: Annotated[Real, Field(gt=0, le=10), _Exponent]
    confidence: Annotated[Real, Field(gt=0, lt=1), _Exponent]
    analysis_seed: Seed
    compare_with: Text | None
    parts: Literal["all", "search"]


class ExploreSettings(DataSettings, TrainingSettings):
    """Notebook 00: training by hand. It is no phase: it writes nothing, and the command doesn't run it."""

    device: Literal["auto", "cpu", "cuda"]
    runs_root: Text


class BenchmarkCase(_Frozen):
    """What the benchmark trains: `members` MLPs of one architecture, on that many worker processes."""

    architecture: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)]
    members: Annotated[Whole, Field(ge=1, le=10**4), _Exponent]
    batch_size: Count
    workers: Annotated[Whole, Field(ge=1, le=1024), _Exponent]


Method = Literal["seed_way", "plain", "vmap", "population", "limit", "sklearn", "optuna"]


class BenchmarkSettings(DataSettings):
    """Notebook 05: how fast populations train."""

    project_name: Name
    device: Literal["auto", "cpu", "cuda"]
    benchmark_cases: Annotated[tuple[BenchmarkCase, ...], Field(min_length=1, max_length=1000)]
    benchmark_methods: Annotated[tuple[Method, ...], Field(min_length=1, max_length=7), AfterValidator(_refuse_repeats)]
    benchmark_rounds: Annotated[Whole, Field(ge=1, le=1000), _Exponent]


PHASES: dict[str, type[_Frozen]] = {
    "search": SearchSettings,
    "retrain": RetrainSettings,
    "transfer": TransferSettings,
    "analysis": AnalysisSettings,
}
NOTEBOOK_SETTINGS = {**PHASES, "benchmark": BenchmarkSettings}  # the phases of a study, and what stands beside it
PARAMETERS = tuple(dict.fromkeys(name for settings in NOTEBOOK_SETTINGS.values() for name in settings.model_fields))

Kind = TypeVar("Kind", bound=BaseModel)


def parse(kind: type[Kind], values: Mapping[str, Any], where: str | Mapping[str, str]) -> Kind:
    """The values as `kind`; `where` says which file (or option) they came from, as one name or one a parameter.

    Raises SettingsError, which names the parameter, its file, what was found and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(_explain(error, kind, where)) from None


def check_names(names: Mapping[str, Any], where: str | Mapping[str, str], also: tuple[str, ...] = ()) -> None:
    """Refuse a name that no notebook declares (SettingsError with the nearest right name)."""
    for name in names:
        if name not in PARAMETERS and name not in also:
            known = (*PARAMETERS, *also)
            raise SettingsError(f"{_place(where, name)}: unknown parameter {_cut(repr(name))}; {_nearest(name, known)}")


def _place(where: str | Mapping[str, str], name: Any) -> str:
    return where if isinstance(where, str) else where.get(name, "the parameters")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "allowed: " + ", ".join(known)


def _explain(error: ValidationError, kind: type[BaseModel], where: str | Mapping[str, str]) -> str:
    """One line on the first parameter that pydantic refuses; an unknown name comes first, it may explain the rest."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] in ("extra_forbidden", "invalid_key")), errors[0])
    location = first["loc"]
    reason = first["msg"].removeprefix("Value error, ")
    if not location:
        context = next((name for name in kind.model_fields if name in reason), None)
        return f"{_place(where, context)}: {reason}"
    place = _place(where, location[0])
    path, schema = _schema_at(kind, location)
    if first["type"] in ("extra_forbidden", "invalid_key"):
        name = f"{path}.{location[-1]}".removeprefix(".")
        return f"{place}: unknown name {name}; {_nearest(location[-1], tuple(schema['properties']))}"
    if first["type"] == "missing":
        return f"{place}: {path} is missing; it should be {_allowed(schema)}"
    if first["type"] != "value_error":
        reason = f"should be {_allowed(schema)}"
    elif isinstance(first["input"], Mapping):
        return f"{place}: {path}: {reason}"
    return f"{place}: {path} = {_cut(repr(first['input']))}: {reason}"


def _schema_at(kind: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, dict[str, Any]]:
    """The path of a value as a user would write it, and its JSON schema; parts that are no name are passed over."""
    root = schema = kind.model_json_schema()
    path = ""
    for part in location:
        if part in schema.get("properties", {}):
            schema, path = schema["properties"][part], f"{path}.{part}"
        elif isinstance(part, int) and "items" in schema:
            schema, path = schema["items"], f"{path}[{part}]"
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return path.removeprefix("."), schema


def _allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        *names, last = (str(v).lower() for v in schema.get("enum", [schema.get("const")]))
        return f"{', '.join(names)} or {last}" if names else last
    if schema["type"] == "array":
        return f"a list of {schema.get('minItems', 0)} to {schema.get('maxItems', 'any number of')} values"
    if schema["type"] == "object":
        return f"a mapping of {', '.join(schema['properties'])}"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "number":
        limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
        bounds = [f"{limit} {schema[key]:g}" for key, limit in limits.items() if key in schema]
        return f"a number {' and '.join(bounds)}" if bounds else "a finite number"
    return schema.get("description") or {"boolean": "true or false", "null": "null"}[schema["type"]]
