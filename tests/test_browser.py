"""JupyterLab as a user sees it, in a headless browser: the sliders, the buttons, the explorer, a quiet console."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import CHROMIUM, SLOW_MS, browser_page, copy_notebook, jupyter_lab, run_all_cells
from test_run_views import make_run

from mlp_lib.run.files import ROOT

MISSING = "no chromium: make browser-test installs it" if CHROMIUM is None else ""
if importlib.util.find_spec("playwright") is None:
    MISSING = "no playwright: pip install -e '.[test]'"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab on copies of the two notebooks, the analysis' on a small run."""
    run_dir = make_run(tmp_path_factory.mktemp("run"))
    copy_notebook(folder, "00_explore", max_epochs=20, patience=10**6)
    copy_notebook(folder, "04_analysis", run_dir=str(run_dir))
    with jupyter_lab(folder) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with browser_page() as (page, errors):
        yield page
        assert errors == []


def image_near(page: Any, widget: Any) -> Any:
    """The first picture in the output that a widget is in; another `src` is another picture."""
    return page.locator(".jp-OutputArea-output").filter(has=widget).locator("img").first


def expect(locator: Any) -> Any:
    """What a locator comes to within the time that a slow machine may take."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=SLOW_MS)
    return sync_api.expect(locator)


def test_explore_by_hand(page: Any, address: str) -> None:
    run_all_cells(page, address, "00_explore.ipynb")
    train, stop = (page.locator("button.jupyter-button", has_text=name) for name in ("Train", "Stop"))
    train.scroll_into_view_if_needed()
    expect(stop).to_be_disabled()

    slider = page.locator(".widget-slider", has_text="dropout")
    shown = slider.locator(".widget-readout")
    expect(shown).to_have_text("0.10")
    slider.locator(".noUi-handle").press("ArrowRight")
    expect(shown).not_to_have_text("0.10")
    epochs = page.get_by_label("epochs, at most")
    epochs.fill("1000000")
    epochs.press("Enter")

    curves, said = image_near(page, train), page.get_by_text("Attempt 3")
    before = curves.get_attribute("src")
    train.click()
    expect(said).to_have_text(re.compile(r"training, epoch \d+ .* best validation loss"))
    expect(train).to_be_disabled()
    expect(curves).not_to_have_attribute("src", before)
    first = curves.get_attribute("src")
    expect(curves).not_to_have_attribute("src", first)  # it grows

    stop.click()
    expect(said).to_have_text(re.compile("stopped, epoch"))
    expect(stop).to_be_disabled()
    expect(train).to_be_enabled()
    expect(page.locator(".jp-OutputArea-output td", has_text="stopped").first).to_be_visible()


def test_a_saved_notebook_is_stripped_to_what_it_was(page: Any, address: str, folder: Path) -> None:
    """What git's filter makes of a notebook that was run and saved is what was committed."""
    before = copy_notebook(folder, "02_retrain", run_dir=str(folder / "none")).read_text()
    run_all_cells(page, address, "02_retrain.ipynb")
    page.get_by_text("RunDirectoryError").first.wait_for()
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Save Notebook")).first.click()
    page.get_by_text("Saving completed").wait_for()
    saved = (folder / "02_retrain.ipynb").read_text()
    assert '"execution_count": 1' in saved
    said = subprocess.run(
        ["git", "config", "-f", ROOT / ".ci" / "gitconfig", "filter.nbstripout.extrakeys"],
        capture_output=True,
        text=True,
        check=True,
    )
    line = [sys.executable, "-m", "nbstripout", "--keep-id", "--extra-keys", said.stdout.strip()]
    stripped = subprocess.run(line, input=saved, capture_output=True, text=True, check=True)
    assert stripped.stdout == before


def test_the_explorer_of_an_analysis(page: Any, address: str) -> None:
    run_all_cells(page, address, "04_analysis.ipynb")
    seed, architecture = page.get_by_label("retrain seed"), page.get_by_label("architecture")
    seed.scroll_into_view_if_needed()
    curve = image_near(page, seed)
    before = curve.get_attribute("src")
    other = "mlp_4" if architecture.input_value() == "mlp_3x2" else "mlp_3x2"
    architecture.select_option(other)
    expect(curve).not_to_have_attribute("src", before)
    for name in ("source", "target"):
        page.get_by_label(name, exact=True).select_option(other)
    expect(page.get_by_text(f"{other.removeprefix('mlp_')} with its own hyperparameters")).to_be_visible()
    output = page.locator(".jp-OutputArea-output").filter(has=seed)
    expect(output.locator("img")).to_have_count(2)  # the curve, and the network's mistakes
    expect(page.get_by_text("analysis is done")).to_be_attached()
