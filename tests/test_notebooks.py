"""The notebooks in git are thin essays that declare their parameters; params/ holds the contract's defaults."""

import ast
import itertools
import logging
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import write_parameters
import yaml
from papermill.iorw import NoDatesSafeLoader

from mlp_lib.run.files import NOTEBOOKS, REPORTS, ROOT, read_yaml
from mlp_lib.run.parameters import NOTEBOOK_SETTINGS, PARAMETERS_OF_FILE, ExploreSettings
from mlp_lib.run.parsing import check_names, parse

FOLDER = ROOT / "notebooks"
PATHS = {phase: FOLDER / f"{name}.ipynb" for phase, name in REPORTS.items()}
WRITTEN = {FOLDER / f"{name}.ipynb": kind for name, kind in write_parameters.NOTEBOOKS.items()}
EVERY = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)

# the contract's
DEFAULTS = yaml.safe_load("""
defaults: {
  project_name: mnist-mlp, device: auto, mixed_devices: false, deterministic: false, workers: auto, scheduler: null,
  dataset: mnist, data_root: data, preload: auto, validation_size: null, split_seed: 0, loader_workers: 2,
  batch_size: 4096, max_epochs: 1000, patience: 7, val_interval: 4, matmul_precision: highest,
  parametrization: standard, base_width: 128, seeds: [1, 2, 3, 4, 5]}
search_space:
  search_space:
    lr: {distribution: log_uniform, low: 1.0e-5, high: 0.03}
    beta1: {distribution: uniform, low: 0.85, high: 0.99}
    beta2: {distribution: uniform, low: 0.9, high: 0.9999}
    eps: {distribution: log_uniform, low: 1.0e-9, high: 1.0e-6}
    weight_decay: {distribution: log_uniform, low: 1.0e-6, high: 0.01}
    dropout: {distribution: uniform, low: 0.01, high: 0.5}
    leaky_relu_alpha: {distribution: uniform, low: 0.01, high: 0.1}
architectures:
  architectures:
    grid: []
    list: [[252, 32, 16], [248, 32, 92], [244, 48, 56], [216, 120, 84], [188, 192, 112], [160, 264, 140],
      [160, 204, 224], [120, 204, 408]]
search: {
  search_method: random, grid_points: 9, grid_seeds: [101, 102, 103], num_trials: 30, search_seed: 0, training_seed: 0,
  same_trials_for_all_architectures: true}
retrain: {retrain_seeds: null, save_checkpoints: true}
transfer: {
  transfer_seeds: null, transfer_extra_sources: [], search_budget: auto, contenders: auto, search_dir: null}
analysis: {margin: 0.05, confidence: 0.95, analysis_seed: 0, compare_with: null}
benchmark:
  benchmark_cases:
    - {architecture: [120, 204, 408], members: 8, batch_size: 4096, workers: 1}
    - {architecture: [120, 204, 408], members: 4, batch_size: 4096, workers: 2}
    - {architecture: [252, 32, 16], members: 8, batch_size: 256, workers: 1}
    - {architecture: [32, 32], members: 16, batch_size: 256, workers: 1}
    - {architecture: [32, 32], members: 16, batch_size: 4096, workers: 1}
  benchmark_methods: [seed_way, plain, vmap, population, limit]
  benchmark_rounds: 7
""")


def cells(path: Path, kind: str = "code") -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters_cell(path: Path) -> str:
    found = [cell.source for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(found) == 1
    return found[0]


def parameters_of(path: Path) -> dict[str, Any]:
    """The values that the parameters cell assigns; it holds nothing but typed assignments of plain values."""
    statements = ast.parse(parameters_cell(path)).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements)
    names = [statement.target.id for statement in statements]
    assert len(set(names)) == len(names)
    return {statement.target.id: ast.literal_eval(statement.value) for statement in statements}


# --- in git ---------------------------------------------------------------------------------------------------------


@EVERY
def test_a_notebook_is_an_essay_of_short_cells(path: Path) -> None:
    """Nothing of a run is committed with it; its cells define nothing."""
    notebook, prose = nbformat.read(path, as_version=4), cells(path, "markdown")
    nbformat.validate(notebook)
    assert not {"papermill", "widgets"} & notebook.metadata.keys()
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in cells(path):
        if "parameters" in cell.metadata.get("tags", []):
            continue
        assert 1 <= len(cell.source.splitlines()) <= 8
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try)
        assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    assert notebook.cells[0] == prose[0]
    assert prose[0].source.startswith(f"# {path.stem[:2]} ")
    shown = [cell for cell in cells(path) if cell.source.startswith("evidence.show(")]  # heading and prose are its own
    assert (len(prose) + len(shown)) * 2 >= len(cells(path))


# --- the parameters cell --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_papermill_documents_every_parameter(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        documented = papermill.inspect_notebook(str(path))
    assert not [record.getMessage()[:60] for record in caplog.records if "parse" in record.getMessage()]
    assert set(documented) - {"run_dir"} == set(WRITTEN[path].model_fields)
    assert ("run_dir" in documented) == (WRITTEN[path] is not ExploreSettings)
    for parameter in documented.values():
        assert parameter["inferred_type_name"] not in ("", "None")
        assert len(parameter["help"]) > 3


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_the_values_of_the_parameters_cell_are_right(path: Path) -> None:
    values = parameters_of(path)
    values.pop("run_dir", None)
    settings = parse(WRITTEN[path], values, "the notebook")
    if "dataset" in values:
        assert settings.dataset == "digits"  # it needs no network


def test_the_notebooks_can_be_run_one_after_another() -> None:
    values = [parameters_of(PATHS[phase]) for phase in NOTEBOOKS]
    assert len({value["run_dir"] for value in values}) == 1
    for one, other in itertools.combinations(values, 2):
        assert {name: one[name] for name in one.keys() & other} == {name: other[name] for name in one.keys() & other}
    assert values[0]["training_seed"] not in values[1]["seeds"]
    assert values[1]["retrain_seeds"] is values[2]["transfer_seeds"] is None


# --- params/ --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_files_hold_the_defaults_of_the_contract(name: str) -> None:
    assert read_yaml(ROOT / "params" / f"{name}.yaml") == DEFAULTS[name]


def test_the_files_hold_every_parameter_once_and_nothing_else() -> None:
    assert set(PARAMETERS_OF_FILE) == set(DEFAULTS)
    names = [name for values in DEFAULTS.values() for name in values]
    declared = {name for settings in NOTEBOOK_SETTINGS.values() for name in settings.model_fields}
    assert sorted(names) == sorted(declared - {"parts"})  # `parts` is the command's: search_report or all


def test_make_parameters_would_change_nothing() -> None:
    texts = write_parameters.expected()
    assert len(texts) == len(PARAMETERS_OF_FILE) + len(list(FOLDER.glob("*.ipynb"))) + 1
    assert [str(path) for path, text in texts.items() if (ROOT / path).read_text(encoding="utf-8") != text] == []


def test_the_default_architectures_have_equally_many_parameters() -> None:
    choice = NOTEBOOK_SETTINGS["search"]().architectures
    assert {architecture.count_parameters(784) for architecture in choice.architectures} == {206_614}


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_profile_holds_parameters_alone_and_they_parse(path: Path) -> None:
    profile = read_yaml(path)
    assert profile == yaml.load(path.read_text(), Loader=NoDatesSafeLoader)  # as papermill reads it by itself
    check_names(profile, path.stem)
    for kind in NOTEBOOK_SETTINGS.values():
        parse(kind, {name: value for name, value in profile.items() if name in kind.model_fields}, path.stem)
