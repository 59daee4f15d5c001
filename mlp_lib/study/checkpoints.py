"""The networks that a run kept, as ordinary PyTorch modules."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mlp_lib.core.errors import SettingsError
from mlp_lib.core.network import sequential
from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.run.files import ROOT, RunDirectoryError, RunFiles, read_yaml


def load_model(run: str | Path, architecture: str | Architecture, seed: int) -> nn.Sequential:
    """A retrained network of a run, on the CPU and in eval mode: images [N, D] in [0, 1] to logits [N, classes].

    `run` is its directory, from the repository's root; `architecture` may be given by its name, mlp_256x128; `seed` is
    the run seed of the retraining. RunDirectoryError if the run keeps no such checkpoint, or a damaged one.
    """
    if isinstance(architecture, str):
        try:
            architecture = Architecture.from_name(architecture)
        except ValueError:
            raise SettingsError(f"architecture = {architecture!r}: should be a name like mlp_256x128") from None
    of_run = RunFiles(ROOT / os.path.expanduser(run))
    files = of_run.architecture(architecture)
    path = files.model(seed)
    if not path.exists():
        kept = [(path.parents[2].name, path.parent.name.replace("_", " ")) for path in of_run.models()]
        own = [of_seed for name, of_seed in kept if name == architecture.name]
        there = ", ".join(own or dict.fromkeys(name for name, _ in kept)) or "no other"
        raise RunDirectoryError(
            f"{path} is missing; there is {there}: a run keeps what completed with save_checkpoints: true, and git "
            "does not take it along"
        )
    try:
        hyperparameters = Hyperparameters(**read_yaml(files.config(seed))["hyperparameters"])
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = sequential(architecture, state["0.weight"].shape[1], hyperparameters)
        model.load_state_dict(state)
    except Exception as error:  # torch and pickle raise what they like for a damaged file
        found = " ".join((str(error) or type(error).__name__).split())[:200]
        raise RunDirectoryError(f"{path} or its config.yaml is damaged ({found}): delete both and retrain") from None
    return model.eval()


def predict(model: nn.Sequential, images: Tensor) -> np.ndarray:
    """The probabilities [N, classes] of each image [N, D]."""
    with torch.inference_mode():
        return torch.softmax(model(images), dim=1).numpy()
