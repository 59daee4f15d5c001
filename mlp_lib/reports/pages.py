"""Self-contained HTML pages of a run."""

import base64
import contextlib
import mimetypes
import re
import shlex
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jinja2
import pandas as pd
from bs4 import BeautifulSoup, NavigableString, Tag
from latex2mathml.converter import convert as to_mathml

from mlp_lib.core.errors import MlpError
from mlp_lib.reports.overview import HEADLINES, mapping, read_any, read_run, seconds, since_epoch
from mlp_lib.run import meta
from mlp_lib.run.claim import describe_holder, find_holder
from mlp_lib.run.files import (
    NOTEBOOKS,
    TEMPORARY,
    RunDirectoryError,
    RunFiles,
    flow_yaml,
    from_repository,
    read_table,
    read_yaml,
    runs_below,
    write_bytes,
)
from mlp_lib.run.work import now
from mlp_lib.workers.progress import seconds_text

TEMPLATES = Path(__file__).parent / "templates"
NEXT = "<!-- next -->"  # in a page, until there is a next one
_FORMULA = re.compile(r"\$([^$\n]+)\$")
_SEEDS = ("retrain_seeds", "transfer_seeds")
_HEADINGS = ("h1", "h2", "h3", "h4")
_SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]


def render_notebook(notebook: Path, page: Path) -> None:
    """Write an executed notebook as one HTML page that loads nothing from anywhere."""
    from nbconvert import HTMLExporter  # takes two seconds to import, and a wrong parameter should be told at once
    from traitlets.config import Config

    config = Config(
        {"NbConvertBase": {"display_data_priority": _SHOWN}, "CoalesceStreamsPreprocessor": {"enabled": True}}
    )
    folders = [str(TEMPLATES)]
    exporter = HTMLExporter(
        template_name="report", extra_template_basedirs=folders, extra_template_paths=folders, config=config
    )
    run = RunFiles(page.parent)
    order = [run.page(phase) for phase in NOTEBOOKS]
    place = order.index(page) if page in order else len(order)
    before, after = (
        [other for other in part[:1] if other.exists()] for part in (order[:place][::-1], order[place + 1 :])
    )
    resources = {
        "run_name": page.resolve().parent.name,
        "index": run.index.name if run.search.is_dir() else "",
        "before": [(other.name, other.stem) for other in before],
        "after": [(other.name, other.stem) for other in after],
        "facts": _facts(run, page),
    }
    html, _ = exporter.from_filename(str(notebook), resources=resources)
    write_bytes(page, _finish(BeautifulSoup(html, "html.parser"), notebook).encode(), parents=False)
    for other in before:  # it was written when this one was not there yet
        link = f'<a href="{quote(page.name)}">{page.stem} →</a>'
        write_bytes(other, other.read_bytes().replace(NEXT.encode(), link.encode(), 1))


def _facts(run: RunFiles, page: Path) -> list[str]:
    """What the banner says of a run's page: data, device, versions, when and how long the phase ran: the latest."""
    found = read_run(run, look=False)
    parameters = found["parameters"]
    states = mapping(found["meta"].get("phases")) | found["phases"]  # the search's report is no phase
    work = next((state.get("work") for phase, state in states.items() if run.page(phase).name == page.name), None)
    work = work or [{}]
    latest, versions = work[-1], mapping(work[-1].get("versions"))
    architectures = f"{found['architectures']} architectures" if found["architectures"] else None
    counts, seeds = [f"{parameters['num_trials']} trials"] if "num_trials" in parameters else [], _SEEDS
    if parameters.get("search_method") == "grid":
        counts, seeds = [f"grid of {parameters.get('grid_points')} points"], ("grid_seeds", *_SEEDS)
    counts += [f"{len(parameters[name])} {name.replace('_', ' ')}" for name in seeds if parameters.get(name)]
    facts = [parameters.get("dataset"), architectures, *counts, latest.get("device"), latest.get("machine")]
    facts += [f"{name} {versions[name]}" for name in ("mlp_lib", "torch") if name in versions]
    facts += [_moment(latest.get("started")), _duration(sum(seconds(stretch.get("duration_s")) for stretch in work))]
    facts += [f"the last of {len(work)} stretches of work"] if len(work) > 1 else []
    return [str(fact) for fact in facts if fact]


def _finish(soup: BeautifulSoup, notebook: Path) -> str:
    """The page with its title, its contents, a text for each image and a box that scrolls for each table."""
    for tag in soup.select("script, iframe, link, object, embed, base, a.anchor-link"):
        tag.decompose()
    for image in soup.select("main img"):
        if image.get("alt", "") in ("", "No description has been provided for this image"):
            before = image.find_previous([*_HEADINGS, "p"])
            text = before.get_text(" ", strip=True) if before else ""
            image["alt"] = text.split(". ")[0][:200] or "Figure"
        if not image.get("src", "").startswith("data:"):
            _embed(image, notebook.parent.resolve())
    for prose in soup.select(".prose"):
        for text in prose.find_all(string=_FORMULA):
            _show_formulas(text)
    for table in soup.select("main table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    heading = soup.main.h1
    title = heading.extract().get_text(strip=True) if heading else notebook.stem
    soup.title.string = soup.header.h1.string = title
    _fold(soup)
    _list_contents(soup)
    return str(soup)


def _embed(image: Tag, folder: Path) -> None:
    """Put a picture of the notebook's own folder into the page; of any other only its text is left.

    nbconvert's own embedding closes every inline HTML tag of the prose at once (seen in 7.17).
    """
    path = (folder / unquote(image.get("src", ""))).resolve()
    if path.is_relative_to(folder) and path.is_file():
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        image["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    else:
        image.replace_with(f"[{image['alt']}]")


def _show_formulas(text: NavigableString) -> None:
    """The $...$ of a piece of prose as MathML, which a browser shows without loading anything."""
    if text.find_parent(("code", "pre")):
        return
    for place, part in enumerate(_FORMULA.split(text)):
        text.insert_before(BeautifulSoup(to_mathml(part), "html.parser").math if place % 2 else NavigableString(part))
    text.extract()


def _fold(soup: BeautifulSoup) -> None:
    """Fold each subsection that a cell displays, heading, prose and all that follows up to the next heading."""
    for heading in soup.select("main .output.prose > h3:first-child"):
        block = heading.parent
        parts = [block]
        for part in block.find_next_siblings():
            if part.name in ("section", "details") or part.find(_HEADINGS):
                break
            parts.append(part)
        details, summary = soup.new_tag("details", attrs={"class": "more"}), soup.new_tag("summary")
        block.insert_before(details)
        summary.append(heading.extract())
        details.extend([summary, *parts])


def _list_contents(soup: BeautifulSoup) -> None:
    headings = soup.main.find_all(_HEADINGS)
    if len(headings) < 2:
        soup.nav.decompose()
        return
    for number, heading in enumerate(headings):
        heading["id"] = f"section-{number}"  # what the prose gives may come twice
        link = soup.new_tag("a", attrs={"class": heading.name, "href": f"#section-{number}"})
        link.string = heading.get_text(" ", strip=True)
        soup.nav.div.append(link)


def write_run_index(run_dir: Path) -> None:
    """Write a run's index.html from what is on disk: the answers, the state, the reports, figures, tables, origin.

    A page of that name that this package didn't make is left alone.
    """
    files = RunFiles(run_dir)
    run = read_run(files)
    if not _may_write(files.index, "run") and run["meta"].get("layout") == meta.LAYOUT:  # earlier ones bear no mark
        return
    content = {
        "root": run_dir,
        "now": _moment(now()),
        "command_path": shlex.quote(from_repository(run_dir)),
        "reports": [
            (_link(page, run_dir), page.stem) for page in sorted(run_dir.glob("[!.]*.html")) if page != files.index
        ],
        "findings": read_any(files.analysis / "findings.yaml", read_yaml, list, run["problems"]),
        "optima": [path for path in [files.analysis / "optimum_by_width.png"] if path.exists()],
        "figures": [path for path in (files.distribution, files.benchmark_figure) if path.exists()],
        "stats": read_any(files.stats, read_table, pd.DataFrame, run["problems"]),
        "files": _list_files(run_dir),
    }
    _write(files.index, _fill("run_index.html.j2", **run, **content))


def write_runs_index(runs_root: Path) -> None:
    """Write the index.html that lists all runs at most two levels below `runs_root`, the newest first.

    RunDirectoryError if it can't be written, or would replace a page that this package didn't make.
    """
    index = runs_root / "index.html"
    if not _may_write(index, "runs"):
        raise RunDirectoryError(f"{index} bears no mark of mlp_lib: delete it to have the list there")
    runs = []
    for files in runs_below(runs_root):
        link = _link(files.index, runs_root) if files.index.exists() else ""
        runs.append(read_run(files, look=False) | {"name": str(files.root.relative_to(runs_root)), "link": link})
    runs.sort(key=lambda run: (since_epoch(run["started"]), run["name"]), reverse=True)
    questions = [name.replace("_", " ") for name in HEADLINES]
    page = _fill("runs_index.html.j2", runs=runs, root=runs_root.resolve().name, questions=questions)
    _write(index, page)


def _write(index: Path, page: bytes) -> None:
    """By a name of its own, since others may write the same page just now."""
    own = index.with_name(f"{TEMPORARY}{uuid.uuid4()}")
    write_bytes(own, page, parents=False)  # not of a run that was removed
    own.replace(index)


def list_run(run_dir: Path, runs_root: Path) -> None:
    """Bring the list of runs up to date if the run is one of them; that it can't be is no fault of the run."""
    if {runs_root.absolute(), runs_root.resolve()} & {*run_dir.absolute().parents, *run_dir.resolve().parents}:
        try:
            write_runs_index(runs_root)
        except (MlpError, OSError) as error:
            print(f"no list of runs: {error}", flush=True)


def _may_write(page: Path, kind: str) -> bool:
    """Whether there is none yet, or one of the kind (run, runs) that this package made."""
    mark = f'<meta name="generator" content="mlp_lib {kind}">'
    return not page.exists() or mark in page.read_text(encoding="utf-8", errors="replace")[:1000]


def _list_files(run_dir: Path) -> dict[str, list[tuple[str, str]]]:
    """(link, name) of each table and YAML file, by folder; the single trainings' are left to their folders."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for pattern in ("*", "search/*", "search/*/*", "transfer/*", "analysis/*", "benchmark/*"):
        for path in sorted(run_dir.glob(pattern)):
            if path.suffix in (".csv", ".yaml") and not path.name.startswith("."):
                folder = str(path.parent.relative_to(run_dir))
                folders.setdefault(folder, []).append((_link(path, run_dir), path.name))
    return folders


def _link(path: Path, base: Path) -> str:
    return quote(path.relative_to(base).as_posix())


def _show(value: Any) -> str:
    """A value as text: four significant digits, nothing for what is missing."""
    if isinstance(value, (dict, list)):
        return flow_yaml(value)
    if value is None or isinstance(value, jinja2.Undefined) or pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(value: Any) -> str:
    spent = seconds(value)
    return "" if not spent else seconds_text(spent) if spent >= 60 else f"{spent:.1f} s"


def _moment(value: Any) -> str:
    """2026-01-02T03:04:05+01:00 as 2026-01-02 03:04 +01:00; of earlier versions without the offset."""
    text = _show(value).replace("T", " ", 1)
    return f"{text[:16]} {text[19:]}".strip()


def _fill(template: str, **content: Any) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(show=_show, moment=_moment, duration=_duration, link=_link)
    return environment.get_template(template).render(**content).encode()


def describe_status(run_dir: Path) -> str:
    """A line a phase (done, failed, interrupted, running, outdated, not begun), then who is at work, if anybody is.

    Brings index.html up to date, which a run that was killed could not. SettingsError where there is no run.
    """
    files = RunFiles(run_dir)
    meta.read_there(files)  # a damaged one is told
    run = read_run(files)
    lines = [f"{phase:10}{_status_line(state)}" for phase, state in run["phases"].items()]
    if holder := find_holder(run_dir):
        lines.append(f"in use: {describe_holder(holder)}")
    elif run["status"] != "complete":
        lines.append(f"to go on: {meta.go_on(run_dir, run['command'])}")
    with contextlib.suppress(MlpError, OSError):  # a directory that can only be read has a state all the same
        if run["meta"].get("layout") == meta.LAYOUT:  # the page of an earlier version stays as it was kept
            write_run_index(run_dir)
    return "\n".join(lines)


def _status_line(state: dict) -> str:
    told = state.get("error") or state.get("progress") or ""
    spent = f"{seconds_text(state['duration_s'])}" if state.get("duration_s") else ""
    return f"{state['status']:13}" + ", ".join(part for part in (spent, told) if part)
