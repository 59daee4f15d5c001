"""Imports go down the floors of the house, never up or along one."""

import ast
import inspect
from pathlib import Path

import pytest

import mlp_lib
from mlp_lib.train import train_population

HOUSE = Path(mlp_lib.__file__).parent
FLOORS = [
    {"__init__"},
    {"errors", "fused"},
    {"settings", "progress", "display"},
    {"runtime", "artifacts", "claim", "statistics", "inference", "search_statistics"},
    {
        "products",
        "parametrization",
        "search",
        "halving",
        "data",
        "state",
        "meta",
        "figures",
        "transfer_statistics",
        "architecture_statistics",
    },
    {
        "model",
        "report",
        "verdicts",
        "search_figures",
        "evidence_figures",
        "benchmark_figure",
        "explore_figures",
        "practice_statistics",
        "practice_figures",
        "trainings",
    },
    {"adamw"},
    {"population"},
    {"train", "analysis", "stored"},
    {"units", "benchmark_methods", "coordinate_check"},
    {"workers"},
    {"cluster"},
    {"study", "benchmark"},
    {"reevaluation", "sources"},
    {"experiments"},
    {"estimate", "notebook"},
    {"execution", "explore", "checkpoints"},
    {"run"},
    {"repeat", "status", "explore_panel", "run_views"},
    {"__main__", "run_explorer"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
MODULES = sorted(path.stem for path in HOUSE.glob("*.py"))


def read(module: str) -> ast.Module:
    return ast.parse((HOUSE / f"{module}.py").read_text())


def imports(module: str) -> set[str]:
    """The modules of mlp_lib that this one imports, wherever in its text."""
    found = set()
    for node in ast.walk(read(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mlp_lib.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "mlp_lib":
            found |= {alias.name if alias.name in MODULES else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlp_lib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
    return found


def reachable(module: str) -> set[str]:
    found, waiting = set(), [module]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def test_every_module_has_its_floor():
    assert set(MODULES) <= set(FLOOR_OF), "place the new module in FLOORS"


def test_no_room_outside_the_floors():
    assert not [path for path in HOUSE.rglob("*.py") if path.parent != HOUSE and "templates" not in path.parts]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str):
    upward = {name for name in imports(module) if FLOOR_OF[name] >= FLOOR_OF[module]}
    assert not upward, f"{module} imports {upward}, which is not on a floor below it"


@pytest.mark.parametrize("module", MODULES)
def test_no_star_import(module: str):
    stars = [n for n in ast.walk(read(module)) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert not stars


def test_no_utils():
    assert not {"utils", "util", "helpers", "common", "misc"} & set(MODULES)


@pytest.mark.parametrize("module", ["statistics", "figures", "analysis", "settings", "artifacts"])
def test_tables_and_figures_need_no_torch(module: str):
    for name in {module} | reachable(module):
        for node in ast.walk(read(name)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("torch", "torchvision")], name


@pytest.mark.parametrize("module", [module for module in MODULES if module.endswith("statistics")] + ["inference"])
def test_statistics_reads_no_files(module: str):
    names = {n.func.id for n in ast.walk(read(module)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "open" not in names
    assert not {"artifacts", "data"} & reachable(module)


def test_training_cannot_see_the_test_split():
    """Not in its signature, and not in a name of its module."""
    parameters = inspect.signature(train_population).parameters
    assert not [name for name in parameters if "test" in name or "dataset" in name]
    names = {n.id for n in ast.walk(read("train")) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(read("train")) if isinstance(n, ast.Attribute)}
    names |= {n.arg for n in ast.walk(read("train")) if isinstance(n, ast.arg)}
    assert not {"Dataset", "load_dataset", "dataset", "test"} & names
