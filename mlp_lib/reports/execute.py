"""One notebook by papermill: its progress repeated in the terminal, its failure in a line, its file without paths."""

import html
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlp_lib.core.errors import MlpError
from mlp_lib.reports import pages
from mlp_lib.run.files import ROOT, RunFiles, write_bytes
from mlp_lib.workers.progress import METADATA


def execute_notebook(source: Path, target: Path, parameters: dict[str, Any], files: RunFiles) -> str | None:
    """Run a notebook by papermill; None, or one line on what went wrong."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    _register_engine(files)
    try:
        with _quiet():
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=parameters,
                engine_name="mlp_lib",
                kernel_name="python3",
                progress_bar=False,
                cwd=str(ROOT),
            )
    except papermill.PapermillExecutionError as error:
        last = str(error.evalue).strip().splitlines() or [error.ename]
        known = {kind.__name__ for kind in (MlpError, *MlpError.__subclasses__())}
        return last[0] if error.ename in known else f"{source.stem}: {error.ename}: {last[0]}"
    except (DeadKernelError, RuntimeError) as error:
        return f"{source.stem}: its kernel died ({str(error).splitlines()[0]})"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """papermill and nbclient log what the command says by itself."""
    import logging

    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _register_engine(files: RunFiles) -> None:
    """papermill's own engine, which also repeats the notebook's progress in the terminal and in index.html."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    from mlp_lib.reports.kernels import KernelManager

    class Client(PapermillNotebookClient):
        def process_message(self, msg: dict, cell: Any, cell_index: int) -> Any:
            content = msg.get("content", {})
            if (
                msg["msg_type"] in ("display_data", "update_display_data")
                and METADATA.items() <= content.get("metadata", {}).items()
            ):
                terminal.show(content["data"]["text/plain"])
            return super().process_message(msg, cell, cell_index)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            client = Client(
                nb_man,
                kernel_name=kernel_name,
                kernel_manager_class=KernelManager,
                startup_timeout=300,
                extra_arguments=["--log-level=CRITICAL"],
                shutdown_kernel="immediate",  # all is written by then, and a graceful end takes seconds
            )
            client.execute(stderr=subprocess.DEVNULL)  # what asyncio says when a kernel is stopped; errors are in cells

    terminal = _Terminal(files)
    papermill_engines.register("mlp_lib", Engine)


class _Terminal:
    """Progress in the terminal: one line rewritten, or a line now and then where the output is a file.

    Now and then index.html is told too.
    """

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.shown = self.written = -1e9

    def show(self, text: str) -> None:
        if time.monotonic() - self.written > 10:
            self.written = time.monotonic()
            with suppress(MlpError):
                if self.files.meta.exists():
                    pages.write_run_index(self.files.root)
        last = not text.endswith(("left", "so far"))
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns - 1
            print("\r" + text[:columns].ljust(columns), end="\n" if last else "", flush=True)
        elif last or time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            print(text, flush=True)


def keep_notebook(temporary: Path, notebook: Path, error: str | None) -> None:
    """Give an executed notebook its name, without this machine's paths in its metadata.

    An error that no cell shows, such as a kernel's death, is told above the first.
    """
    import nbformat

    content = nbformat.read(temporary, as_version=4)
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    if error is not None and not any(output.output_type == "error" for output in outputs):
        content.cells.insert(0, nbformat.v4.new_markdown_cell(f"**This run failed:** {html.escape(error)}"))
    for name in ("input_path", "output_path"):
        content.metadata.get("papermill", {}).pop(name, None)
    write_bytes(notebook, nbformat.writes(content).encode())
    temporary.unlink()
