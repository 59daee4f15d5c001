"""What the tests of figures share: made-up trials, and what a figure comes to when it is drawn."""

import warnings

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlp_lib.core.values import HYPERPARAMETERS


def names(number: int) -> list[str]:
    return [f"mlp_{256 - i}x{32 + i}" for i in range(number)]


def trials(architectures: int, number: int = 12) -> pd.DataFrame:
    """So many trials of each architecture, their hyperparameters between 0.01 and 0.1."""
    rng = np.random.default_rng(0)
    rows = [(name, trial) for name in names(architectures) for trial in range(number)]
    table = pd.DataFrame(rows, columns=["architecture", "trial"])
    table = table.assign(**{name: rng.uniform(0.01, 0.1, len(table)) for name in HYPERPARAMETERS})
    return table.assign(val_loss=rng.uniform(0.1, 2, len(table)))


def picture(figure: Figure) -> str:
    """What a notebook shows of the figure; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="matplotlib|pyparsing")
        return figure._repr_mimebundle_()[0]["image/png"]


def render(figure: Figure) -> Figure:
    """The figure, which can be drawn without a warning."""
    assert picture(figure)
    return figure
