"""What memory was found to hold on a CUDA device is recorded, and kept when the run goes on."""

from pathlib import Path

from study import TRIALS, Doing, study_of

from mlp_lib.run.files import read_yaml
from mlp_lib.run.recipe import Wanted
from mlp_lib.workers.jobs import Result, Unit


def test_population_sizes_are_recorded_and_kept(tmp_path: Path) -> None:
    sizes = []

    def train(unit: Unit) -> Result:
        sizes.append(len(unit.labels))
        return Result({}, {}, None, fitting=4)

    workers = Doing(train)
    workers.device = "cuda"
    study = study_of(tmp_path, "search", workers)
    trials = [Wanted(study.architectures[0], TRIALS[0], 0, trial) for trial in range(10)]
    list(study.train(trials, "search"))
    assert read_yaml(tmp_path / "search/population_sizes.yaml") == {study.architectures[0].name: 4}
    list(study.train(trials, "search"))
    assert sizes == [10, 4, 4, 2]
