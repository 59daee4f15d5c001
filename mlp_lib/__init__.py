"""Do tuned hyperparameters transfer between architectures, and once tuned, does the architecture matter?

Many multilayer perceptrons of one architecture are trained together, each with its own hyperparameters:

    from mlp_lib import load, train, Architecture, Hyperparameters
    data = load("mnist")
    sweep = [Hyperparameters(lr=lr) for lr in (1e-4, 1e-3, 1e-2)]
    trained = train(data.train, data.validation, Architecture((128, 64)), sweep)
    trained.score(data.test)      # losses and accuracies [P]
    trained.model(1)              # an ordinary nn.Sequential

`Training` is the same as an iterator over epochs, with a state to go on from. The study is `python -m mlp_lib --help`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_lib.core.data import load
    from mlp_lib.core.training import Trained, Training, train
    from mlp_lib.core.values import Architecture, Hyperparameters, TrainingSettings
    from mlp_lib.study.checkpoints import load_model

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Hyperparameters",
    "Trained",
    "Training",
    "TrainingSettings",
    "load",
    "load_model",
    "train",
]

# MKL, which multiplies torch's matrices, may otherwise choose a kernel by where a matrix lies in memory (seen on an AMD
# processor), so that a member's bits would depend on its place in the stack. It reads this once, at its first product.
# Intel oneMKL Developer Guide, "Obtaining Numerically Reproducible Results".
os.environ.setdefault("MKL_CBWR", "AUTO")

_ROOMS = {
    "core.data": ("load",),
    "core.training": ("Trained", "Training", "train"),
    "core.values": ("Architecture", "Hyperparameters", "TrainingSettings"),
    "study.checkpoints": ("load_model",),
}


def __getattr__(name: str) -> Any:
    """The front door's names when they are first asked for: what reads tables alone does without torch (PEP 562)."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"mlp_lib.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
