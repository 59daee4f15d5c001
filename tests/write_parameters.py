"""What is written from the parameters' fields: params/, the notebooks' parameters cells, the table in docs/.

`make parameters` runs this file, which writes what differs; a test holds that nothing does.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from mlp_lib.run.files import REPORTS, ROOT, flow_yaml
from mlp_lib.run.parameters import (
    DEFAULTS,
    FIELDS,
    NOTEBOOK_SETTINGS,
    PARAMETERS_OF_FILE,
    ExploreSettings,
    SeededSettings,
    change_of,
)
from mlp_lib.run.parsing import allowed, schema_at

WIDTH = 120
DOCS = Path("docs", "parameters.md")
BEGIN, END = "<!-- written by make parameters: begin -->\n", "<!-- end -->\n"
NOTEBOOKS = {"00_explore": ExploreSettings} | {REPORTS[phase]: kind for phase, kind in NOTEBOOK_SETTINGS.items()}
_PYTHON = {"null": "None", "true": "True", "false": "False"}
_NULLABLE = {"integer": "int", "string": "str", "array": "list"}  # the type of what may be null, by its schema's


def expected() -> dict[Path, str]:
    """The text that each of the written files should have, by its path in the repository."""
    texts = {Path("params", f"{name}.yaml"): params_file(name) for name in PARAMETERS_OF_FILE}
    for name in NOTEBOOKS:
        path = Path("notebooks", f"{name}.ipynb")
        texts[path] = _with_cell((ROOT / path).read_text(encoding="utf-8"), parameters_cell(name))
    before, rest = (ROOT / DOCS).read_text(encoding="utf-8").split(BEGIN)
    return texts | {DOCS: before + BEGIN + table() + END + rest.split(END)[1]}


def params_file(name: str) -> str:
    """A file of params/: each parameter with its default and, beside it where there is room or above, what it is."""
    kind = SeededSettings if name == "defaults" else NOTEBOOK_SETTINGS.get(name)
    lines = [f"# {kind.__doc__}"] if kind else []
    for parameter in PARAMETERS_OF_FILE[name]:
        value = _yaml(f"{parameter}:", DEFAULTS[parameter])
        told = _description(parameter)
        beside = f"{value[0]:<25} # {told}"
        if len(value) == 1 and len(beside) <= WIDTH and "\n" not in told:
            lines.append(beside)
        else:
            lines += [f"# {line}" for part in told.split("\n") for line in textwrap.wrap(part, WIDTH - 2)] + value
    return "\n".join(lines) + "\n"


def _yaml(head: str, value: Any, indent: str = "") -> list[str]:
    """A value as lines of YAML: in a line where there is room for it."""
    line = f"{indent}{head} {flow_yaml(value)}"
    if len(line) <= WIDTH or not isinstance(value, dict | list):
        return [line]
    inner = [(f"{name}:", v) for name, v in value.items()] if isinstance(value, dict) else [("-", v) for v in value]
    return [f"{indent}{head}", *(line for name, v in inner for line in _yaml(name, v, f"{indent}  "))]


def _schema(name: str) -> dict[str, Any]:
    return schema_at(next(kind for kind in NOTEBOOKS.values() if name in kind.model_fields), (name,))[1]


def _description(name: str) -> str:
    """What a parameter is, after the names it may have if it is one of several."""
    schema = _schema(name)
    return f"{allowed(schema)}; {FIELDS[name].description}" if "enum" in schema else FIELDS[name].description


def parameters_cell(notebook: str) -> str:
    """The source of a notebook's parameters cell, typed and commented as `papermill --help-notebook` reads it."""
    lines = []
    if notebook != "00_explore":
        begins = notebook in (REPORTS["search"], REPORTS["benchmark"])
        taken = "the newest by hand that fits, or a new one" if begins else "the one that 01 was run on last"
        lines.append(f"run_dir: str = None  # a run's directory, from the repository's root; None: {taken}")
    for name in NOTEBOOKS[notebook].model_fields:
        value = FIELDS[name].json_schema_extra.get("small", DEFAULTS[name])
        kind = _NULLABLE[_schema(name)["anyOf"][0]["type"]] if value is None else type(value).__name__
        told = re.sub(r"\b(null|true|false)\b", lambda word: _PYTHON[word[0]], _description(name).split("\n")[0])
        lines.append(f"{name}: {kind} = {_python(value)}  # {told}")
    return "\n".join(lines)


def _python(value: Any) -> str:
    """A value as ruff formats it: a mapping of mappings an entry a line, all else in one."""
    if isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()):
        return "{\n" + "".join(f'    "{name}": {_python(inner)},\n' for name, inner in value.items()) + "}"
    return repr(value).replace("'", '"')


def _with_cell(notebook: str, source: str) -> str:
    """The notebook's text with the source of its parameters cell."""
    content = json.loads(notebook)
    cell = next(cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = source.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def table() -> str:
    """The parameters as a table in Markdown, a row each."""
    rows = ["parameter | default | allowed | notebooks | on a run that is there | what", " | ".join(["---"] * 6)]
    for name, field in FIELDS.items():
        takers = " ".join(notebook[:2] for notebook, kind in NOTEBOOKS.items() if name in kind.model_fields)
        default = flow_yaml(DEFAULTS[name])
        shown = f"`{default}`" if len(default) <= 60 else "see its file"
        told = field.description.replace("\n", ". ")
        rows.append(" | ".join([f"`{name}`", shown, allowed(_schema(name)), takers, change_of(name), told]))
    return "".join(f"| {row} |\n" for row in rows)


if __name__ == "__main__":
    for path, text in expected().items():
        (ROOT / path).write_text(text, encoding="utf-8")
