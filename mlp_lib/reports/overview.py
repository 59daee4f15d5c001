"""What there is to say of a run, read from what is on disk, however damaged."""

import contextlib
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlp_lib.core.errors import SettingsError
from mlp_lib.run import meta
from mlp_lib.run.files import NOTEBOOKS, RunFiles, read_yaml
from mlp_lib.run.parameters import ArchitectureChoice
from mlp_lib.run.work import Stretch

HEADLINES = {  # the pieces of the analysis whose figures show an answer: over searches, else for what was chosen
    "hyperparameter_transfer": ("transfer_over_searches", "transfer_effects"),
    "architecture_sensitivity": ("tuning_curves", "architecture_pairs"),
}


def read_run(files: RunFiles, look: bool = True) -> dict[str, Any]:
    """What both indexes say of a run; `problems` tells what could not be read; `look`: for what was lost, see meta."""
    problems: list[str] = []
    found, answers = (read_any(path, read_yaml, dict, problems) for path in (files.meta, files.answers))
    parameters = mapping(found.get("parameters"))
    phases = meta.read_states(files, {"parameters": parameters, "phases": mapping(found.get("phases"))}, look)
    for state in phases.values():
        work = state.get("work")
        state["work"] = work = [one for one in work if isinstance(one, dict)] if isinstance(work, list) else []
        state["started"] = next((stretch.get("started") for stretch in work), None)
        state["duration_s"] = sum(seconds(stretch.get("duration_s")) for stretch in work)
    study = any(phase in NOTEBOOKS for phase in phases)  # or else a benchmark alone
    borrowed = study and phases["search"]["status"] == meta.NOT_BEGUN != phases["transfer"]["status"]
    grid = study and parameters.get("search_method") == "grid" and phases["transfer"]["status"] == meta.NOT_BEGUN
    statuses = [state.get("status") for phase, state in phases.items() if _is_needed(phase, state, borrowed, grid)]
    status = next((s for s in ("failed", "interrupted", "running") if s in statuses), None)
    started = [str(state["started"]) for state in phases.values() if state["started"]]
    return {
        "name": files.root.resolve().name,
        "meta": found,
        "parameters": parameters,
        "architectures": _count_architectures(parameters, files),
        "answers": [_describe_answer(name, mapping(answers.get(name)), files.analysis) for name in HEADLINES],
        "study": study,
        "asked": study and not (grid and phases["analysis"]["status"] == meta.NOT_BEGUN),  # both questions
        "command": _going_on(study, borrowed, phases),
        "phases": phases,
        "status": status or ("complete" if all(s == "done" for s in statuses) else "incomplete"),
        "started": min(started, key=since_epoch, default=""),
        "mixed": _is_mixed([stretch for state in phases.values() for stretch in state["work"]]),
        "problems": problems,
    }


def _is_needed(phase: str, state: dict, borrowed: bool, grid: bool) -> bool:
    """Whether a run is not complete without the phase: a grid is by itself, and a borrowed search is another run's."""
    if state["status"] != meta.NOT_BEGUN:
        return True
    return not (borrowed and phase in ("search", "retrain")) and not (grid and phase != "search")


def _going_on(study: bool, borrowed: bool, phases: dict[str, dict]) -> str:
    """The command that goes on; no run makes the search of one that borrowed it."""
    if borrowed:
        return "analysis" if phases["transfer"]["status"] == meta.DONE else "transfer"
    return "run" if study else "benchmark"


def _is_mixed(work: list[Stretch]) -> bool:
    """Whether it was done by more than one code, or trained in more than one place."""
    code = {str([one.get(name) for name in ("commit", "dirty", "versions")]) for one in work}
    place = {str([one.get(name) for name in ("device", "machine", "workers")]) for one in work if one.get("device")}
    return max(len(code), len(place)) > 1


def _describe_answer(name: str, answer: dict, analysis: Path) -> dict[str, Any]:
    from mlp_lib.evidence.sentences import QUESTIONS, in_plain_words  # half a second, which no refusal should take

    words = ""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # damaged, or of an earlier version
        words = in_plain_words(name, answer)
    over, alone = (analysis / f"{piece}.png" for piece in HEADLINES[name])
    figure = over if over.exists() else alone
    return {"question": f"{QUESTIONS[name]}?", "words": words, "found": answer, "figure": figure}


def mapping(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def read_any(path: Path, read: Callable[[Path], Any], kind: type, problems: list[str]) -> Any:
    """What `read` makes of the file if that is a `kind`, else an empty one."""
    if not path.exists():
        return kind()
    try:
        value = read(path)
    except (SettingsError, OSError, ValueError) as error:
        problems.append(f"Unreadable: {path.name}: {error}")
        return kind()
    if not isinstance(value, kind):
        problems.append(f"Unreadable: {path.name}: not a {'list' if kind is list else 'mapping'}")
        return kind()
    return value


def _count_architectures(parameters: dict, files: RunFiles) -> int:
    try:
        return len(ArchitectureChoice.model_validate(parameters.get("architectures")).architectures)
    except ValueError:
        return sum(path.is_dir() for path in files.search.glob("mlp_*"))


def seconds(value: Any) -> float:
    return value if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0.0


def since_epoch(moment: str) -> float:
    """To order moments of several time zones: seconds; one without offset is of this machine's zone."""
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return 0.0
