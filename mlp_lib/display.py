"""Pictures with a text for those who can't see them, and whether somebody sits at the notebook."""

import io
from typing import Any

from IPython import get_ipython
from IPython.display import Image
from matplotlib.figure import Figure


def is_interactive() -> bool:
    """Whether this cell was run by somebody who can press a button: JupyterLab lets a cell ask for input, papermill
    and `jupyter execute` don't. Widgets are dead in what those leave.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def picture(figure: Figure, text: str) -> Any:
    """The figure as an output that stays what it is in a saved notebook, with a text beside it for screen readers."""
    return Image(data=png(figure), alt=text)
