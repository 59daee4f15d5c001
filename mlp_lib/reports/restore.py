"""A phase's figures; and what was lost of a run's files is written again, or told, before a phase reads them."""

from collections.abc import Sequence

from mlp_lib.core.errors import MlpError
from mlp_lib.core.values import Architecture
from mlp_lib.figures import curves, effects, losses
from mlp_lib.run import record
from mlp_lib.run.claim import claim
from mlp_lib.run.files import RunDirectoryError, RunFiles, read_table, write_figure
from mlp_lib.run.meta import DONE, describe_lost, find_lost, go_on, read_architectures, read_meta
from mlp_lib.run.parameters import PHASES
from mlp_lib.run.parsing import parse_own
from mlp_lib.run.record import Lost


def write_figures(phase: str, files: RunFiles, architectures: Sequence[Architecture]) -> None:
    """Draw what is on disk of a phase that trained."""
    if phase == "search":
        for architecture in architectures:
            own = files.architecture(architecture)
            write_figure(own.loss_curve, curves.loss_curve(read_table(own.metrics)))
    elif phase == "retrain":
        write_figure(files.distribution, losses.loss_distribution(read_table(files.seed_losses)))
    else:
        write_figure(files.transfer_figure, losses.transfer_losses(read_table(files.transfer_losses)))
        title = "Regret of using another architecture's hyperparameters"
        regret = read_table(files.regret, index="target")
        write_figure(files.regret_figure, effects.heatmap(regret, title, 0.0, "regret (nats an example)"))
        title = "Test loss with another architecture's hyperparameters, relative to the target's own"
        relative = read_table(files.relative_regret, index="target")
        write_figure(files.relative_regret_figure, effects.heatmap(relative, title, 1.0, "transferred / own"))


def clear_lost(files: RunFiles, phase: str) -> None:
    """Say what was lost of a phase that is about to be done again, and remove what was changed of its trainings.

    RunDirectoryError if the ledger was changed: which of its rows, nobody can tell.
    """
    lost = find_lost(files, phase, read_meta(files)["phases"].get(phase, {}))
    for one in [one for one in lost if one.matters]:
        print(one.text)
        if one.changed and files.root / one.name == files.trainings:
            raise RunDirectoryError(
                f"{files.root}: {one.text}: restore it, or delete its rows of {phase}, which are then trained again"
            )
    for name in [one.name for one in lost if one.changed and not one.is_view]:
        (files.root / name).unlink()


def restore(files: RunFiles, before: str) -> list[str]:
    """Write again what was lost of the phases before one, as far as it is a view of the ledger, and say so.

    A sentence on each phase of which it can't be: its trainings have to be done again.
    """
    failed = []
    for phase, lost in _lost_of(files).items():
        if list(PHASES).index(phase) < list(PHASES).index(before):
            try:
                _write_views(files, phase, lost)
                print(f"{describe_lost(lost)}: written again from {files.trainings.name}")
            except MlpError as error:
                failed.append(f"{_describe(files, lost)} ({error})")
    return failed


def describe_missing(files: RunFiles, *phases: str) -> list[str]:
    """A sentence on each of some phases of another run that lost of what it wrote."""
    return [_describe(files, lost) for phase, lost in _lost_of(files).items() if phase in phases]


def _describe(files: RunFiles, lost: list[Lost]) -> str:
    return f"{files.root}: {describe_lost(lost)}; to make it again: {go_on(files.root)}"


def _lost_of(files: RunFiles) -> dict[str, list[Lost]]:
    """What each phase lost that is to be made again, in their order."""
    phases = read_meta(files)["phases"]
    lost = {phase: [one for one in find_lost(files, phase, phases.get(phase, {})) if one.matters] for phase in PHASES}
    return {phase: found for phase, found in lost.items() if found}


def _write_views(files: RunFiles, phase: str, lost: list[Lost]) -> None:
    """All that a phase writes, as at its end; RunDirectoryError if there was something to train."""
    stored = read_meta(files)
    if stored["phases"][phase]["status"] != DONE or not all(one.is_view for one in lost):
        raise RunDirectoryError("which takes trainings")
    from mlp_lib.study import phases  # which loads torch
    from mlp_lib.study.study import Study
    from mlp_lib.workers.pool import Nobody

    settings = parse_own(PHASES[phase], stored["parameters"], str(files.meta))
    architectures, nobody = read_architectures(files), Nobody(stored["device"], stored["torch"])
    study = Study(settings, files, architectures, stored["data_digest"], nobody)
    with claim(files.root, phase):
        getattr(phases, phase)(study)
        write_figures(phase, files, architectures)
        record.note(files, phase)
