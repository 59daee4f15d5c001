"""The parameters of a study as frozen values, parsed strictly."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import (
    HYPERPARAMETERS,
    Architecture,
    Count,
    DataSettings,
    Flag,
    Hyperparameters,
    Name,
    Parametrization,
    Real,
    Seed,
    Seeds,
    Text,
    TrainingSettings,
    Whole,
    Width,
    _Exponent,
    _Frozen,
    _refuse_repeats,
)
from mlp_lib.run.files import ROOT, parse_yaml, read_yaml


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


# No result depends on these (device: on its type, which is compared as found), or only the analysis does.
FREE = (
    "workers",
    "scheduler",
    "preload",
    "loader_workers",
    "data_root",
    "device",
    "mixed_devices",
    "margin",
    "confidence",
    "analysis_seed",
    "parts",
)
FREE += ("compare_with",)
FREE += ("benchmark_cases", "benchmark_methods", "benchmark_rounds")
# what a run was made with that is older than these parameters
ADDED = {"search_method": "random", "parametrization": "standard", "base_width": 128}
ADDED |= {"transfer_extra_sources": [], "transfer_pairs": "all"}
SEARCH_REPORT = "search_report"  # the analysis' part on the search alone, which doesn't stand for the analysis


def check_seeds(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """The trials' run seed must not be a retrain or transfer seed: they would see the very training that was chosen."""
    for name in ("retrain_seeds", "transfer_seeds"):
        if parameters.get("training_seed") in parameters.get(name, ()):
            raise SettingsError(
                f"{where.get(name, 'the run')}: {name} = {list(parameters[name])}: should not hold the "
                f"training_seed {parameters['training_seed']}, which chose the hyperparameters"
            )


def check_consensus(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """A consensus ranks the same trials on all architectures."""
    same = parameters.get("same_trials_for_all_architectures", True) or parameters.get("search_dir")
    if "consensus" in parameters.get("transfer_extra_sources", ()) and not same:
        place = where.get("transfer_extra_sources", "the run")
        raise SettingsError(
            f"{place}: transfer_extra_sources = {list(parameters['transfer_extra_sources'])}: consensus needs "
            "same_trials_for_all_architectures = true"
        )


PARAMS = ROOT / "params"
COMMON_FILES = ("defaults", "search_space", "architectures", "search", "retrain", "transfer", "analysis", "benchmark")


@dataclass
class Merged:
    """Parameters by name, and where each came from; `given` are those that the user asked for."""

    values: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    def add(self, values: Any, where: str, given: bool) -> None:
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            raise SettingsError(f"{where}: should hold parameters as name: value, not {type(values).__name__}")
        check_names(values, where)
        self.values |= values
        self.where |= dict.fromkeys(values, where)
        if given:
            self.given |= set(values)


def merge(profile: str | None, files: list[str], options: list[tuple[str, str]]) -> Merged:
    """params/ < profile < -f < -p, key by key; SettingsError for what can't be read or isn't a parameter."""
    merged = Merged({"parts": "all"}, {"parts": "the command"})
    for name in COMMON_FILES:
        merged.add(read_yaml(PARAMS / f"{name}.yaml"), f"params/{name}.yaml", given=False)
    if profile is not None:
        merged.add(read_yaml(_profile(profile)), f"params/{profile}.yaml", given=True)
    for file in files:
        merged.add(read_yaml(Path(file)), file, given=True)
    for name, text in options:
        check_names({name: None}, "-p")
        merged.add({name: parse_yaml(text, f"-p {name}")}, f"-p {name}", given=True)
    return merged


def _profile(name: str) -> Path:
    profiles = sorted(p.stem for p in PARAMS.glob("*.yaml") if p.stem not in COMMON_FILES)
    if name not in profiles:
        raise SettingsError(f"--profile {name!r}: no such profile in params/; allowed: {', '.join(profiles)}")
    return PARAMS / f"{name}.yaml"


def check_all(merged: Merged) -> dict[str, dict[str, Any]]:
    """Every phase's parameters, parsed strictly, as plain values; SettingsError at the first that is wrong."""
    parsed = {}
    for phase, kind in NOTEBOOK_SETTINGS.items():
        values = {name: merged.values[name] for name in kind.model_fields if name in merged.values}
        parsed[phase] = parse(kind, values, merged.where).model_dump(mode="json")
    parsed[SEARCH_REPORT] = {**parsed["analysis"], "parts": "search"}
    everything = {name: value for values in parsed.values() for name, value in values.items()}
    check_seeds(everything, merged.where)
    check_consensus(everything, merged.where)
    if parsed["search"]["device"] == "cuda" and not parsed["search"]["scheduler"]:
        from mlp_lib.core.machine import resolve_device  # loads torch, which takes seconds

        resolve_device("cuda")
    return parsed
