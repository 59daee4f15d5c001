"""What a run was made with, and the state of its phases: search_meta.yaml."""

import contextlib
import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from mlp_lib.core.errors import RunDirectoryError, SettingsError
from mlp_lib.core.values import FREE, GROWS, Architecture
from mlp_lib.run.claim import find_holder
from mlp_lib.run.files import ROOT, RunFiles, read_yaml, write_yaml
from mlp_lib.run.parameters import DEFAULTS, PARAMETERS, PARAMETERS_OF_FILE, PHASES, ArchitectureChoice, change_of
from mlp_lib.run.parsing import Merged, check_all
from mlp_lib.run.recipe import Conditions

LAYOUT = 2  # of a run's files: what goes on from them must be of the same

PACKAGES = ("mlp_lib", "torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "papermill")
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


def check_layout(files: RunFiles) -> None:
    """Refuse to train on in a run of a version whose files were others; to read it is another matter."""
    if read_meta(files).get("layout") != LAYOUT:
        raise RunDirectoryError(
            f"{files.root} was made by an earlier version, with other files, and can't be gone on with; "
            "analysis, status and the explorers read it"
        )


def read_architectures(files: RunFiles) -> tuple[Architecture, ...]:
    """The architectures of the run; RunDirectoryError if the search hasn't begun."""
    choice = read_meta(files)["parameters"].get("architectures")
    if choice is None:
        raise RunDirectoryError(f"{files.root} holds no search: run 01_search on it first")
    return ArchitectureChoice.model_validate(choice).architectures


def merge_parameters(stored: dict[str, Any], given: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The stored parameters with those given; architectures, trials and seeds may grow.

    Raises RunDirectoryError with the list of differences.
    """
    differences = [
        f"{name}: {_short(stored[name])} in the run, {_short(value)} given"
        for name, value in given.items()
        if name in stored and not _may_become(name, stored, value)
    ]
    if differences:
        raise RunDirectoryError(
            f"{run_dir} was made with other settings ({'; '.join(differences)}); use its own or another directory"
        )
    return {**stored, **given}


def _may_become(name: str, stored: dict[str, Any], given: Any) -> bool:
    """Whether a run of the stored parameters may go on with the given value: it is free, the same, or holds more.

    With more trials, successive halving would have dropped others.
    """
    if change_of(name) == FREE or given == stored[name]:
        return True
    halved = name == "num_trials" and stored.get("search_method") == "successive_halving"
    return change_of(name) == GROWS and not halved and _parts(given) >= _parts(stored[name])


def _parts(value: Any) -> Any:
    """What a value that may grow has more or less of: a number itself, architectures, or the entries of a list."""
    if isinstance(value, dict):
        return set(ArchitectureChoice.model_validate(value).architectures)
    return value if isinstance(value, int) else set(value)


def different_parameters(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The parameters that decide results and differ between two runs, each with its values if these are short.

    One that a run doesn't know of has its default.
    """
    described = []
    for name in PARAMETERS:
        value, other = here.get(name, DEFAULTS[name]), there.get(name, DEFAULTS[name])
        if value != other and change_of(name) != FREE:
            short = not isinstance(value, dict | list)
            described.append(f"{name} ({value} here, {other} there)" if short else name)
    return described


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_conditions(files: RunFiles, conditions: Conditions, mixed: bool) -> None:
    """Refuse to train on with other data than the run's, or, unless they may be mixed, on another device or torch.

    Raises RunDirectoryError.
    """
    check_layout(files)
    meta = read_meta(files)
    public = conditions.torch.split("+")[0]  # as a package's version is recorded
    recorded = {"data_digest": (meta.get("data_digest"), conditions.data.digest)}
    if not mixed:
        recorded["device"] = (meta.get("device"), conditions.device)
        recorded["torch"] = (meta.get("versions", {}).get("torch"), public)
    differences = [
        f"{name}: {str(then)[:16]} in the run, {str(now)[:16]} now"
        for name, (then, now) in recorded.items()
        if then not in (None, now)
    ]
    if differences:
        same_data = recorded["data_digest"][0] in (None, conditions.data.digest)
        way = "; mixed_devices = true goes on, the same but for rounding" if same_data else ""
        raise RunDirectoryError(f"{files.root} can't go on here, results would differ ({'; '.join(differences)}){way}")


def begin(files: RunFiles, phase: str, parameters: dict[str, Any], facts: dict[str, Any], root: Path) -> None:
    """Record that a phase has begun, with its parameters; phases whose parameters grew are outdated."""
    meta = read_meta(files)
    stored = meta["parameters"]
    merged = merge_parameters(stored, parameters, files.root)
    changed = {name for name, old in stored.items() if change_of(name) != FREE and merged[name] != old}
    outdated = False  # from the first phase on whose parameters grew, and behind one that has yet to be done
    for name, settings in PHASES.items():
        outdated = outdated or bool(changed & set(settings.model_fields))
        status = meta["phases"].get(name, {}).get("status")
        if outdated and status == DONE:
            meta["phases"][name]["status"] = OUTDATED
        outdated = outdated or (name == phase and status != DONE)
    before = meta["phases"].get(phase, {})
    now = datetime.datetime.now().isoformat(timespec="seconds")
    machines = meta.get("machines", [])
    if facts.get("machine") not in (None, *machines):
        meta["machines"] = [*machines, facts["machine"]]  # more than one: the same to the bit only if of one kind
    meta["phases"][phase] = {
        "status": RUNNING,
        "started": before.get("started", now),
        "resumed": now,
        "duration_s": before.get("duration_s", 0.0),
    }
    _write(files, {**_environment(root), **{k: v for k, v in meta.items() if v is not None}}, merged, facts)


def end(files: RunFiles, phase: str, status: str = DONE, error: str | None = None) -> None:
    """Record how a phase that had begun came to its end.

    Its first end counts, save that one may be done after all: in JupyterLab a cell that failed can be run again.
    """
    meta = read_meta(files)
    entry = meta["phases"].get(phase)
    if entry is None or (entry["status"] != RUNNING and (status != DONE or entry["status"] == DONE)):
        return
    if "resumed" in entry:
        elapsed = datetime.datetime.now() - datetime.datetime.fromisoformat(entry.pop("resumed"))
        entry["duration_s"] = round(entry["duration_s"] + elapsed.total_seconds(), 1)
    entry["status"] = status
    entry.pop("error", None)
    if error:
        entry["error"] = error
    write_yaml(files.meta, meta)


def read_states(files: RunFiles, phases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The truth of each phase as recorded in search_meta.yaml's `phases`; NOT_BEGUN for those that are not there.

    A phase recorded as running that nobody works on is interrupted; one at work has its `progress`, if it told any.
    """
    held = find_holder(files.root) is not None
    states = {}
    alone = set(phases) == {"benchmark"}
    for phase in ("benchmark",) if alone else (*PHASES, *({"benchmark"} & set(phases))):
        entry = phases.get(phase)
        state = dict(entry) if isinstance(entry, dict) and "status" in entry else {"status": NOT_BEGUN}
        if state["status"] == RUNNING and not held:
            state["status"] = INTERRUPTED
        elif state["status"] == RUNNING:
            state["progress"] = _read_progress(files)
        states[phase] = state
    return states


def _read_progress(files: RunFiles) -> str:
    try:
        return files.work.progress.read_text()
    except OSError:
        return ""


def store_parameters(files: RunFiles, parameters: dict[str, Any]) -> None:
    """Record parameters of phases that are still to come."""
    meta = read_meta(files)
    meta["parameters"] = {**parameters, **meta["parameters"]}
    write_yaml(files.meta, meta)


def _write(files: RunFiles, meta: dict[str, Any], parameters: dict[str, Any], facts: dict[str, Any]) -> None:
    known = {name: facts[name] for name in ("device", "data_digest") if name in facts}
    meta = {**meta, **known, "parameters": parameters}
    order = ("layout", "parameters", "device", "machines", "data_digest", "versions", "git", "phases")
    write_yaml(files.meta, {name: meta[name] for name in order if name in meta})


def _environment(root: Path) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return {"versions": versions, "git": _git(root)}


def _git(root: Path) -> dict[str, Any]:
    """Commit and whether the tree has changes; nulls where there is no git."""
    line = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        said = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    commit, _, dirty = said.partition("-")
    return {"commit": commit, "dirty": bool(dirty)}


def find_search(search_dir: str, parameter: str = "search_dir") -> RunFiles:
    """The run that a parameter names: a run directory or the search directory in it; SettingsError if it isn't one."""
    path = ROOT / Path(search_dir).expanduser()
    files = RunFiles(path if (path / "search").is_dir() else path.parent)
    if not files.meta.exists():
        raise SettingsError(f"{parameter} = {search_dir}: no search there (no {files.meta})")
    return files


def continue_run(run_dir: Path, merged: Merged) -> Merged:
    """The parameters for an existing run: those stored, which the given ones must agree with or add to."""
    files = RunFiles(run_dir)
    if not files.meta.exists():
        raise SettingsError(f"--run-dir {run_dir}: no run there (no {files.meta.relative_to(run_dir)})")
    stored = read_meta(files)["parameters"]
    checked = {name: value for values in check_all(merged).values() for name, value in values.items()}
    given = {name: checked[name] for name in merged.given}
    try:
        kept = {name: stored[name] for names in PARAMETERS_OF_FILE.values() for name in names if name in stored}
        values = merge_parameters(kept, given, run_dir)
    except RunDirectoryError as error:  # here the mistake is in the options
        raise SettingsError(f"--run-dir: {error}") from None
    where = {name: merged.where[name] if name in given else str(files.meta) for name in values}
    return Merged({**merged.values, **values}, {**merged.where, **where}, merged.given)
