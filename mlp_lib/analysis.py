"""The answers to the two questions from a run's tables."""

from typing import Any

import pandas as pd

from mlp_lib import figures, statistics
from mlp_lib.artifacts import RunFiles, read_table, write_yaml
from mlp_lib.settings import AnalysisSettings, Architecture


def read_trials(files: RunFiles, architectures: tuple[Architecture, ...]) -> pd.DataFrame:
    """Every trial on disk: search_results.csv of all architectures with the column `architecture`."""
    tables = []
    for architecture in architectures:
        path = files.architecture(architecture).results
        if path.exists():
            tables.append(read_table(path).assign(architecture=architecture.name))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def answer(files: RunFiles, settings: AnalysisSettings) -> dict[str, dict[str, Any]]:
    """The two answers, written to answers.yaml; a question whose phase hasn't run is `undetermined` and says so."""
    answers = {}
    if settings.parts == "all" and files.transfer_losses.exists():
        losses = read_table(files.transfer_losses)
        answers["hyperparameter_transfer"] = statistics.answer_transfer(losses, settings.margin, settings.confidence)
    else:
        answers["hyperparameter_transfer"] = _not_run("03_transfer", settings)
    if files.seed_losses.exists():
        losses = read_table(files.seed_losses)
        answers["architecture_sensitivity"] = statistics.answer_architecture(
            losses, settings.margin, settings.confidence
        )
    else:
        answers["architecture_sensitivity"] = _not_run("02_retrain", settings)
    if settings.parts == "all":
        write_yaml(files.answers, answers)
    return answers


def _not_run(phase: str, settings: AnalysisSettings) -> dict[str, Any]:
    return {
        "verdict": "undetermined",
        "effect": None,
        "interval": None,
        "confidence": settings.confidence,
        "margin": settings.margin,
        "n": 0,
        "sentence": f"This run can't say yet: {phase} has not been run.",
    }


def sentences(answers: dict[str, dict[str, Any]]) -> str:
    """The two answers as Markdown."""
    titles = {
        "hyperparameter_transfer": "Do tuned hyperparameters transfer?",
        "architecture_sensitivity": "Once tuned, does the architecture matter?",
    }
    return "\n\n".join(
        f"**{titles[name]}** *{answer['verdict'].replace('_', ' ')}.* {answer['sentence']}"
        for name, answer in answers.items()
    )


def show_architectures(files: RunFiles) -> Any:
    """The distribution of test losses over the retrain seeds, or a note that 02_retrain has not been run."""
    if not files.seed_losses.exists():
        return "02_retrain has not been run on this directory."
    return figures.loss_distribution(read_table(files.seed_losses))


def show_transfer(files: RunFiles, settings: AnalysisSettings) -> Any:
    """The matrix of relative regret, or a note on why it isn't shown."""
    if settings.parts == "search":
        return "This report is on the search alone."
    if not files.relative_regret.exists():
        return "03_transfer has not been run on this directory."
    matrix = read_table(files.relative_regret, index="target").rename_axis(columns="source")
    return figures.heatmap(matrix, "Test loss relative to the target's own hyperparameters", 1.0, "transferred / own")
