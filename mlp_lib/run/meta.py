"""What a run was made with, and the state of its phases: search_meta.yaml."""

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import DATASETS, FREE, GROWS, Architecture
from mlp_lib.run import record
from mlp_lib.run.claim import find_holder
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, read_yaml, write_yaml
from mlp_lib.run.parameters import (
    ANEW,
    DEFAULTS,
    PARAMETERS,
    PARAMETERS_OF_FILE,
    PHASES,
    ArchitectureChoice,
    TransferSettings,
    change_of,
)
from mlp_lib.run.parsing import Merged, check_together, cut, own, parse_all
from mlp_lib.run.recipe import Conditions
from mlp_lib.run.record import Lost
from mlp_lib.run.work import begin_stretch, end_stretch

LAYOUT = 3  # of a run's files: what goes on from them must be of the same

DONE, RUNNING, FAILED, INTERRUPTED, OUTDATED = "done", "running", "failed", "interrupted", "outdated"
NOT_BEGUN = "not begun"


def read_meta(files: RunFiles) -> dict[str, Any]:
    """search_meta.yaml, or an empty record of a run that hasn't begun."""
    if not files.meta.exists():
        return {"layout": LAYOUT, "parameters": {}, "phases": {}}
    with contextlib.suppress(SettingsError):
        meta = read_yaml(files.meta)
        if isinstance(meta, dict) and {"parameters", "phases"} <= meta.keys():
            return meta
    raise RunDirectoryError(f"{files.meta} is damaged: delete it to start {files.root} anew")


def read_there(files: RunFiles, option: str = "") -> dict[str, Any]:
    """The same of a run that has to be there; SettingsError where none is."""
    if not files.meta.exists():
        raise SettingsError(f"{option}{files.root}: no run there (no {files.meta.relative_to(files.root)})")
    return read_meta(files)


def check_layout(files: RunFiles) -> None:
    """Refuse to train on in a run of a version whose files were others; to read it is another matter."""
    if read_meta(files).get("layout") != LAYOUT:
        raise RunDirectoryError(
            f"{files.root} was made by an earlier version, with other files, and can't be gone on with; "
            "analysis, status and the explorers read it"
        )


def read_architectures(files: RunFiles) -> tuple[Architecture, ...]:
    """The architectures of the run, of one that begins with 03 those of the search that it reads.

    RunDirectoryError if the search hasn't begun.
    """
    parameters = read_meta(files)["parameters"]
    choice = parameters.get("architectures")
    if choice is None and parameters.get("search_dir"):
        return read_architectures(find_search(parameters["search_dir"]))
    if choice is None:
        raise RunDirectoryError(f"{files.root} holds no search: run 01_search on it first")
    return ArchitectureChoice.model_validate(choice).architectures


def merge_parameters(stored: dict[str, Any], given: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The stored parameters with those given; architectures, trials and seeds may grow.

    Raises RunDirectoryError with the list of differences.
    """
    if differences := list_refused(stored, given):
        told = ", ".join(differences)
        raise RunDirectoryError(
            f"{run_dir} was made with other settings ({told}); take its own, or another run directory "
            "(in notebooks: a run_dir, from 01_search on)"
        )
    return {**stored, **given}


def list_refused(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """The given parameters that a run of the stored ones can't go on with: neither free, nor the same, nor more.

    With more trials, successive halving would have dropped others.
    """
    halved, refused = stored.get("search_method") == "successive_halving", []
    for name in _deciding({name: stored[name] for name in given if name in stored}, {**stored, **given}):
        here, there = given[name], stored[name]
        grows = change_of(name) == GROWS and not (halved and name == "num_trials")
        if grows and _parts(here) >= _parts(there):
            continue
        said = f"{name}: {cut(str(there))} in the run, {cut(str(here))} given"
        if grows and isinstance(here, int):
            said += f"; it may only grow, to more than {there}"
        elif grows:
            said += f"; it may only grow, and lacks {', '.join(map(str, sorted(_parts(there) - _parts(here))[:3]))}"
        refused.append(said)
    return refused


def changed(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The stored parameters that are not free and mean something else now (see _meaning)."""
    dataset = now.get("dataset")
    return [
        name
        for name, value in stored.items()
        if change_of(name) != FREE and _meaning(name, value, dataset) != _meaning(name, now[name], dataset)
    ]


def _deciding(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Those of them that trainings depend on."""
    return [name for name in changed(stored, now) if change_of(name) != ANEW]


def _meaning(name: str, value: Any, dataset: str | None) -> Any:
    """A parameter's value; for validation_size = null the number that it stands for, for search_dir the run's path."""
    if (name, value) == ("validation_size", None) and dataset:
        return DATASETS[dataset].images // 6
    return _root(value).root.resolve() if name == "search_dir" and value else value


def _parts(value: Any) -> Any:
    """What a value that may grow has more or less of: a number itself, names of architectures, entries of a list."""
    if isinstance(value, dict):
        return {architecture.name for architecture in ArchitectureChoice.model_validate(value).architectures}
    return value if isinstance(value, int) else set(value)


def different_parameters(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The parameters that decide results and differ between two runs, each with its values if these are short.

    One that a run doesn't know of has its default.
    """
    here, there = ({name: run.get(name, DEFAULTS[name]) for name in PARAMETERS} for run in (here, there))
    return [
        name if isinstance(here[name], dict | list) else f"{name} ({here[name]} here, {there[name]} there)"
        for name in _deciding(here, there)
    ]


def check_conditions(files: RunFiles, conditions: Conditions, mixed: bool) -> None:
    """Refuse to train on with other data than the run's, or, unless they may be mixed, on another device or torch.

    Raises RunDirectoryError.
    """
    check_layout(files)
    meta = read_meta(files)
    if differences := list_other_conditions(meta, conditions, mixed):
        same_data = meta.get("data_digest") in (None, conditions.data.digest)
        way = "; mixed_devices = true goes on, the same but for rounding" if same_data else ""
        raise RunDirectoryError(f"{files.root} can't go on here, results would differ ({'; '.join(differences)}){way}")


def list_other_conditions(meta: Mapping[str, Any], conditions: Conditions, mixed: bool) -> list[str]:
    """What these conditions have that is not the run's (see check_conditions); meta: its record."""
    now = known_conditions(conditions)
    return [
        f"{name}: {str(meta[name])[:16]} in the run, {now[name][:16]} now"
        for name in (("data_digest",) if mixed else now)
        if meta.get(name) and meta[name].split("+")[0] != now[name].split("+")[0]  # of torch not the build
    ]


def known_conditions(conditions: Conditions) -> dict[str, str]:
    """What search_meta.yaml says of what a run was begun with, beside its parameters."""
    return {"data_digest": conditions.data.digest, "device": conditions.device, "torch": conditions.torch}


def begin(
    files: RunFiles,
    phase: str,
    parameters: dict[str, Any],
    known: Mapping[str, Any],
    place: Mapping[str, Any],
) -> None:
    """Record that a phase has begun, with its parameters; phases whose parameters grew are outdated.

    known: what a new run is begun with, see `known_conditions`; place: where it is worked on.
    """
    meta = read_meta(files)
    stored, phases = meta["parameters"], meta["phases"]
    merged = merge_parameters(stored, parameters, files.root)
    grown = set(changed(stored, merged))
    whole = is_whole(files, phase, meta)
    outdated = False  # from the first phase on whose parameters grew, and behind one that has yet to be done
    for name, settings in PHASES.items():
        outdated = outdated or bool(grown & set(settings.model_fields))
        if outdated and phases.get(name, {}).get("status") == DONE:
            phases[name]["status"] = OUTDATED
        outdated = outdated or (name == phase and not whole)
    work = phases.get(phase, {}).get("work", [])
    for killed in work[-1:]:
        killed.pop("clock_s", None)
    phases[phase] = {"status": RUNNING, "work": [*work, begin_stretch(place)]}
    write_yaml(files.meta, {**known, **meta, "parameters": merged})


def end(
    files: RunFiles,
    phase: str,
    status: str = DONE,
    error: str | None = None,
    place: Mapping[str, Any] | None = None,
    since: float = 0.0,
) -> None:
    """Record how a phase came to its end, or that it could not begin; one that is done stays so until it begins anew.

    In JupyterLab a cell that failed can be run again: a phase may be done after all. place, since: see end_stretch.
    """
    meta = read_meta(files)
    entry = meta["phases"].setdefault(phase, {"status": NOT_BEGUN, "work": []})
    if entry["status"] == DONE:
        return
    for stretch in entry.get("work", [])[-1:]:
        end_stretch(stretch, place or {}, since)
    entry["status"] = status
    entry.pop("error", None)
    if error:
        entry["error"] = error
    if status == DONE:
        record.note(files, phase)
    write_yaml(files.meta, meta)


def read_states(files: RunFiles, meta: dict[str, Any], look: bool = True) -> dict[str, dict[str, Any]]:
    """The truth of each phase as recorded in search_meta.yaml (`meta`); NOT_BEGUN for those that are not there.

    A phase recorded as running that nobody works on is interrupted; one at work has its `progress`, if it told any. One
    that is done, but has lost of what it wrote, is outdated (unless nobody is to `look`).
    """
    held = find_holder(files.root) is not None
    states = {}
    for phase in phases_of(meta):
        entry = meta["phases"].get(phase)
        state = dict(entry) if isinstance(entry, dict) and "status" in entry else {"status": NOT_BEGUN}
        if state["status"] == RUNNING and not held:
            state["status"] = INTERRUPTED
        elif state["status"] == RUNNING:
            with contextlib.suppress(OSError):
                state["progress"] = files.work.progress.read_text()
        elif look and (lost := find_lost(files, phase, state)):
            state["status"] = OUTDATED if any(one.matters for one in lost) else state["status"]
            state["error"] = describe_lost(lost)
        states[phase] = state
    return states


def phases_of(meta: dict[str, Any]) -> tuple[str, ...]:
    """The phases that a run has, begun or not: those of a study, the benchmark, or both."""
    if "architectures" not in meta["parameters"] and "benchmark_cases" in meta["parameters"]:
        return ("benchmark",)
    return (*PHASES, *({"benchmark"} & set(meta["phases"])))


def find_lost(files: RunFiles, phase: str, state: dict[str, Any]) -> list[Lost]:
    """What is not there as the phase wrote it; nothing of one that is not done, or was by an earlier version."""
    return record.compare(files, phase) if state.get("status") in (DONE, OUTDATED) and state.get("work") else []


def is_whole(files: RunFiles, phase: str, meta: dict[str, Any]) -> bool:
    """Whether a phase is done, and nothing that matters of what it wrote is lost."""
    entry = meta["phases"].get(phase, {})
    return entry.get("status") == DONE and not any(one.matters for one in find_lost(files, phase, entry))


def describe_lost(lost: list[Lost]) -> str:
    """The first two of what is lost, and how many more."""
    more = f" and {len(lost) - 2} more" if len(lost) > 2 else ""
    return ", ".join(one.text for one in lost[:2]) + more


def describe_losses(files: RunFiles) -> list[str]:
    """A line on each phase of a run that lost of what it wrote."""
    lost = {phase: find_lost(files, phase, entry) for phase, entry in read_meta(files)["phases"].items()}
    return [f"{phase}: {describe_lost(found)}" for phase, found in lost.items() if found]


def go_on(run_dir: Path, command: str = "run") -> str:
    """What to type to go on with a run."""
    return f"python -m mlp_lib {command} --run-dir {shlex.quote(str(run_dir))}"


def find_search(search_dir: str, parameter: str = "search_dir") -> RunFiles:
    """The run that a parameter names: a run directory or the search directory in it; SettingsError if it isn't one."""
    files = _root(search_dir)
    if "architectures" not in read_meta(files)["parameters"]:
        raise SettingsError(
            f"{parameter} = {search_dir}: no search there (none in {files.root}); it should be the directory of a run, "
            "such as executed/example"
        )
    return files


def searched_by(files: RunFiles, search_dir: str | None) -> RunFiles:
    """The run whose search gives a run its hyperparameters: another's, or its own."""
    return find_search(search_dir) if search_dir else files


def _root(search_dir: str) -> RunFiles:
    path = ROOT / os.path.expanduser(search_dir)
    return RunFiles(path.parent if (path / "search_meta.yaml").exists() else path)


def find_searches(names: str | Sequence[str] | None, own: Path | None = None) -> list[RunFiles]:
    """The runs that compare_with names, told apart by their names: SettingsError for two alike, or the run's `own`."""
    runs = [find_search(name, "compare_with") for name in ([names] if isinstance(names, str) else names or ())]
    if len({run.root.name for run in runs}) < len(runs):
        shown = ", ".join(run.root.name for run in runs)
        raise SettingsError(f"compare_with: runs are told apart by their directories' names, here {shown}: rename one")
    if own and own.resolve() in [run.root.resolve() for run in runs]:
        raise SettingsError(f"compare_with: {own} is this run itself, which differs in nothing: name others")
    return runs


def check_runs(
    phases: Sequence[str], parsed: Mapping[str, Any], where: Mapping[str, str], run_dir: Path | None
) -> None:
    """Refuse what one of the phases would: the runs that it reads must be there, and the search of one be whole.

    parsed: the parameters of all phases; run_dir: of a run that is there. Raises SettingsError.
    """
    if {"analysis", "search_report"} & set(phases):
        find_searches(parsed["compare_with"], run_dir)
    if "transfer" in phases and (name := parsed["search_dir"]):
        searched = find_search(name)
        known = read_meta(searched)
        state = read_states(searched, known)["search"]
        if state["status"] != DONE:
            told = f"{state['status']} ({state['error']})" if state.get("error") else state["status"]
            raise SettingsError(f"search_dir = {name}: its search is {told}; first {go_on(searched.root)}")
        choice = parsed["architectures"]
        check_search({**known["parameters"], "architectures": choice}, own(TransferSettings, parsed), where)
        targets = ArchitectureChoice.model_validate(choice).architectures
        if missing := set(targets) - set(read_architectures(searched)):
            names = ", ".join(sorted(one.name.removeprefix("mlp_") for one in missing))
            raise SettingsError(
                f"search_dir = {name}: its search has no {names}, so nothing could be transferred to them; give "
                "architectures that it has, or those as architectures of a search of its own"
            )


def check_search(known: Mapping[str, Any], transfer: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """What the transfer's parameters have to have to do with those of the search that `search_dir` names."""
    check_together({**known, **transfer, "retrain_seeds": (), "search_dir": None}, where)


def continue_run(run_dir: Path, merged: Merged) -> Merged:
    """The parameters for an existing run: those stored, which the given ones must agree with or add to."""
    files = RunFiles(run_dir)
    stored = read_there(files, "--run-dir ")["parameters"]
    checked = parse_all(merged)  # the rest are defaults: what is stored says what goes together
    also = ("retrain_seeds", "transfer_seeds") if "seeds" in merged.given else ()
    given = {name: checked[name] for name in (*merged.given, *also)}
    try:
        kept = {name: stored[name] for names in PARAMETERS_OF_FILE.values() for name in names if name in stored}
        values = merge_parameters(kept, given, run_dir)
    except RunDirectoryError as error:  # here the mistake is in the options
        raise SettingsError(f"--run-dir: {error}") from None
    where = {name: merged.where[name] if name in given else str(files.meta) for name in values}
    return Merged({**merged.values, **values}, {**merged.where, **where}, merged.given)
