"""The command: merge the parameters, drive the notebooks by papermill, render the reports."""

import datetime
import re
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlp_lib import execution, meta, report
from mlp_lib.artifacts import NOTEBOOKS, REPORTS, RunFiles, make_run_directory, parse_yaml, read_yaml
from mlp_lib.claim import claim
from mlp_lib.errors import MlpError, RunDirectoryError, SettingsError
from mlp_lib.notebook import ROOT, check_consensus, check_seeds, find_search
from mlp_lib.settings import NOTEBOOK_SETTINGS, PARAMETERS, PHASES, check_names, parse

PARAMS = ROOT / "params"
_OPEN_FILES = 512
COMMON_FILES = ("defaults", "search_space", "architectures", "search", "retrain", "transfer", "analysis", "benchmark")
COMMANDS = {
    "run": ("search", "retrain", "transfer", "analysis"),
    "search": ("search", "retrain"),
    "search_report": (meta.SEARCH_REPORT,),
    "transfer": ("transfer",),
    "analysis": ("analysis",),
    "benchmark": ("benchmark",),
}
_MAKE_A_RUN = ("run", "search", "benchmark")


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


def check(merged: Merged) -> dict[str, dict[str, Any]]:
    """Every phase's parameters, parsed strictly, as plain values; SettingsError at the first that is wrong."""
    parsed = {}
    for phase, kind in NOTEBOOK_SETTINGS.items():
        values = {name: merged.values[name] for name in kind.model_fields if name in merged.values}
        parsed[phase] = parse(kind, values, merged.where).model_dump(mode="json")
    parsed[meta.SEARCH_REPORT] = {**parsed["analysis"], "parts": "search"}
    everything = {name: value for values in parsed.values() for name, value in values.items()}
    check_seeds(everything, merged.where)
    check_consensus(everything, merged.where)
    if parsed["search"]["device"] == "cuda" and not parsed["search"]["scheduler"]:
        from mlp_lib.runtime import resolve_device  # loads torch, which takes seconds

        resolve_device("cuda")
    return parsed


def check_run_name(name: str | None) -> None:
    """SettingsError unless the name makes an ordinary directory name."""
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        shown = repr(name) if len(name) < 80 else repr(name[:77] + "...")
        raise SettingsError(
            f"--run-name {shown}: should be 1 to 100 letters, digits, dots, dashes or underscores, "
            "beginning with a letter or digit"
        )


def continue_run(run_dir: Path, merged: Merged) -> Merged:
    """The parameters for an existing run: those stored, which the given ones must agree with or add to."""
    files = RunFiles(run_dir)
    if not files.meta.exists():
        raise SettingsError(f"--run-dir {run_dir}: no run there (no {files.meta.relative_to(run_dir)})")
    stored = meta.read_meta(files)["parameters"]
    checked = {name: value for values in check(merged).values() for name, value in values.items()}
    given = {name: checked[name] for name in merged.given}
    try:
        values = meta.merge_parameters({k: v for k, v in stored.items() if k in PARAMETERS}, given, run_dir)
    except RunDirectoryError as error:  # here the mistake is in the options
        raise SettingsError(f"--run-dir: {error}") from None
    where = {name: merged.where[name] if name in given else str(files.meta) for name in values}
    return Merged({**merged.values, **values, "parts": "all"}, {**merged.where, **where}, merged.given)


def execute(command: str, merged: Merged, runs_root: Path, run_name: str | None, run_dir: Path | None) -> Path:
    """Run the command's notebooks in a new or an existing run directory; the directory.

    Raises MlpError with one clear line if a notebook fails; finished work stays.
    """
    if run_dir is not None:
        merged = continue_run(run_dir, merged)
    parsed = check(merged)
    _allow_open_files()
    if run_dir is None:
        if command not in _MAKE_A_RUN and not (command == "transfer" and parsed["transfer"]["search_dir"]):
            raise SettingsError(f"{command}: needs --run-dir, the run whose results it reads")
        if command == "transfer":
            find_search(parsed["transfer"]["search_dir"])
        stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
        run_dir = make_run_directory(runs_root, run_name or f"{parsed['search']['project_name']}_{stamp}")
    files = RunFiles(run_dir)
    with claim(run_dir, command):
        if not files.meta.exists():
            phases = ("benchmark",) if command == "benchmark" else PHASES
            everything = {name: value for phase in phases for name, value in parsed[phase].items()}
            meta.store_parameters(files, everything)
        for phase in COMMANDS[command]:
            parameters = {**parsed[phase], "run_dir": _from_root(run_dir)}
            run_phase(phase, parameters, files, always=len(COMMANDS[command]) == 1)
            report.write_run_index(run_dir)
        report.write_runs_index(run_dir.parent)
        if runs_root.resolve() in run_dir.resolve().parents[1:]:
            report.write_runs_index(runs_root)
    return run_dir


def _allow_open_files() -> None:
    """As many open files as a kernel and its workers may need; MlpError where the system's limit is lower.

    A kernel that runs into the limit can't even say so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        if hard != resource.RLIM_INFINITY and hard < _OPEN_FILES:
            raise MlpError(f"too many open files are refused here: ulimit -n is {hard}, a run may need {_OPEN_FILES}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))


def _from_root(path: Path) -> str:
    """The path as a notebook takes it: from the repository's root if it lies there."""
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def run_phase(phase: str, parameters: dict[str, Any], files: RunFiles, always: bool) -> None:
    """Execute a phase's notebook, keep it and render it; skipped if the phase is done and nothing changed."""
    name, source = files.notebook(phase).stem, REPORTS.get(phase, NOTEBOOKS["analysis"])
    entry = meta.read_meta(files)["phases"].get(phase, {})
    finished = entry.get("status") == meta.DONE and files.notebook(phase).exists() and files.page(phase).exists()
    if finished and not always and not _grows(phase, parameters, files):
        print(f"{name}: done before", flush=True)
        return
    started = time.monotonic()
    print(f"{name}: running", flush=True)
    notebook, temporary = files.notebook(phase), files.unfinished_notebook(phase)
    try:
        error = execution.execute_notebook(ROOT / "notebooks" / f"{source}.ipynb", temporary, parameters, files)
    except KeyboardInterrupt:
        temporary.unlink(missing_ok=True)
        if files.meta.exists():
            meta.end(files, phase, meta.INTERRUPTED)
            report.write_run_index(files.root)
        raise
    status = meta.read_meta(files)["phases"].get(phase, {}).get("status") if files.meta.exists() else None
    if error is None and status != meta.DONE:
        error = f"{name} ended without finishing its last cell"
    if temporary.exists():
        execution.keep_notebook(temporary, notebook, error)
        report.render_notebook(notebook, files.page(phase))
    if error is not None:
        if files.meta.exists():
            meta.end(files, phase, meta.FAILED, error)
            report.write_run_index(files.root)
        raise MlpError(f"{error} (see {notebook})")
    print(f"{name}: done in {time.monotonic() - started:.0f} s", flush=True)


def _grows(phase: str, parameters: dict[str, Any], files: RunFiles) -> bool:
    stored = meta.read_meta(files)["parameters"]
    return any(
        stored.get(name, meta.ADDED.get(name)) != value
        for name, value in parameters.items()
        if name in PARAMETERS and name not in meta.FREE
    )


def dry_run(command: str, merged: Merged, run_dir: Path | None) -> str:
    """What the command would train: trainings in all, how many are new, and an estimate of the time."""
    from mlp_lib import estimate  # loads torch

    if run_dir is not None:
        merged = continue_run(run_dir, merged)
    parsed = check(merged)
    if command == "benchmark":
        settings = parsed["benchmark"]
        number = settings["benchmark_rounds"] * len(settings["benchmark_cases"]) * len(settings["benchmark_methods"])
        return f"benchmark: {number} measurements of some three seconds"
    return estimate.describe(COMMANDS[command], parsed, run_dir, ROOT)
