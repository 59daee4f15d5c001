"""The figures that a phase leaves beside its tables."""

from collections.abc import Sequence

from mlp_lib.core.values import Architecture
from mlp_lib.figures import curves, effects, losses
from mlp_lib.run.files import RunFiles, read_table, write_figure


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
