"""How a notebook shows tables, to somebody who sits at it and in what is saved."""

import pandas as pd
from IPython import get_ipython


def is_interactive() -> bool:
    """Whether this cell was run by somebody who can press a button: JupyterLab lets a cell ask for input, papermill
    and `jupyter execute` don't. Widgets are dead in what those leave.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent().get("content", {}).get("allow_stdin"))


def html_table(table: pd.DataFrame) -> str:
    """The table close-set, in the colours of the page, as an HTML widget has no style for one."""
    text = table.to_html(border=0, float_format="{:.4g}".format, na_rep="", justify="left")
    for tag in ("th", "td"):
        text = text.replace(f"<{tag}>", f'<{tag} style="padding: 0 1em 0 0; text-align: left">')
    # without a width of its own it takes that of the page, and scrolls: a widget would cut it off
    style = "width: 0; min-width: 100%; overflow-x: auto; white-space: nowrap; font-size: 0.9em; line-height: 1.6"
    return f'<div style="{style}">{text}</div>'
