"""What memory was found to hold on a CUDA device is recorded, and kept when the run goes on."""

from pathlib import Path

import pandas as pd
import torch
from study import settings_of

from mlp_lib.core.values import Hyperparameters
from mlp_lib.run.files import RunFiles, read_yaml
from mlp_lib.study import study
from mlp_lib.study.study import Study
from mlp_lib.workers import units

TRIAL = Hyperparameters(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0, dropout=0.1, leaky_relu_alpha=0.01)


def test_population_sizes_are_recorded_and_kept(tmp_path: Path, monkeypatch) -> None:
    settings = settings_of("search", workers=1)
    architecture, *_ = architectures = settings.architectures.architectures
    one = Study(settings, RunFiles(tmp_path), architectures, 64, "", tmp_path)
    members = [TRIAL] * 10, [0] * 10, list(range(10))

    def train_units(parts, job):
        for unit in parts:
            yield unit, units.Result(pd.DataFrame(), pd.DataFrame(), None, fitting=4)

    monkeypatch.setattr(study, "train_units", train_units)
    monkeypatch.setattr(study, "resolve_device", lambda name: torch.device("cuda"))
    assert [len(unit.labels) for unit in one.split(architecture, *members)] == [10]
    list(one.train(one.split(architecture, *members), "search"))
    assert read_yaml(tmp_path / "search/population_sizes.yaml") == {architecture.name: 4}
    assert [len(unit.labels) for unit in one.split(architecture, *members)] == [4, 4, 2]


def test_workers_on_cuda_share_out_whole_populations(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(study, "resolve_device", lambda name: torch.device("cuda"))
    members = [TRIAL] * 10, [0] * 10, list(range(10))
    for workers, sizes in [(1, [10]), (2, [10]), (3, [5, 5]), (8, [3, 3, 3, 1])]:
        settings = settings_of("search", workers=workers)
        architectures = settings.architectures.architectures  # two
        one = Study(settings, RunFiles(tmp_path), architectures, 64, "", tmp_path)
        assert [len(unit.labels) for unit in one.split(architectures[0], *members)] == sizes


def test_on_a_cpu_nothing_is_recorded(tmp_path: Path, monkeypatch) -> None:
    settings = settings_of("search")
    architectures = settings.architectures.architectures
    one = Study(settings, RunFiles(tmp_path), architectures, 64, "", tmp_path)
    result = units.Result(pd.DataFrame(), pd.DataFrame(), None, fitting=1)
    monkeypatch.setattr(study, "train_units", lambda parts, job: ((unit, result) for unit in parts))
    assert len(list(one.train(one.split(architectures[0], [TRIAL] * 2, [0] * 2, [0, 1]), "search")))
    assert not list(tmp_path.iterdir())
