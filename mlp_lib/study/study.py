"""One phase at work on a run directory: its settings, files and workers, and what is recorded of its trainings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mlp_lib.core.values import DATASETS, Architecture
from mlp_lib.run.files import RunFiles, read_yaml, write_yaml
from mlp_lib.run.ledger import append_trainings, keys, read_trainings, sort_trainings
from mlp_lib.run.meta import searched_by
from mlp_lib.run.parameters import StudySettings
from mlp_lib.run.recipe import Conditions, Key, Wanted
from mlp_lib.workers.jobs import Job, Result, Unit
from mlp_lib.workers.pool import Workers


@dataclass(frozen=True)
class Study:
    """One phase at work on a run directory."""

    settings: StudySettings
    files: RunFiles
    architectures: tuple[Architecture, ...]
    digest: str
    workers: Workers
    closed: set[str] = field(default_factory=set)  # the phases that came to their end

    @property
    def inputs(self) -> int:
        """Pixels of an image."""
        return DATASETS[self.settings.dataset].inputs

    @property
    def conditions(self) -> Conditions:
        """Everything besides architecture, hyperparameters and run seed that decides a result."""
        return Conditions.of(self.settings, self.digest, self.workers.arithmetic, self.workers.torch)

    @property
    def searched(self) -> RunFiles:
        """The run whose search the transfer reads."""
        return searched_by(self.files, self.settings.search_dir)

    def trainings(self, *phases: str) -> pd.DataFrame:
        """The run's trainings of some phases (see ledger)."""
        return read_trainings(self.files, *phases)

    def train(self, wanted: Sequence[Wanted], what: str, **kept: bool) -> Iterator[tuple[Unit, Result]]:
        """The trainings by part of a unit, each with its result, recorded by the caller before it asks for the next.

        kept: what is kept of them besides (see Job).
        What memory was found to hold of an architecture's members is recorded and kept to, so that a run repeats.
        """
        sizes = read_yaml(self.files.population_sizes) if self.files.population_sizes.exists() else {}
        settings = self.settings.model_copy(update={"device": self.workers.device})
        job = Job(settings, self.digest, what, self.files.work, **kept)
        for unit, result in self.workers.train(self.workers.cut(wanted, self.inputs, sizes), job):
            if result.fitting and self.workers.device == "cuda":
                name = unit.architecture.name
                sizes[name] = min(result.fitting, sizes.get(name, result.fitting))
                write_yaml(self.files.population_sizes, sizes)
            yield unit, result

    def record(self, phase: str, unit: Unit, result: Result) -> None:
        """Add a unit's trainings to the ledger, after all that a recorded training must have on disk."""
        parameters = unit.architecture.count_parameters(self.inputs)
        append_trainings(self.files, phase, unit.members, result.rows, parameters)

    def close(self, phase: str, wanted: Iterable[Wanted], names: Mapping[Key, str] | None = None) -> pd.DataFrame:
        """Sort the ledger, which keeps all; the phase's rows that are wanted: a run that grew may have chosen anew.

        names: the sources of each key, of the transfer, the names of several with spaces between them.
        """
        rows, kept = self.trainings(), {one.key for one in wanted}
        if names is not None:
            found = [names.get(key) for key in keys(rows)]
            rows = rows.assign(source=pd.Series(found, rows.index, dtype=object).where(rows["phase"] == phase))
        sort_trainings(self.files, rows, self.architectures)
        self.closed.add(phase)
        rows = self.trainings(phase)
        return rows[np.array([key in kept for key in keys(rows)], dtype=bool)].reset_index(drop=True)
