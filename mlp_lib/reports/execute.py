"""A phase: its notebook by papermill and its page; progress repeated aloud, failure in a line, a file without paths."""

import html
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlp_lib.core.errors import MlpError
from mlp_lib.core.values import DATASETS
from mlp_lib.reports import pages
from mlp_lib.reports.voice import Voice
from mlp_lib.run import meta, record
from mlp_lib.run.files import NOTEBOOKS, REPORTS, ROOT, RunFiles, write_bytes
from mlp_lib.workers.progress import METADATA
from mlp_lib.workers.server import LOG, start_server

# what kernels need, and the workers of their phases
_LOADED = (
    "ipykernel.kernelapp",
    "mlp_lib.reports.session",
    "mlp_lib.lab.coordinate_check",
    "mlp_lib.study.phases",
    "mlp_lib.workers.processes",
)


def run_phase(phase: str, parameters: dict[str, Any], files: RunFiles, always: bool, voice: Voice) -> str | None:
    """Execute a phase's notebook, keep it and render it, what of that is yet to be done; why it can't be rendered.

    Raises MlpError if the phase fails.
    """
    notebook, page = files.notebook(phase), files.page(phase)
    known = meta.read_meta(files)
    done = meta.is_whole(files, phase, known) and notebook.exists()
    held = {name: known["parameters"].get(name) for name in parameters}
    execute_it = always or not done or bool(meta.changed(held, parameters))  # more is asked for than the run holds
    if not execute_it and page.exists():
        print(f"{notebook.stem}: done before")
        return None
    started = time.monotonic()
    print(f"{notebook.stem}: running")
    error = _execute(phase, parameters, files, voice, started) if execute_it else None
    problem = render(notebook, page) if notebook.exists() else None
    if error is not None:
        _record_end(phase, files, started, meta.FAILED, error)
        raise MlpError(f"{error} (see {notebook})")
    record.note(files, phase)  # with its notebook and page
    print(f"{notebook.stem}: done in {time.monotonic() - started:.0f} s" + ", not rendered" * bool(problem))
    return problem


def _execute(phase: str, parameters: dict[str, Any], files: RunFiles, voice: Voice, started: float) -> str | None:
    """Execute a phase's notebook and keep it; None, or one line on what went wrong."""
    source, temporary = REPORTS.get(phase, NOTEBOOKS["analysis"]), files.unfinished_notebook(phase)
    try:
        error = _execute_notebook(ROOT / "notebooks" / f"{source}.ipynb", temporary, parameters, files, voice)
    except KeyboardInterrupt:
        temporary.unlink(missing_ok=True)
        _record_end(phase, files, started, meta.INTERRUPTED)
        raise
    status = meta.read_meta(files)["phases"].get(phase, {}).get("status") if files.meta.exists() else None
    if error is None and status != meta.DONE:
        error = f"{files.notebook(phase).stem} ended without finishing its last cell"
    if error is not None and status == meta.DONE:  # it could not begin: what was done before stays
        temporary.unlink(missing_ok=True)
        raise MlpError(error)
    if temporary.exists():
        _keep_notebook(temporary, files.notebook(phase), error)
    return error


def _record_end(phase: str, files: RunFiles, since: float, status: str, error: str | None = None) -> None:
    """Record how a phase ended (see meta.end), where that can be written."""
    with suppress(MlpError, OSError):
        if files.meta.exists():
            meta.end(files, phase, status, error, since=since)
            pages.write_run_index(files.root)


def _execute_notebook(
    source: Path, target: Path, parameters: dict[str, Any], files: RunFiles, voice: Voice
) -> str | None:
    """Run a notebook by papermill; None, or one line on what went wrong."""
    environment = os.environ | {LOG: str(voice.log or os.devnull)}
    facts = DATASETS.get(parameters.get("dataset"))  # which no analysis reads
    reader = [] if facts is None else ["torchvision.datasets" if facts.torchvision else "sklearn.model_selection"]
    start_server(*_LOADED, *reader, environment=environment)  # while this imports what drives kernels
    import papermill
    from nbclient.exceptions import DeadKernelError

    _register_engine(files, voice, environment)
    threading.Thread(target=_load_renderer, daemon=True).start()
    logging.disable(logging.ERROR)  # papermill and nbclient log what the command says by itself
    try:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, target)),  # it fills in braces
            parameters=parameters,
            engine_name="mlp_lib",
            kernel_name="python3",
            progress_bar=False,
            cwd=str(ROOT),
        )
    except papermill.PapermillExecutionError as error:
        last = str(error.evalue).strip().splitlines() or [error.ename]
        explained = error.traceback == [f"{error.ename}: {error.evalue}"]  # an MlpError's is its message alone
        return last[0] if explained else f"{source.stem}: {error.ename}: {last[0]}"
    except (DeadKernelError, RuntimeError, EOFError) as error:
        said = f"{source.stem}: its kernel died ({str(error).splitlines()[0]}); it was of {sys.executable}"
        return f"{said}, and log.txt has what it said last"
    except OSError as error:  # papermill's, when it writes the notebook
        error.filename = error.filename or str(files.root)
        raise
    finally:
        logging.disable(logging.NOTSET)
    return None


def _load_renderer() -> None:
    """What renders the page takes seconds to import, which pass while the notebook runs."""
    with suppress(Exception):  # rendering will say it
        import nbconvert  # noqa: F401


def _register_engine(files: RunFiles, voice: Voice, environment: dict[str, str]) -> None:
    """papermill's own engine, which also says the notebook's progress and prints, and tells index.html now and then."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    from mlp_lib.reports.kernels import KernelManager

    class Client(PapermillNotebookClient):
        def process_message(self, msg: dict, cell: Any, cell_index: int) -> Any:
            content = msg.get("content", {})
            if METADATA.items() <= content.get("metadata", {}).items():
                text = content["data"]["text/plain"]
                if voice.progress(text, last=not text.endswith(("left", "so far"))) and files.meta.exists():
                    with suppress(MlpError):
                        pages.write_run_index(files.root)
            elif msg["msg_type"] == "stream" and content["name"] == "stderr":
                voice.keep(content["text"])  # of a library; with this machine's paths, so it is no part of a report
                return None
            elif msg["msg_type"] == "stream" and content["text"].strip():
                print(content["text"].rstrip("\n"))
            return super().process_message(msg, cell, cell_index)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            client = Client(
                nb_man,
                kernel_name=kernel_name,
                kernel_manager_class=KernelManager,
                startup_timeout=300,
                extra_arguments=["--log-level=CRITICAL", "--IPKernelApp.exec_PYTHONSTARTUP=False"],
                shutdown_kernel="immediate",  # all is written by then, and a graceful end takes seconds
                store_widget_state=False,  # of widgets that nobody displays
            )
            with TemporaryDirectory() as profile:  # the user's own could change what is shown
                client.execute(env=environment | {"IPYTHONDIR": profile})

    papermill_engines.register("mlp_lib", Engine)


def _keep_notebook(temporary: Path, notebook: Path, error: str | None) -> None:
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
    write_bytes(notebook, nbformat.writes(content).encode(), parents=False)
    temporary.unlink()


def render(notebook: Path, page: Path) -> str | None:
    """Render a kept notebook; None, or why it can't be: then there is no page, nor one of an earlier notebook."""
    try:
        pages.render_notebook(notebook, page)
    except MlpError:  # no space
        raise
    except Exception as error:  # of nbconvert or what it stands on: versions that don't fit together raise anything
        page.unlink(missing_ok=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None
