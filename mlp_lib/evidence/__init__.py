"""Pure functions of tables of losses, from measurements to answers."""

from mlp_lib.evidence.pool import contenders, count_best, find_budget
from mlp_lib.evidence.searches import over_searches

__all__ = ["contenders", "count_best", "find_budget", "over_searches"]
