"""The HTML pages: nothing from outside, nothing unescaped, a text for every image, and files that may be missing."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlp_lib.reports.pages import describe_status, list_run, render_notebook, write_run_index, write_runs_index
from mlp_lib.run import record
from mlp_lib.run.claim import claim
from mlp_lib.run.files import RunFiles
from mlp_lib.run.parameters import PHASES

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n tiny").decode()
FINISH = {"tags": ["finish"]}
HOSTILE = "<script>alert('x')</script>"


def notebook_of_everything() -> nbformat.NotebookNode:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "FloatProgress(value=0.0)"}
    table = "<table class='dataframe'><tr><td>7</td></tr></table><script src='https://example.org/x.js'></script>"
    red = "\x1b[0;31mValueError\x1b[0m"
    outputs = [
        new_output("stream", name="stdout", text=f"10 %\r100 %\n{HOSTILE}\n"),
        new_output("display_data", data={"text/html": table, "text/plain": "table"}),
        new_output("display_data", data={"image/png": PNG}, metadata={"alt": 'Loss "curve"'}),
        new_output("display_data", data={"image/png": PNG}),
        new_output("execute_result", data={"text/plain": HOSTILE}),
        new_output("display_data", data=widget),
        new_output("error", ename="ValueError", evalue=HOSTILE, traceback=[red, f"line 3: \x1b[1m{HOSTILE}"]),
    ]
    cells = [
        new_markdown_cell("# The search\n\nProse with a [link](https://example.org/page)."),
        new_markdown_cell("## Loss by trial\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
        new_code_cell("lr = 1  # " + HOSTILE, outputs=outputs, metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("## Loss by trial\n\nAgain."),
        new_code_cell(
            "show()",
            outputs=[
                new_output("display_data", data={"text/markdown": "### Fine print\n\nProse."}),
                new_output("display_data", data={"text/html": "<table><tr><td>in it</td></tr></table>"}),
                new_output("display_data", data={"text/markdown": "## After it"}),
            ],
        ),
        new_code_cell(
            "finish()", outputs=[new_output("execute_result", data={"text/plain": "'done'"})], metadata=FINISH
        ),
        new_code_cell(""),
    ]
    return new_notebook(cells=cells)


def render(path: Path, notebook: nbformat.NotebookNode) -> BeautifulSoup:
    """The page that is made of a notebook."""
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    render_notebook(path.with_suffix(".ipynb"), path.with_suffix(".html"))
    return BeautifulSoup(path.with_suffix(".html").read_text(), "html.parser")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("run")
    (run / "search").mkdir()
    render(run / "01_search", notebook_of_everything())
    return (run / "01_search.html").read_text()


def test_notebook_page_loads_nothing(html: str) -> None:
    page = BeautifulSoup(html, "html.parser")
    assert not page.select("script, link, iframe")
    assert all(tag["src"].startswith("data:") for tag in page.select("[src]"))
    assert [a["href"] for a in page.select("[href^=http]")] == ["https://example.org/page"]
    assert not re.search(r"@import|url\(", html)


def test_notebook_page_has_title_contents_and_folded_code(html: str) -> None:
    page = BeautifulSoup(html, "html.parser")
    assert page.title.string == page.header.h1.string == "The search"
    assert not page.select("main h1")
    targets = [a["href"].removeprefix("#") for a in page.select("nav a")]
    assert targets == [heading["id"] for heading in page.select("main h2, main h3")]
    assert len(set(targets)) == 4
    told = [summary.get_text() for summary in page.select("details.code > summary")]
    assert told == ["Parameters of this run", "Code"]
    assert "'done'" not in page.main.get_text()
    assert [a["href"] for a in page.select("header a")] == ["index.html", "../index.html"]
    folded = page.select("main details.more")
    assert [detail.summary.get_text() for detail in folded] == ["Fine print"]
    assert [table.get_text() for table in folded[0].select("table")] == ["in it"]
    assert all("scroll" in table.parent["class"] for table in page.select("table"))
    assert len(page.select("main table")) == 3


def test_pages_of_a_run_lead_to_one_another(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    paths = [tmp_path / "01_search.html", tmp_path / "02_retrain.html"]
    for path in paths:
        render(path, new_notebook(cells=[new_code_cell("1")]))
    for _ in range(2):  # as written, and after the first was rendered anew
        pages = [BeautifulSoup(path.read_text(), "html.parser") for path in paths]
        links = [[a["href"] for a in page.select("header a")] for page in pages]
        up = ["index.html", "../index.html"]
        assert links == [[*up, "02_retrain.html"], [*up, "01_search.html"]]
        render_notebook(tmp_path / "01_search.ipynb", tmp_path / "01_search.html")


def test_every_image_has_a_text(html: str) -> None:
    images = BeautifulSoup(html, "html.parser").select("img")
    assert [image["alt"] for image in images] == ['Loss "curve"', "Loss by trial"]


def test_pictures_in_prose_are_embedded_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(b"png")
    prose = "![own](own.png) ![away](https://example.org/x.png) ![above](../x.png) <b>bold <i>text</i></b>"
    page = render(tmp_path / "a", new_notebook(cells=[new_markdown_cell(prose)]))
    assert [image["src"] for image in page.select("img")] == ["data:image/png;base64,cG5n"]
    assert "[away] [above] bold text" in page.main.get_text()
    assert page.b.get_text() == "bold text"


def test_outputs_are_escaped_and_clean(html: str) -> None:
    page = BeautifulSoup(html, "html.parser")
    assert page.select_one("pre.stdout").get_text() == f"100 %\n{HOSTILE}\n"
    assert page.select_one(".error > pre").get_text() == f"ValueError: {HOSTILE}"
    assert page.select_one(".error details pre").get_text() == f"ValueError\nline 3: {HOSTILE}"
    assert "\x1b" not in html
    assert "FloatProgress" not in html


def test_notebook_without_headings(tmp_path: Path) -> None:
    page = render(tmp_path / "bare", new_notebook(cells=[new_code_cell("1")]))
    assert page.h1.string == "bare"
    assert page.nav is None
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["bare.html", "bare.ipynb"]


def fake_run(run: Path, text: str = "plain", started: str = "2026-01-02T03:04:05") -> Path:
    """A whole run, with `text` wherever a text may stand."""
    (run / "search" / "mlp_8x4").mkdir(parents=True)
    (run / "transfer").mkdir()
    (run / "analysis").mkdir()
    stretch = {"started": started, "duration_s": 3723.4, "device": text, "versions": {"torch": text}}
    phase = {"work": [stretch], "status": "done"}
    meta = {
        "parameters": {"project_name": text, "dataset": "digits", "architectures": {"list": [[8, 4], [4, 8]]}},
        "phases": {"search": phase, "retrain": phase, "transfer": phase, "analysis": {**phase, "error": text}},
    }
    answer = {"verdict": text, "effect": 0.0123456, "interval": [0.01, 0.02], "n": 5, "sentence": text}
    answers = {"hyperparameter_transfer": answer, "architecture_sensitivity": answer}
    (run / "search/search_meta.yaml").write_text(yaml.safe_dump(meta))
    (run / "analysis/answers.yaml").write_text(yaml.safe_dump(answers))
    stats = "architecture,parameters,n,mean,var,min,max,mean_accuracy\n"
    (run / "search/search_test_loss_stats.csv").write_text(stats + f'"{text}",12,1,0.123456789,,0.1,0.2,0.95\n')
    (run / "search/search_test_loss_over_seeds.png").write_bytes(b"png")
    (run / "analysis/findings.yaml").write_text(yaml.safe_dump([text]))
    (run / "02_retrain.html").write_text("page")
    (run / "index.html").write_text("of before")
    write_run_index(run)
    return run


def read_index(directory: Path) -> BeautifulSoup:
    return BeautifulSoup((directory / "index.html").read_text(), "html.parser")


def test_index_of_a_whole_run(tmp_path: Path) -> None:
    page = read_index(fake_run(tmp_path / "run"))
    assert "complete" in page.header.get_text()
    assert "2 architectures" in page.header.get_text()
    assert [p.get_text() for p in page.select(".answer .verdict")] == ["plain", "plain"]
    assert page.select_one("main > ul > li").get_text() == "plain"
    assert page.select_one("header a")["href"] == "../index.html"
    assert [a["href"] for a in page.select(".reports a")] == ["02_retrain.html"]
    assert [img["src"] for img in page.select("img")] == ["search/search_test_loss_over_seeds.png"]
    assert page.img["alt"]
    assert "1 h 02 min" in page.get_text()
    assert [td.get_text() for td in page.select("table:not(.words) td")][:5] == ["plain", "12", "1", "0.1235", ""]
    assert "search/search_test_loss_stats.csv" in [a["href"] for a in page.select("details a")]


def test_the_index_begins_with_the_answer_in_plain_words(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    pairs = {"all": 56, "costly": 4, "broken": 0, "within": 9}
    answer = {"verdict": "depends_on_the_pair", "confidence": 0.95, "margin": 0.05, "n": 4, "sentence": "Long."}
    answer |= {"trials": 30}
    costs = answer | {"effect": -0.004, "interval": [-0.01, 0.002], "pairs": pairs}
    counts = {"equivalent": 20, "different_beyond_margin": 5, "different": 2, "undetermined": 1}
    pair = {"upper": "mlp_8x4", "lower": "mlp_4x8"}
    differs = answer | {"effect": 0.137, "interval": [0.09, 0.185], "pairs": counts, "pair": pair}
    answers = {"hyperparameter_transfer": costs, "architecture_sensitivity": differs}
    (run / "analysis/answers.yaml").write_text(yaml.safe_dump(answers))
    write_run_index(run)
    first = read_index(run).select_one("main > *")
    assert [p.get_text() for p in first.select("p")] == [
        "On average nothing is shown to be lost by another architecture's hyperparameters (-0.4 %; 95 % interval "
        "-1.0 % to +0.2 %); 4 of 56 pairs are shown to lose more than 5 %.",
        "Once tuned, the architecture matters: 7 of 28 pairs differ, 5 by more than 5 %; 8x4 ends 13.7 % above 4x8 "
        "(+9.0 % to +18.5 %).",
    ]
    del costs["trials"]
    (run / "analysis/answers.yaml").write_text(yaml.safe_dump(answers | {"hyperparameter_transfer": costs}))
    write_run_index(run)
    costs = read_index(run).select_one("main > * > p").get_text()
    assert "For the hyperparameters that this one search chose: On" in costs


def test_a_linked_run_is_listed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/linked").symlink_to(fake_run(tmp_path / "elsewhere"))
    list_run(tmp_path / "runs/linked", tmp_path / "runs")
    assert "linked/index.html" in (tmp_path / "runs/index.html").read_text()


def test_index_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_run_index(tmp_path)
    page = read_index(tmp_path)
    assert page.get_text().count("No answer yet") == 2
    assert page.get_text().count("not begun") == 4
    assert not page.select("img, .reports, .note")


@pytest.mark.parametrize("damage", ["a: [1", "- a list", "text", "\x00", "", "phases: 3\nparameters: [1]\n"])
def test_index_of_a_damaged_run(tmp_path: Path, damage: str) -> None:
    run = fake_run(tmp_path / "run")
    names = ("search/search_meta.yaml", "analysis/answers.yaml", "search/search_test_loss_stats.csv")
    for name in names:
        (run / name).write_text(damage)
    write_run_index(run)
    write_runs_index(tmp_path)
    assert "No answer yet" in read_index(run).get_text()
    if not damage.startswith("phases"):
        assert "search_meta.yaml" in read_index(run).select_one(".note").get_text()
        assert "search_meta.yaml" in read_index(tmp_path).get_text()


def test_texts_of_a_run_are_escaped(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "<script>alert(1)<>&'#?", HOSTILE)
    write_runs_index(tmp_path)
    for page in (read_index(run), read_index(tmp_path)):
        assert not page.select("script")
        assert HOSTILE in page.get_text()
    assert read_index(run).h1.string == run.name
    assert read_index(tmp_path).select_one("td a")["href"] == "%3Cscript%3Ealert%281%29%3C%3E%26%27%23%3F/index.html"


def test_progress_is_shown_and_escaped_while_a_process_holds_the_run(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    record = yaml.safe_load((run / "search/search_meta.yaml").read_text())
    record["phases"]["transfer"] = {"status": "running", "started": "2026-01-02T03:04:05", "duration_s": 0.0}
    (run / "search/search_meta.yaml").write_text(yaml.safe_dump(record))
    (run / ".work").mkdir()
    (run / ".work/progress.txt").write_text(f"3 of 4 trainings {HOSTILE}")
    with claim(run, "the test"):
        write_run_index(run)
    page = read_index(run)
    assert page.select_one("td.running").find_next_siblings()[-1].string == f"3 of 4 trainings {HOSTILE}"
    assert not page.select("script")
    write_run_index(run)  # nobody holds it any more: whoever worked there is dead
    page = read_index(run)
    assert [td.string for td in page.select("td.interrupted")] == ["interrupted"]
    assert "3 of 4" not in page.get_text()
    assert "interrupted" in page.header.get_text()


def test_index_of_all_runs(tmp_path: Path) -> None:
    write_runs_index(tmp_path)
    assert "No runs yet" in read_index(tmp_path).get_text()
    fake_run(tmp_path / "old", started="2026-01-01T00:00:00+09:00")
    fake_run(tmp_path / "examples" / "new", started="2025-12-31T23:00:00-05:00")  # later, by another clock
    fake_run(tmp_path / "a" / "b" / "too_deep")
    (tmp_path / "no_run").mkdir()
    write_runs_index(tmp_path)
    page = read_index(tmp_path)
    assert [a["href"] for a in page.select("td a")] == ["examples/new/index.html", "old/index.html"]
    row = [td.get_text() for td in page.select("tbody tr")[1].select("td")]
    assert row == ["old", "plain", "plain", "complete", "digits", "2", "2026-01-01 00:00 +09:00", "plain"]


def test_status_names_the_way_on(tmp_path: Path) -> None:
    """With a path that a shell takes; of a benchmark that has yet to begin too."""
    run = fake_run(tmp_path / "my run")
    for name in ("transfer/sources.csv", "search/mlp_8x4/search_results.csv"):
        (run / name).write_text("trial,source\n")
    for phase in PHASES:
        record.note(RunFiles(run), phase)
    assert "to go on" not in describe_status(run)
    (run / "search/search_meta.yaml").write_text("parameters: {}\nphases: {}\n")
    assert describe_status(run).splitlines()[-1] == f"to go on: python -m mlp_lib run --run-dir '{run}'"
    (run / "search/search_meta.yaml").write_text("parameters: {benchmark_cases: []}\nphases: {}\n")
    lines = describe_status(run).splitlines()
    assert [line.split() for line in lines[:-1]] == [["benchmark", "not", "begun"]]
    assert lines[-1] == f"to go on: python -m mlp_lib benchmark --run-dir '{run}'"


def test_formulas_are_mathml_and_code_is_left_alone(tmp_path: Path) -> None:
    prose = "# T\n\nThe regret $R_{ts}$ costs; `$HOME$` is code, 5 $ is money."
    page = render(tmp_path / "n", new_notebook(cells=[new_markdown_cell(prose)]))
    assert [math.get_text() for math in page.select("main math")] == ["Rts"]
    text = page.main.get_text()
    assert "$HOME$ is code" in text
    assert "5 $ is money" in text
