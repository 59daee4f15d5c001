"""Who runs a notebook: somebody who sits at it, or a program that saves it."""

from IPython import get_ipython


def is_interactive() -> bool:
    """Whether this cell was run by somebody who can press a button: JupyterLab lets a cell ask for input, papermill
    and `jupyter execute` don't. Widgets are dead in what those leave.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))
