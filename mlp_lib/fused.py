"""What a CUDA device does otherwise: elementwise work of all members in one kernel, and a step as one CUDA graph.

The kernels are plain functions of tensors, so that a CPU can hold them against its own; torch.compile fuses them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def activate(units: Tensor, uniform: Tensor, factor: Tensor, threshold: Tensor, scale: Tensor, slope: Tensor) -> None:
    """factor = mask / (1 - dropout) x slope(units), then units x factor in place, both [members, width, rows].

    uniform: [streams, width, rows]; threshold, scale = 1 / (1 - dropout) and slope: [members, 1, 1].
    """
    kept = torch.where(uniform <= threshold, 0.0, scale)
    factor.copy_(torch.where(units > 0, kept, kept * slope))
    units.mul_(factor)


def adamw(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    eps: Tensor,
    weight_decay: Tensor,
) -> None:
    """One bias-corrected AdamW update (Loshchilov & Hutter 2019) in place of weights [members, out, in + 1].

    steps: [], counted from 1; the five numbers: [members, 1, 1].
    """
    m = first + (gradient - first) * (1 - beta1)
    v = second * beta2 + gradient * gradient * (1 - beta2)
    root = v.sqrt() / (1 - beta2**steps).sqrt() + eps
    weight.copy_(weight * (1 - lr * weight_decay) - lr / (1 - beta1**steps) * m / root)
    first.copy_(m)
    second.copy_(v)


@functools.cache
def compiled(function: Callable) -> Callable:
    """The function fused into one kernel, for any number of members; compiled at its first call."""
    return torch.compile(function, dynamic=True)


class Graph:
    """A function of tensors that is replayed as a CUDA graph, without the cost of launching its kernels one by one.

    The first call with inputs of some shapes runs it as it is, which does its work, compiles and warms up; the second
    captures it. It must find everything besides its inputs in the same places at every call.
    """

    def __init__(self, function: Callable[..., None]):
        self._function = function
        self._captured: dict[Any, tuple[list[Tensor], torch.cuda.CUDAGraph] | None] = {}

    def __call__(self, *inputs: Tensor, **numbers: int) -> None:
        key = (*(tensor.shape for tensor in inputs), *numbers.items())
        if key not in self._captured:
            self._captured[key] = None
            self._function(*inputs, **numbers)
            return
        places, graph = self._captured[key] or self._capture(key, inputs, numbers)
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        graph.replay()

    def _capture(
        self, key: Any, inputs: tuple[Tensor, ...], numbers: dict[str, int]
    ) -> tuple[list[Tensor], torch.cuda.CUDAGraph]:
        places, graph = [tensor.clone() for tensor in inputs], torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._function(*places, **numbers)
        self._captured[key] = places, graph
        return places, graph
