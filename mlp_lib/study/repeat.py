"""One training repeated from its config.yaml, and compared with what was recorded of it."""

from pathlib import Path

import torch

from mlp_lib.core.data import load_dataset
from mlp_lib.core.errors import DataError, SettingsError
from mlp_lib.core.machine import resolve_device
from mlp_lib.core.training import train
from mlp_lib.core.values import Architecture, DataSettings
from mlp_lib.run.files import plain, read_yaml
from mlp_lib.run.parsing import parse
from mlp_lib.run.recipe import Recorded
from mlp_lib.workers.units import result_rows


def repeat(config: Path, data_root: str) -> tuple[bool, str]:
    """Train as a config.yaml says; whether the bits agree with its result and the model.pt beside it, and a report.

    config: the file, or its folder. Raises SettingsError for a file that is no config.yaml, DataError if the data is
    not what it was.
    """
    config = config / "config.yaml" if config.is_dir() else config
    content = read_yaml(config) if config.exists() else None
    if not isinstance(content, dict):
        raise SettingsError(f"{config}: should be the config.yaml of one seed, below search/*/retrain/ of a run")
    record = parse(Recorded, content, str(config))
    values = record.data.model_dump(exclude={"digest"})
    values |= {"data_root": data_root, "preload": "auto", "loader_workers": 0}
    settings = parse(DataSettings, values, str(config))
    there = record.device.split(",")[0]
    device = resolve_device("cpu" if there == "cpu" else "auto")
    dataset = load_dataset(settings, device)
    if dataset.digest != record.data.digest:
        raise DataError(f"{settings.dataset} is not the data of {config}: its digest is {dataset.digest[:12]}")
    architecture = Architecture(record.architecture)
    trained = train(
        dataset.train, dataset.validation, architecture, [record.hyperparameters], [record.seed], record.training
    )
    found = {name: plain(values[0]) for name, values in result_rows(trained, dataset.test).items()}
    differences = [
        f"{name}: {record.result.get(name)} recorded, {now} now"
        for name, now in found.items()
        if record.result.get(name) != now
    ]
    model = config.with_name("model.pt")
    if model.exists():
        differences += _compare(model, trained.model(0).state_dict())
    lines = [f"{architecture.name}, seed {record.seed}, {settings.dataset}, {device.type}: {found['status']}"]
    lines += [f"{name}: {now}" for name, now in found.items() if name != "status"]
    if device.type != there:
        lines.append(f"device: {there} then, {device.type} now")
    if torch.__version__ != record.torch:
        lines.append(f"torch: {record.torch} then, {torch.__version__} now")
    what = "the result and model.pt" if model.exists() else "the result"
    lines += [f"the bits differ: {difference}" for difference in differences] or [f"the bits agree: {what}"]
    return not differences, "\n".join(lines)


def _compare(model: Path, state: dict[str, torch.Tensor]) -> list[str]:
    """How a checkpoint differs from a state dict."""
    try:
        stored = torch.load(model, weights_only=True, map_location="cpu")
        same = stored.keys() == state.keys() and all(torch.equal(stored[name], state[name]) for name in state)
    except Exception as error:  # torch raises what it likes for a damaged file
        return [f"model.pt can't be read ({str(error).splitlines()[0][:100]})"]
    return [] if same else ["model.pt holds other weights"]
