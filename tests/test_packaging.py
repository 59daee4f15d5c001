"""What a fresh clone holds, and the two lists of dependencies, which must be equal."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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


def test_what_is_installed_by_default_was_tested_and_is_allowed():
    """One version for each requirement, here and now, which the bounds in pyproject.toml hold."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    versions = {r.name: str(r.specifier)[2:] for r in map(Requirement, lines) if not r.marker or r.marker.evaluate()}
    assert len(versions) > 100
    project = read_project()
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [Requirement(line) for lines in lists for line in lines]
    assert [str(r) for r in wanted if r.name != "mlp_lib" and versions.get(r.name.lower()) not in r.specifier] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(("newest", "by"), [([], "-c constraints.txt"), (["NEWEST=1"], "-U --upgrade-strategy eager")])
def test_make_installs_what_was_tested_or_the_newest(newest: list[str], by: str):
    for target, what in (("run", "."), ("lab", "."), ("test", ".[test]")):
        line = ["make", "-n", target, "VENV=none", *newest]
        said = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert f"{by} -e '{what}'" in said


def test_top_level_is_the_contracts():
    folders = ["notebooks", "mlp_lib", "params", "executed", "tests"]
    files = "environment.yml README.md pyproject.toml constraints.txt Makefile CONTRIBUTING.md CITATION.cff LICENSE"
    assert [name for name in (*folders, *files.split(), ".ci/run") if not (ROOT / name).exists()] == []


def test_license_names_its_holders():
    text = (ROOT / "LICENSE").read_text()
    assert "MIT License" in text
    assert "the mlp_lib authors" in text


def test_the_citation_is_of_this_version():
    citation, project = yaml.safe_load((ROOT / "CITATION.cff").read_text()), read_project()
    assert citation["version"] == project["version"]
    assert citation["authors"] == project["authors"]


def test_git_strips_notebooks_and_leaves_reports(tmp_path: Path):
    """`make hooks` includes .ci/gitconfig; .gitattributes says what is filtered."""

    def git(*words: str) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(
            ["git", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    if shutil.which("git") is None:
        pytest.skip("no git")
    git("init", "-q")
    git("config", "include.path", str(ROOT / ".ci" / "gitconfig"))
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    report = next((ROOT / "executed" / "example").glob("04*.ipynb"))
    for folder in ("notebooks", "executed/example"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(report, tmp_path / folder / "04.ipynb")
    git("add", ".")
    assert git("show", ":executed/example/04.ipynb") == report.read_text()
    stripped = git("show", ":notebooks/04.ipynb")
    assert '"outputs": []' in stripped
    assert "image/png" not in stripped
    assert '"id": "04-03"' in stripped


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_is_what_the_filter_makes_of_it(notebook: Path):
    """Else it would show up as changed as soon as it was opened."""
    line = [sys.executable, "-m", "nbstripout", "--keep-id"]
    done = subprocess.run(line, input=notebook.read_bytes(), capture_output=True, check=True)
    assert done.stdout == notebook.read_bytes()


def test_the_site_is_made_and_its_links_hold(tmp_path: Path):
    """Of the files as they lie here: mkdocs is strict about links between pages, and files, and to headings."""
    source = tmp_path / "source"
    for name in ("README.md", "CONTRIBUTING.md", "docs", "executed/example", "executed/reference"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    config = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(source), "site_dir": str(tmp_path / "site")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    said = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", tmp_path / "mkdocs.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    page = (tmp_path / "site/index.html").read_text()
    assert 'href="docs/answers.html"' in page
    assert 'href="executed/example/index.html"' in page
    assert not re.findall(r'(?:src|<link[^>]* href)="https?:', page)  # it loads nothing from anywhere
