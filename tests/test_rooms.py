"""Imports go down the rooms of the house, never up or along a row."""

import inspect
from collections.abc import Callable

import pytest
from importlinter import cli

from mlp_lib.core.training import Training, train


def test_imports_go_down() -> None:
    """The contracts of pyproject.toml hold."""
    assert cli.lint_imports(no_cache=True) == 0


@pytest.mark.parametrize("function", [train, Training])
def test_training_cannot_see_the_test_split(function: Callable) -> None:
    """Not in its signature."""
    parameters = inspect.signature(function).parameters
    assert not [name for name in parameters if "test" in name or "dataset" in name]
