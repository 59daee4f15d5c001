"""Batched matrix products that give a member the same bits alone and in a stack, and the processor that does them."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlp_lib.core.values import TrainingSettings

# the processor's name (cpu_name) and instructions (avx512_f), as torch tells; nothing, by an older one
PROCESSOR: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
INTEL = "Intel" in PROCESSOR.get("cpu_name", "Intel")
# whether bfloat16 is multiplied faster than float32: 2.2 times as fast by an AMD EPYC with AVX-512; Intel's need AMX
BFLOAT16 = bool(torch.backends.mkldnn.is_available() and PROCESSOR.get("amx_bf16" if INTEL else "avx512_bf16"))

# torch's batched products are MKL's, which has no AVX-512 kernels for other makers' processors. oneDNN, which comes
# with torch too, has: 2.2 times as fast on an AMD EPYC. A call costs some 12 us, so small products stay with MKL.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN = bool(_onednn_linear and PROCESSOR.get("avx512_f") and not INTEL)
_LARGE = 2**20  # multiplications of a member's product
unfused: set[str] = set()  # why functions could not be compiled in this process


def rounds_factors(settings: TrainingSettings, device: str) -> bool:
    """Whether products are of numbers rounded to bfloat16: at `medium` or `auto`, on a CPU that can multiply it."""
    return BFLOAT16 and settings.matmul_precision in ("medium", "auto") and device == "cpu"


def multiply(a: Tensor, b: Tensor, out: Tensor, beta: int = 0) -> Tensor:
    """out = beta * out + a @ b, batched over members (the first axis), beta 0 or 1.

    On a CPU a member's bits follow from its matrices' shapes and values alone; there products with a vector, and of
    length one, which take other routines in a stack, are done member by member, a vector widened to two.
    """
    results, bfloat16 = out, a.dtype == torch.bfloat16
    shared = b.stride(0) == 0  # the same for all members: one product of all their rows, which leaves a row its bits
    if out.is_cpu and 1 in (*a.shape[1:], b.shape[2]):
        products = map(_multiply_vector, a, b)
    elif bfloat16 and _ONEDNN and not shared:
        if out.dtype == a.dtype and not beta:
            return torch.bmm(a, b, out=out)
        products, results = [torch.bmm(a, b)], [out]
    elif bfloat16 or (_ONEDNN and out.is_cpu and out.dtype == torch.float32 and a.shape[1] * b[0].numel() >= _LARGE):
        if shared and _ONEDNN:
            a, b, results = a.flatten(0, 1).unsqueeze(0), b[:1], out.unsqueeze(0)
        products = (_onednn_linear(left, right.t(), None, "none", [], "") for left, right in zip(a, b, strict=True))
    else:
        return torch.baddbmm(out, a, b, beta=beta, out=out)
    for result, product in zip(results, products, strict=True):
        result.add_(product.view_as(result)) if beta else result.copy_(product.view_as(result))
    return out


def _multiply_vector(a: Tensor, b: Tensor) -> Tensor:
    wide_a = torch.cat([a, a]) if len(a) == 1 else a.contiguous()
    wide_b = torch.cat([b, b], dim=1) if b.shape[1] == 1 else b.contiguous()
    return torch.mm(wide_a, wide_b)[: len(a), : b.shape[1]]


def activate(units: Tensor, uniform: Tensor, factor: Tensor, threshold: Tensor, scale: Tensor, slope: Tensor) -> None:
    """factor = mask / (1 - dropout) x slope(units), then units x factor in place, both [members, width, rows].

    uniform: [streams, width, rows]; threshold, scale = 1 / (1 - dropout) and slope: [members, 1, 1].
    """
    kept = torch.where(uniform <= threshold, 0.0, scale)
    factor.copy_(torch.where(units > 0, kept, kept * slope))
    units.mul_(factor)


def adamw(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, steps: Tensor, **own: Tensor) -> None:
    """One bias-corrected AdamW update (Loshchilov & Hutter 2019) in place of weights [members, out, in + 1].

    steps: [], counted from 1; own: lr, beta1, beta2, eps and weight_decay, [members, 1, 1 or in + 1].
    """
    beta1, beta2 = own["beta1"], own["beta2"]
    m = first + (gradient - first) * (1 - beta1)
    v = second * beta2 + gradient * gradient * (1 - beta2)
    root = v.sqrt() / (1 - beta2**steps).sqrt() + own["eps"]
    weight.copy_(weight * (1 - own["lr"] * own["weight_decay"]) - own["lr"] / (1 - beta1**steps) * m / root)
    first.copy_(m)
    second.copy_(v)


@functools.cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The function fused into one kernel, for any number of members, at its first call; as it is where that fails."""
    kernel = torch.compile(function, dynamic=True)

    def call(*inputs: Tensor, **numbers: Tensor) -> None:
        nonlocal kernel
        try:
            kernel(*inputs, **numbers)
        except torch._dynamo.exc.TorchDynamoException as error:  # no C compiler, none of Python's headers, no Triton
            unfused.add(" ".join(str(error).strip().split("\n\n")[0].split()))
            kernel = function
            kernel(*inputs, **numbers)

    return call


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
        if self._captured[key] is None:
            places, graph = [tensor.clone() for tensor in inputs], torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._function(*places, **numbers)
            self._captured[key] = places, graph
        places, graph = self._captured[key]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        graph.replay()
