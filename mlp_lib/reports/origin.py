"""Which clone of this project a notebook is of."""

import contextlib
import os
import sys
from pathlib import Path

from mlp_lib.core.errors import MlpError
from mlp_lib.run.files import ROOT


def check_origin() -> None:
    """MlpError if this kernel's notebook is of another clone than its mlp_lib.

    Jupyter and papermill find a kernel by its name alone, and the python3 that they find may be of any environment.
    """
    found = _find_clone()
    if found not in (None, ROOT):
        raise MlpError(
            f"this notebook is of {found}, but its kernel ({sys.executable}) has the mlp_lib of {ROOT}: "
            f"choose the kernel of its own environment, or pip install -e {found} into this one"
        )


def _find_clone() -> Path | None:
    """The clone that holds the notebook, which papermill's command line names; JupyterLab starts a kernel beside it."""
    place = Path.cwd() / "any.ipynb"
    with contextlib.suppress(OSError):  # of a system without /proc, of another user's process
        parent = Path("/proc") / str(os.getppid())
        words = (parent / "cmdline").read_text().split("\0")
        if any("papermill" in Path(word).name for word in words):  # a server is started with notebooks of any clone
            place = next(((parent / "cwd").resolve() / word for word in words if word.endswith(".ipynb")), place)
    folders = place.resolve().parents
    return next((f for f in folders if (f / "mlp_lib/__init__.py").exists() and (f / "notebooks").is_dir()), None)
