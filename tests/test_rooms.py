"""Imports go down the rooms of the house, never up or along a row."""

import inspect

from importlinter import cli

from mlp_lib.core.training import train_population


def test_imports_go_down() -> None:
    """The contracts of pyproject.toml hold."""
    assert cli.lint_imports(no_cache=True) == 0


def test_training_cannot_see_the_test_split() -> None:
    """Not in its signature."""
    parameters = inspect.signature(train_population).parameters
    assert not [name for name in parameters if "test" in name or "dataset" in name]
