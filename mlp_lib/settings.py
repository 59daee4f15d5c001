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

from mlp_lib.errors import SettingsError

MAX_SEED = 2**32 - 1
TRAINING_DATA_SIZES = {"mnist": 60000, "fashion_mnist": 60000, "kmnist": 60000, "qmnist": 60000, "digits": 1437}
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
        raise ValueError(f"Input should not repeat {repeated[0]}")
    return values


Real = Annotated[float, BeforeValidator(_read_exponent), Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_read_exponent), Field(strict=True)]
Count = Annotated[Whole, Field(ge=1, le=10**9)]
Width = Annotated[Whole, Field(ge=1, le=65536)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=10**5), AfterValidator(_refuse_repeats)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


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

    lr: Annotated[Real, Field(gt=0, le=1e3)]
    beta1: Annotated[Real, Field(ge=0, lt=1)]
    beta2: Annotated[Real, Field(ge=0, lt=1)]
    eps: Annotated[Real, Field(gt=0, le=1)]
    weight_decay: Annotated[Real, Field(ge=0, le=1e3)]
    dropout: Annotated[Real, Field(ge=0, lt=1)]
    leaky_relu_alpha: Annotated[Real, Field(ge=0, le=1)]


HYPERPARAMETERS = tuple(Hyperparameters.model_fields)


class Range(_Frozen):
    """The distribution that one hyperparameter is drawn from, both ends included."""

    distribution: Literal["log_uniform", "uniform"]
    low: Real
    high: Real

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
                first = error.errors()[0]
                raise ValueError(f"{end} of {first['loc'][0]} ({first['input']}): {first['msg']}") from None
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
    preload: Literal["auto", "cuda", "cpu", False]
    validation_size: Count | None
    split_seed: Seed
    loader_workers: Annotated[Whole, Field(ge=0, le=256)]

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "DataSettings":
        size = TRAINING_DATA_SIZES[self.dataset]
        if self.validation_size is not None and self.validation_size >= size:
            raise ValueError(
                f"validation_size = {self.validation_size} should be below the {size} training images of {self.dataset}"
            )
        return self


class TrainingSettings(_Frozen):
    """What decides the result of one training besides data, hyperparameters and run seed."""

    batch_size: Count  # images an optimizer step
    max_epochs: Count
    patience: Count  # validation checks without improvement
    val_interval: Count  # epochs between checks
    matmul_precision: Literal["highest", "high", "medium"]
    deterministic: Flag


class StudySettings(DataSettings, TrainingSettings):
    """What every phase that trains needs (params/defaults.yaml)."""

    project_name: Name
    device: Literal["auto", "cpu", "cuda"]
    workers: Annotated[Whole, Field(ge=1, le=1024)] | Literal["auto"]


class SearchSettings(StudySettings):
    """Phase 01: the search."""

    search_space: SearchSpace
    architectures: ArchitectureChoice
    num_trials: Annotated[Whole, Field(ge=1, le=10**6)]
    search_seed: Seed
    training_seed: Seed
    same_trials_for_all_architectures: Flag


class RetrainSettings(StudySettings):
    """Phase 02: the chosen hyperparameters trained again with fresh seeds."""

    retrain_seeds: Seeds
    save_checkpoints: Flag


class TransferSettings(StudySettings):
    """Phase 03: every architecture with every source's hyperparameters."""

    transfer_seeds: Seeds
    search_dir: Text | None


class AnalysisSettings(_Frozen):
    """Phase 04: the answers."""

    project_name: Name
    margin: Annotated[Real, Field(gt=0, le=10)]
    confidence: Annotated[Real, Field(gt=0, lt=1)]
    analysis_seed: Seed
    parts: Literal["all", "search"]


PHASES: dict[str, type[_Frozen]] = {
    "search": SearchSettings,
    "retrain": RetrainSettings,
    "transfer": TransferSettings,
    "analysis": AnalysisSettings,
}
PARAMETERS = tuple(dict.fromkeys(name for settings in PHASES.values() for name in settings.model_fields))

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
            raise SettingsError(f"{_place(where, name)}: unknown parameter {_short(name)}; {_nearest(name, known)}")


def _place(where: str | Mapping[str, str], name: Any) -> str:
    return where if isinstance(where, str) else where.get(name, "the parameters")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "allowed: " + ", ".join(known)


def _explain(error: ValidationError, kind: type[BaseModel], where: str | Mapping[str, str]) -> str:
    """One line on the first parameter that pydantic refuses; alternatives of a union are joined by 'or'."""
    errors = error.errors(include_url=False)
    first = errors[0]
    location = first["loc"]
    if not location:
        context = next((name for name in kind.model_fields if name in first["msg"]), None)
        message = first["msg"].removeprefix("Value error, ")
        return f"{_place(where, context)}: {message}"
    parameter = location[0]
    same = [e for e in errors if e["loc"][0] == parameter and type(e["input"]) is type(first["input"])]
    path = str(parameter) + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in location[1:]
        if isinstance(part, int)
        or (isinstance(part, str) and re.fullmatch(r"\w+", part) and part not in ("int", "str"))
    )
    place = _place(where, parameter)
    if first["type"] == "extra_forbidden":
        holder = kind if len(location) == 1 else _model_at(kind, location[:-1])
        known = tuple(holder.model_fields) if holder else ()
        return f"{place}: unknown name {path}; {_nearest(location[-1], known)}"
    if first["type"] == "missing":
        return f"{place}: {path} is missing; it is needed"
    reasons = list(dict.fromkeys(_reason(e) for e in same))
    return f"{place}: {path} = {_short(first['input'])}: {' or '.join(reasons)}"


def _reason(error: dict[str, Any]) -> str:
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "should be").replace("Input ", "")


def _model_at(kind: type[BaseModel], location: tuple) -> type[BaseModel] | None:
    for part in location:
        field = kind.model_fields.get(part) if isinstance(part, str) else None
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        kind = field.annotation
    return kind
