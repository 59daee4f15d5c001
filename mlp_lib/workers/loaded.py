"""What a server imports when it starts. A module that fails is left to who needs it, who says why: it would end it."""

import contextlib
import importlib
import os

from mlp_lib.workers.server import LOADED

for _name in os.environ.get(LOADED, "").split():
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
