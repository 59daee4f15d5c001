"""What a run has come to, phase by phase, as text."""

import contextlib
from pathlib import Path

from mlp_lib import meta, report
from mlp_lib.artifacts import RunFiles
from mlp_lib.claim import find_holder
from mlp_lib.errors import MlpError, SettingsError
from mlp_lib.progress import seconds_text


def describe(run_dir: Path) -> str:
    """A line a phase (done, failed, interrupted, running, outdated, not begun), then who is at work, if anybody is.

    Brings index.html up to date, which a run that was killed could not. SettingsError where there is no run.
    """
    files = RunFiles(run_dir)
    if not files.meta.exists():
        raise SettingsError(f"{run_dir}: no run there (no {files.meta.relative_to(run_dir)})")
    states = meta.read_states(files, meta.read_meta(files)["phases"])
    lines = [f"{phase:10}{_line(state)}" for phase, state in states.items()]
    holder = find_holder(run_dir)
    if holder:
        lines.append(
            f"in use: {holder.get('what', '?')} by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
            f"since {holder.get('since', '?')}"
        )
    elif any(state["status"] != meta.DONE for state in states.values()):
        lines.append(f"to go on: python -m mlp_lib run --run-dir {run_dir}")
    with contextlib.suppress(MlpError, OSError):  # a directory that can only be read has a state all the same
        report.write_run_index(run_dir)
    return "\n".join(lines)


def _line(state: dict) -> str:
    told = state.get("error") or state.get("progress") or ""
    spent = f"{seconds_text(state['duration_s'])}" if state.get("duration_s") else ""
    return f"{state['status']:13}" + ", ".join(part for part in (spent, told) if part)
