"""Parameters as they are given: merged from files and options, parsed strictly, and refused in a line that explains."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlp_lib.core.errors import SettingsError
from mlp_lib.run.files import OLD_NUMBER, ROOT, flow_yaml, parse_yaml, read_yaml
from mlp_lib.run.parameters import FIELDS, NOTEBOOK_SETTINGS, PARAMETERS, PARAMETERS_OF_FILE, ArchitectureChoice

Kind = TypeVar("Kind", bound=BaseModel)
PARAMS = ROOT / "params"
_PARTS = {n: type(f.default).model_fields for n, f in FIELDS.items() if isinstance(f.default, BaseModel)}  # of mappings

_OPTIONS = ("run_dir", "runs_root")  # names of notebooks that are no parameters of the command


# --- merging


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
    merged = Merged()
    for name in PARAMETERS_OF_FILE:
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
    profiles = sorted(p.stem for p in PARAMS.glob("*.yaml") if p.stem not in PARAMETERS_OF_FILE)
    if name not in profiles:
        raise SettingsError(f"--profile {name!r}: no such profile in params/; allowed: {', '.join(profiles)}")
    return PARAMS / f"{name}.yaml"


# --- parsing


def parse(kind: type[Kind], values: Mapping[str, Any], where: str | Mapping[str, str]) -> Kind:
    """The values as `kind`; `where` says which file (or option) they came from, as one name or one a parameter.

    Raises SettingsError, which names the parameter, its file, what was found and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(_explain(error, kind, where)) from None


def parse_own(kind: type[Kind], values: Mapping[str, Any], where: str | Mapping[str, str]) -> Kind:
    """The same of those values that are its fields."""
    return parse(kind, own(kind, values), where)


def own(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of `kind`."""
    return {name: values[name] for name in kind.model_fields if name in values}


def check_names(names: Mapping[str, Any], where: str | Mapping[str, str], also: tuple[str, ...] = ()) -> None:
    """Refuse a name that no notebook declares (SettingsError with the nearest right name)."""
    for name in names:
        if name not in PARAMETERS and name not in also:
            whole = next((whole for whole, parts in _PARTS.items() if name in parts), None)
            cure = f"it is a part of {whole}: {_as_in(whole)}" if whole else _nearest(name, (*PARAMETERS, *also))
            cure = f"give it as --{name.replace('_', '-')}" if name in _OPTIONS and not also else cure
            raise SettingsError(f"{_place(where, name)}: unknown parameter {cut(repr(name))}; {cure}")


def check_all(merged: Merged) -> dict[str, Any]:
    """The parameters of all phases, parsed strictly, as plain values; SettingsError at the first that is wrong."""
    parsed = parse_all(merged)
    check_together(parsed, merged.where)
    return parsed


def parse_all(merged: Merged) -> dict[str, Any]:
    """The same, each parameter by itself."""
    settings = [parse_own(kind, merged.values, merged.where) for kind in NOTEBOOK_SETTINGS.values()]
    return {name: value for of_phase in settings for name, value in of_phase.model_dump(mode="json").items()}


def check_together(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """What parameters that are right each have to have to do with each other."""
    check_seeds(parameters, where)
    if not parameters.get("search_dir"):  # else the search is another's
        check_consensus(parameters, where)
        check_budget(parameters, where)


def check_device(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """What asks for CUDA needs it here, unless a cluster trains; of what trains, since what reads needs no device."""
    device, preload = parameters.get("device", "auto"), parameters.get("preload", "auto")
    found = device
    if "cuda" in (device, preload) and device != "cpu" and not parameters.get("scheduler"):
        from mlp_lib.core.machine import resolve_device  # loads torch, which takes seconds

        try:
            found = resolve_device(device).type
        except SettingsError as error:
            raise SettingsError(f"{where.get('device', 'the run')}: {error}") from None
    if preload == "cuda" and found == "cpu":
        raise SettingsError(
            f"{where.get('preload', 'the run')}: preload = 'cuda': needs a training device of cuda, not cpu; preload = "
            "auto follows the device"
        )


def check_seeds(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """A trial's run seed must not be a retrain or transfer seed: they would see the very training that was chosen.

    With a `search_dir` it is that search whose trials the transfer must not see: see `meta.check_search`.
    """
    of = "grid_seeds" if parameters.get("search_method") == "grid" else "training_seed"
    trials = parameters.get(of, ())
    for name in ("retrain_seeds", *(() if parameters.get("search_dir") else ("transfer_seeds",))):
        seeds = list(parameters.get(name, ()))
        name = "seeds" if seeds == list(parameters.get("seeds", ())) else name
        for seed in [trials] if isinstance(trials, int) else trials:
            if seed in seeds:
                raise SettingsError(
                    f"{where.get(name, 'the run')}: {name} = {seeds}: should not hold the {of} {seed}, which chose the "
                    f"hyperparameters: take other seeds, or another {of}"
                )


def describe_seeds(parameters: Mapping[str, Any]) -> str:
    """That retraining and transfer have other run seeds, if they do, where both are known; else empty."""
    retrain, transfer = (list(parameters.get(name, ())) for name in ("retrain_seeds", "transfer_seeds"))
    if not (retrain and transfer) or retrain == transfer:
        return ""
    shown = f"retrain_seeds = {retrain}, transfer_seeds = {transfer}"
    return f"{shown}: a seed that only one of them holds shares no trainings; seeds sets both"


def check_consensus(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """A consensus ranks the same trials on all architectures but one."""
    names = list(parameters.get("transfer_extra_sources", ()))
    choice = parameters.get("architectures")
    if not parameters.get("same_trials_for_all_architectures", True):
        needs = "same_trials_for_all_architectures = true"
    elif choice and len(ArchitectureChoice.model_validate(choice).architectures) < 2:
        needs = "two architectures or more"
    else:
        return
    if "consensus" in names:
        place = where.get("transfer_extra_sources", "the run")
        raise SettingsError(f"{place}: transfer_extra_sources = {names}: consensus needs {needs}")


def no_pool(search: Mapping[str, Any]) -> str:
    """Why the trials of a search with these parameters can't answer over searches, in words; empty where they can."""
    method = search.get("search_method", "random")
    if method != "random":
        return f"the trials are no independent draws (search_method = {method})"
    if not search.get("same_trials_for_all_architectures"):
        return "every architecture had draws of its own (same_trials_for_all_architectures = false)"
    return "one trial is no search" if search.get("num_trials", 0) < 2 else ""


def check_budget(parameters: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """Searches of the budget are drawn from the trials there are: at most half of them."""
    budget, trials = parameters.get("search_budget", "auto"), parameters.get("num_trials", 0)
    if budget != "auto" and budget > (most := max(1, trials // 2)):
        raise SettingsError(
            f"{where.get('search_budget', 'the run')}: search_budget = {budget}: should be at most half of num_trials "
            f"({trials}), so at most {most}, or auto"
        )


# --- explaining


def _place(where: str | Mapping[str, str], name: Any) -> str:
    return where if isinstance(where, str) else where.get(name, "the parameters")


def _as_in(whole: str) -> str:
    """How a mapping is given."""
    return f"give the whole of it, as in params/{whole}.yaml"


def cut(text: str) -> str:
    """A text that is shown in a line."""
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "allowed: " + ", ".join(known)


def _explain(error: ValidationError, kind: type[BaseModel], where: str | Mapping[str, str]) -> str:
    """One line on the first parameter that pydantic refuses; an unknown name comes first, it may explain the rest."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] in ("extra_forbidden", "invalid_key")), errors[0])
    location, reason = first["loc"], first["msg"].removeprefix("Value error, ")
    if not location:
        context = min((name for name in kind.model_fields if name in reason), key=reason.find, default=None)
        return f"{_place(where, context)}: {reason}"
    place = _place(where, location[0])
    path, schema = schema_at(kind, location)
    match first["type"]:
        case "extra_forbidden" | "invalid_key":
            name = f"{path}.{location[-1]}".removeprefix(".")
            return f"{place}: unknown name {name}; {_nearest(location[-1], tuple(schema['properties']))}"
        case "missing":
            return f"{place}: {path} is missing; {_as_in(location[0])}"
        case "value_error" if isinstance(first["input"], Mapping):
            return f"{place}: {path}: {reason}"
        case "value_error":
            return f"{place}: {path} = {cut(repr(first['input']))}: {reason}"
    said = f"{place}: {path} = {cut(repr(first['input']))}: should be {allowed(schema)}"
    if schema.get("properties") and location[0] in _PARTS and len(location) == 1:
        said = f"{said}; {_as_in(location[0])}" if "examples" not in schema else said
    old = re.fullmatch(OLD_NUMBER, str(first["input"]), re.IGNORECASE) and "number" in allowed(schema)
    return f"{said}; a number has no leading zeros, colons or underscores" if old else said


def schema_at(kind: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, dict[str, Any]]:
    """The path of a value as a user would write it, and its JSON schema; parts that are no name are passed over."""
    root = schema = kind.model_json_schema()
    path = ""
    for part in location:
        if part in schema.get("properties", {}):
            schema, path = schema["properties"][part], f"{path}.{part}"
        elif isinstance(part, int):
            items = [one["items"] for one in (schema, *schema.get("anyOf", ())) if "items" in one]
            schema, path = (items[0], f"{path}[{part}]") if items else (schema, path)
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return path.removeprefix("."), schema


def allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words: pydantic's own messages tell of one bound, or one kind, at a time."""
    if "anyOf" in schema:
        return " or ".join(allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        *names, last = (str(v).lower() for v in schema.get("enum", [schema.get("const")]))
        return f"{', '.join(names)} or {last}" if names else last
    example = f" (such as {flow_yaml(schema['examples'][0])})" if "examples" in schema else ""
    match schema["type"]:
        case "array":
            return f"a list of {schema.get('minItems', 0)} to {schema.get('maxItems', 'any number of')} values{example}"
        case "object":
            return f"a mapping of {', '.join(schema['properties'])}{example}"
        case "integer":
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        case "number":
            limits = {
                "minimum": "at least",
                "exclusiveMinimum": "above",
                "maximum": "at most",
                "exclusiveMaximum": "below",
            }
            bounds = [f"{limit} {schema[key]:g}" for key, limit in limits.items() if key in schema]
            return f"a number {' and '.join(bounds)}" if bounds else "a finite number"
        case kind:
            return {"boolean": "true or false", "null": "null"}.get(kind) or schema["title"]
