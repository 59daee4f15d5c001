"""What a notebook begins and ends with: strict parameters, the run directory, the state of its phase."""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython import get_ipython

from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.core.values import Architecture
from mlp_lib.reports import by_hand
from mlp_lib.reports.parameters_cell import read_parameters
from mlp_lib.reports.restore import clear_lost, describe_missing, restore, write_figures
from mlp_lib.run import meta
from mlp_lib.run.claim import claim, find_command
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, from_repository
from mlp_lib.run.parameters import NOTEBOOK_SETTINGS
from mlp_lib.run.parsing import check_device, check_together, describe_seeds, no_pool

if TYPE_CHECKING:
    from mlp_lib.core.data import Dataset
    from mlp_lib.study.study import Study


INTERRUPTED = "Interrupted: what is finished is on disk, and running this cell again goes on"


@dataclass(frozen=True)
class Session:
    """One phase in its notebook. `study` and `dataset` are there where the phase trains."""

    phase: str
    settings: Any
    files: RunFiles
    study: "Study | None" = None
    dataset: "Dataset | None" = None

    def finish(self) -> str:
        """Mark the phase as done; the last cell of a notebook.

        Where no command does it, the run's index.html is written and linked in the list of runs. The notebook itself
        can't be rendered before it is saved.
        """
        with claim(self.files.root, self.phase):
            if self.study and self.phase not in self.study.closed:
                raise MlpError(f"{self.phase} isn't whole yet: first run the cell that trains to its end")
            if self.study:
                write_figures(self.phase, self.files, self.study.architectures)
            meta.end(self.files, self.phase, place=self.study.workers.place if self.study else {})
        if find_command():
            return f"{self.phase} is done"
        from mlp_lib.reports import pages  # which takes a second to import

        pages.write_run_index(self.files.root)
        pages.list_run(self.files.root, by_hand.RUNS)
        run = from_repository(self.files.root)
        return f"{self.phase} is done: {run}/index.html; python -m mlp_lib render {run} makes a page of each notebook"

    def source_note(self) -> str:
        """Where the transfer's hyperparameters come from, and on which data they were chosen, in a sentence."""
        files, here = self.study.searched, self.settings.dataset
        searched = meta.read_meta(files)["parameters"]
        there, why = searched.get("dataset", "unknown data"), no_pool(searched)
        if self.settings.contenders == "chosen":
            why = "contenders = chosen"
        pool = f" No contenders are trained ({why}): the answers hold for these hyperparameters only." if why else ""
        if files.root == self.files.root:
            return f"The hyperparameters were chosen by this run's own search, on {there}.{pool}"
        data = f"the same data set, {there}" if there == here else f"**{there}**, and are trained here on **{here}**"
        return f"The hyperparameters were chosen by the search of another run, {files.root.name}, on {data}.{pool}"

    def table(self) -> pd.DataFrame:
        """The architectures with their numbers of parameters."""
        counts = [(a.name, a.count_parameters(self.study.inputs)) for a in self.study.architectures]
        return pd.DataFrame(counts, columns=["architecture", "parameters"])


def start(phase: str, namespace: Mapping[str, Any]) -> Session:
    """Check the notebook's parameters, then its data and run directory, and record that the phase has begun.

    `namespace` is the notebook's globals(); where its run_dir is None, a run made by hand is taken. Raises
    SettingsError, DataError or RunDirectoryError, or MlpError for a notebook of another clone, before anything is
    trained or made.
    """
    by_hand.check_origin()
    shell = get_ipython()
    if shell:
        shell.set_custom_exc((KeyboardInterrupt,), _show_interrupt)
    pd.set_option("display.max_colwidth", None)  # a table that is kept as a report is not cut
    where = f"notebook {phase}"
    settings = read_parameters(NOTEBOOK_SETTINGS[phase], namespace, where, also=("run_dir",))
    run_dir = namespace.get("run_dir")
    if run_dir is not None and (not isinstance(run_dir, str) or not run_dir):
        raise SettingsError(f"{where}: run_dir = {run_dir!r}: should be a directory, such as executed/mine, or None")
    files = RunFiles(ROOT / os.path.expanduser(run_dir)) if run_dir else None
    if files is None and phase not in ("search", "benchmark"):
        files = by_hand.take_newest()
    if phase == "analysis":
        session = _start_analysis(settings, files)
    elif phase == "benchmark":
        session = _start_benchmark(settings, files)
    else:
        session = _start_training(phase, settings, files)
    if shell:
        for earlier in [f for f in shell.events.callbacks["post_run_cell"] if getattr(f, "func", None) is _record_cell]:
            shell.events.unregister("post_run_cell", earlier)
        shell.events.register("post_run_cell", partial(_record_cell, session))
    return session


def _record_error(files: RunFiles, phase: str, error: BaseException, since: float = 0.0) -> None:
    """Record with what error a phase ended, or could not begin, in a run that is there and that nobody else holds."""
    status = meta.INTERRUPTED if isinstance(error, KeyboardInterrupt) else meta.FAILED
    text = str(error) if isinstance(error, MlpError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    if files.meta.exists():
        with contextlib.suppress(MlpError, OSError), claim(files.root, phase):
            meta.end(files, phase, status, text.strip().splitlines()[0], since=since)


def _record_cell(session: Session, result: Any) -> None:
    """Record that a phase failed or was interrupted when a cell ends with an error, whoever runs the notebook."""
    if result.error_in_exec is not None:
        _record_error(session.files, session.phase, result.error_in_exec)


def _show_interrupt(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> None:
    """Show in a line that a cell was interrupted."""
    error._render_traceback_ = lambda: [INTERRUPTED]  # which is IPython's way, as in MlpError
    shell.showtraceback((kind, error, trace))


def _start_analysis(settings: Any, files: RunFiles) -> Session:
    meta.read_architectures(files)  # an error here leaves the run as it was
    compared = meta.find_searches(settings.compare_with, files.root)
    lost = [line for run in compared for line in describe_missing(run, "search", "transfer")]
    if search_dir := meta.read_meta(files)["parameters"].get("search_dir"):
        lost += describe_missing(meta.find_search(search_dir), "search")
    for line in restore(files, "analysis") + lost:
        print(f"Not all is there to be analysed: {line}")
    _begin(files, settings.phase, settings.model_dump(mode="json"), {}, {})
    return Session(settings.phase, settings, files)


def _start_benchmark(settings: Any, files: RunFiles | None) -> Session:
    from mlp_lib.core.machine import resolve_device
    from mlp_lib.workers.pool import describe_machine

    device = resolve_device(settings.device)
    place, parameters = {"device": device.type, "machine": describe_machine(device)}, settings.model_dump(mode="json")
    known = {} if files else by_hand.MARK  # before it is there
    files = files or by_hand.choose("benchmark", parameters)
    _begin(files, "benchmark", parameters, known, place)
    return Session("benchmark", settings, files)


def _begin(
    files: RunFiles, phase: str, parameters: dict[str, Any], known: dict[str, Any], place: dict[str, Any]
) -> None:
    """Record in the run directory, made if it isn't there, that the phase has begun (see meta.begin)."""
    try:
        files.root.mkdir(parents=True, exist_ok=True)
        with claim(files.root, phase):
            clear_lost(files, phase)
            meta.begin(files, phase, parameters, known, place)
    except OSError as error:
        raise RunDirectoryError(f"can't write to {files.root}: {error.strerror or error}") from None


def _start_training(phase: str, settings: Any, files: RunFiles | None) -> Session:
    parameters, opened, mark = settings.model_dump(mode="json"), None, {}
    if files is None:  # which run goes on is known when the data and the device are
        opened, mark = open_study(settings, RunFiles(by_hand.RUNS), settings.architectures.architectures), by_hand.MARK
        files = by_hand.choose(phase, parameters, opened[0].conditions)
    stored = meta.read_meta(files)
    merged = meta.merge_parameters(stored["parameters"], parameters, files.root)
    where = dict.fromkeys(parameters, f"notebook {phase}")
    check_together(merged, where)
    check_device(merged, where)
    if phase == "transfer" and (said := describe_seeds(merged)):  # before it the transfer's seeds may yet be others
        print(said)
    searched = meta.searched_by(files, settings.search_dir) if phase == "transfer" else files
    if searched is not files:
        meta.check_search(meta.read_meta(searched)["parameters"], parameters, where)
    own = files if "architectures" in merged else searched  # a run that begins with 03 has those of the search
    architectures = settings.architectures.architectures if phase == "search" else meta.read_architectures(own)
    try:
        lost = restore(files, phase) + (describe_missing(searched, "search") if searched is not files else [])
        if lost:
            raise RunDirectoryError(lost[0])
        study, dataset = opened or open_study(settings, files, architectures)
    except BaseException as error:  # of the data, the device, the cluster: no mistake in what was asked for
        _record_error(files, phase, error, since=time.monotonic())
        raise
    meta.check_conditions(files, study.conditions, settings.mixed_devices)
    if phase == "search" and settings.matmul_precision in ("high", "medium") and study.workers.arithmetic == "cpu":
        print(f"matmul_precision = {settings.matmul_precision}: here all products are float32's, as with highest")
    _begin(files, phase, parameters, mark | meta.known_conditions(study.conditions), study.workers.place)
    return Session(phase, settings, files, replace(study, files=files), dataset)


def open_study(settings: Any, files: RunFiles, architectures: tuple[Architecture, ...]) -> tuple["Study", "Dataset"]:
    """The study of a phase with its workers, and its data set."""
    from mlp_lib.study.study import Study  # which loads torch

    if settings.scheduler:
        from mlp_lib.workers.cluster import Cluster as Workers  # which needs an extra
    else:
        from mlp_lib.workers.processes import Processes as Workers
    workers = Workers(settings)
    dataset = workers.load(settings)
    return Study(settings, files, architectures, dataset.digest, workers), dataset
