"""What a fresh clone holds, and the two lists of dependencies, which must be equal."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch"}


def read_project() -> dict:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_equals_pyproject():
    project = read_project()
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    wanted = []
    for requirement in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()
        wanted.append(CONDA_NAMES.get(name, name) + bound)
    assert environment["name"] == project["name"]
    assert environment["channels"][0] == "conda-forge"
    assert conda == ["python" + project["requires-python"], *wanted, "pip"]
    assert pip == {"pip": ["-e ."]}


@pytest.mark.parametrize(
    "name",
    [
        "notebooks",
        "mlp_lib",
        "params",
        "executed",
        "tests",
        "environment.yml",
        "README.md",
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        ".ci/run",
    ],
)
def test_top_level_is_the_contracts(name: str):
    assert (ROOT / name).exists()


def test_license_names_its_holders():
    text = (ROOT / "LICENSE").read_text()
    assert "MIT License" in text
    assert "the mlp_lib authors" in text
