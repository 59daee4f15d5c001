"""A notebook's parameters, read from its namespace strictly."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlp_lib.run.parameters import FIELDS
from mlp_lib.run.parsing import Kind, check_names, parse_own


def read_parameters(kind: type[Kind], namespace: Mapping[str, Any], where: str, also: tuple[str, ...] = ()) -> Kind:
    """The notebook's parameters, parsed strictly; SettingsError for a wrong one or a name that no notebook declares."""
    allowed = (*kind.model_fields, *also)
    check_names(dict.fromkeys(_names_given(namespace, allowed)), where, (*FIELDS, "run_dir"))
    return parse_own(kind, namespace, where)


def _names_given(namespace: Mapping[str, Any], allowed: Iterable[str]) -> list[str]:
    """The names that the parameters cell assigns, or the one that papermill puts after it, whichever was run last.

    It is told by papermill's first line, or by a name that it may assign. globals() wouldn't do, since in JupyterLab
    it also holds what other cells made, and a name that was misspelt and mended.
    """
    for source in reversed(namespace.get("In", [])):
        names = re.findall(r"^(\w+)(?: *: *\w+)? *=(?!=)", source, re.MULTILINE)
        if source.startswith("# Parameters\n") or not set(names).isdisjoint(allowed):
            return names
    return []
