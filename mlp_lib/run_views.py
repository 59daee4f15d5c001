"""Views of single trainings of a run: a trial's curve, its numbers, a pair's regret, a network's mistakes."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from mlp_lib import explore_figures
from mlp_lib.analysis import Evidence
from mlp_lib.errors import DataError, MlpError
from mlp_lib.notebook import ROOT
from mlp_lib.settings import HYPERPARAMETERS, DataSettings

if TYPE_CHECKING:
    from mlp_lib.data import Split


@dataclass(frozen=True)
class Choice:
    """What is looked at; None where the run has no such thing yet."""

    architecture: str
    trial: int | None
    seed: int | None
    source: str | None
    target: str | None


class RunViews:
    """The views of one run, from its evidence. Each view is a pure function of a choice and what is on disk."""

    def __init__(self, evidence: Evidence):
        self.evidence, self.files = evidence, evidence.files
        self.architectures = [architecture.name for architecture in evidence.architectures]
        self.effects = evidence.transfer_effects()

    def trials(self, architecture: str) -> pd.DataFrame:
        """The trials of an architecture: the chosen one, then the others from the best to the worst."""
        trials = self.evidence.trials
        if trials.empty:
            return pd.DataFrame(columns=["trial", "val_loss", "chosen"])
        own = trials[trials["architecture"] == architecture].sort_values("val_loss")
        return own.sort_values("chosen", ascending=False, kind="stable")

    def seeds(self, architecture: str) -> list[int]:
        """The retrain seeds of an architecture, the one of median test loss first: neither luck nor mishap."""
        own = self.evidence.retrainings
        own = own[own["architecture"] == architecture].sort_values("test_loss")
        middle = (own["test_loss"].count() - 1) // 2
        seeds = own["seed"].tolist()
        return seeds[middle : middle + 1] + sorted(seeds[:middle] + seeds[middle + 1 :]) if seeds else []

    def typical(self, architecture: str | None = None) -> Choice:
        """The choice to begin with: the best architecture's chosen trial, its median seed, and the costliest pair."""
        means = self.evidence.retrainings.groupby("architecture")["test_loss"].mean()
        if architecture is None:
            architecture = means.idxmin() if means.notna().any() else self.architectures[0]
        trials, seeds, effects = self.trials(architecture), self.seeds(architecture), self.effects
        trial = int(trials["trial"].iloc[0]) if len(trials) else None
        costliest = (
            effects.loc[effects["quotient"].idxmax()] if effects.get("quotient", pd.Series()).notna().any() else {}
        )
        return Choice(architecture, trial, next(iter(seeds), None), costliest.get("source"), costliest.get("target"))

    def curve(self, choice: Choice) -> Figure | str:
        """The trial's learning curve among those of its architecture."""
        if choice.trial is None:
            return "No trial of this architecture is on disk."
        trials, curves = self.trials(choice.architecture), self.evidence.curves
        own = curves[curves["architecture"] == choice.architecture]
        chosen = trials.loc[trials["chosen"], "trial"]
        return explore_figures.trial_curve(own, choice.architecture, choice.trial, next(iter(chosen), None))

    def numbers(self, choice: Choice) -> pd.DataFrame:
        """The trial's hyperparameters beside the chosen ones, and how each ended: a row a quantity."""
        trials = self.trials(choice.architecture)
        if choice.trial is None:
            return pd.DataFrame()
        shown = trials[(trials["trial"] == choice.trial) | trials["chosen"]]
        results = ["status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]
        table = shown.set_index("trial")[[*HYPERPARAMETERS, *results]].T
        chosen = set(trials.loc[trials["chosen"], "trial"])
        table.columns = [f"trial {t} (chosen)" if t in chosen else f"trial {t}" for t in table.columns]
        return table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)

    def regret(self, choice: Choice) -> str:
        """What the source's hyperparameters cost on the target, with its interval, as a sentence."""
        if choice.source is None or choice.target is None:
            return "No transfer of this run is on disk (03_transfer)."
        if choice.source == choice.target:
            return f"{choice.target} with its own hyperparameters: a regret of 0, by definition."
        effects = self.effects
        row = effects[(effects["target"] == choice.target) & (effects["source"] == choice.source)].iloc[0]
        level = f"{100 * self.evidence.settings.confidence:g} %"
        said = (
            f"{choice.target} trained with the hyperparameters of {choice.source}: regret {row['regret']:+.4f} nats "
            f"({row['mean']:.4f} against its own {row['own_mean']:.4f}); "
        )
        if row["identical"]:
            return said + "the two searches chose the same hyperparameters"
        return said + (
            f"{row['quotient']:.3f} times the loss, {level} interval {row['low']:.3f} to {row['high']:.3f} "
            f"(n = {row['n']:.0f} seeds)."
        )

    def mistakes(self, choice: Choice) -> Figure | str:
        """Confusion matrix and misclassified test images of a retrained network, or why there is none to show."""
        if choice.seed is None:
            return "No retraining of this architecture is on disk (02_retrain)."
        from mlp_lib.checkpoints import load_model, predict  # these load torch, which the analysis does without

        try:
            model = load_model(self.files.root, choice.architecture, choice.seed)
            test = self._test
        except MlpError as error:
            said = str(error).replace(f"{self.files.root}/", "")  # a saved report keeps no machine's paths
            return f"No confusion matrix: {said}."
        return explore_figures.mistakes(test.images.numpy(), test.labels.numpy(), predict(model, test.images))

    @cached_property
    def _test(self) -> "Split":
        """The test split of the run's data; DataError if it is not at hand, or another."""
        import torch

        from mlp_lib.data import load_dataset
        from mlp_lib.meta import read_meta

        parameters = self.evidence.parameters
        settings = DataSettings(**{name: parameters[name] for name in DataSettings.model_fields} | {"preload": "cpu"})
        dataset = load_dataset(settings, torch.device("cpu"), ROOT)
        if dataset.digest != read_meta(self.files).get("data_digest"):
            raise DataError(f"the {settings.dataset} at hand is not the data that this run was made with")
        return dataset.test
