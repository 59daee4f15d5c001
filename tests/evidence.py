"""The evidence of a run that a test has made without the command."""

from pathlib import Path

from study import settings_of

from mlp_lib.reports.analysis import Evidence
from mlp_lib.run import meta
from mlp_lib.run.files import RunFiles
from mlp_lib.run.parameters import PHASES


def evidence_of(run_dir: Path, parts: str = "all", **changes: object) -> Evidence:
    """The evidence, after the parameters of all phases (TINY with the changes) are stored in the run."""
    files = RunFiles(run_dir)
    everything = {
        name: value for phase in PHASES for name, value in settings_of(phase, **changes).model_dump(mode="json").items()
    }
    meta.store_parameters(files, everything)
    return Evidence(files, settings_of("analysis", parts=parts), meta.read_architectures(files))
