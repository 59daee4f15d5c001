"""The machine that a training runs on: its device, its numerics."""

import contextlib
import os
from collections.abc import Iterator

import torch

from mlp_lib.core.errors import SettingsError
from mlp_lib.core.values import TrainingSettings


def resolve_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`; SettingsError for other names, and for `cuda` where none is."""
    available = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"device = {name!r}: should be auto, cpu or cuda")
    if name == "cuda" and not available:
        raise SettingsError("device = 'cuda': torch finds none here; device = auto takes one when there is one")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextlib.contextmanager
def training_mode(settings: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Numerics as the settings ask, one intra-op thread, no denormals, no gradient tape; restored afterwards.

    One thread because batched products then give every member the same bits whatever its neighbours, and because two
    threads on two cores do less work than two processes. torch's own way from float32 to bfloat16 on a CPU, which gives
    a member other bits in a stack than alone, is never taken: see kernels.rounds_factors.
    """
    if settings.deterministic:  # cuBLAS wants it before its first product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with contextlib.ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_num_threads(1)
        # large logits fill gradients with numbers below 1e-38, for which products take up to 15 times as long: now 0
        after.callback(torch.set_flush_denormal, 5e-324 == 0)  # as it was
        torch.set_flush_denormal(True)
        asked = settings.matmul_precision if device.type == "cuda" else "highest"
        torch.set_float32_matmul_precision(asked.replace("auto", "highest"))
        if settings.deterministic != torch.are_deterministic_algorithms_enabled():  # it loads the compiler: a second
            after.callback(torch.use_deterministic_algorithms, not settings.deterministic)
            torch.use_deterministic_algorithms(settings.deterministic)
        after.enter_context(torch.inference_mode())
        yield
