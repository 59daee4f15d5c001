"""Batched matrix products that give a member the same bits alone and in a stack."""

import torch
from torch import Tensor

from mlp_lib.runtime import read_processor

# torch's batched products are MKL's, which has no AVX-512 kernels for other makers' processors. oneDNN, which comes
# with torch too, has: 2.2 times as fast on an AMD EPYC. A call costs some 12 us, so small products stay with MKL.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_processor = read_processor()
_ONEDNN = bool(_onednn_linear and _processor.get("avx512_f") and "Intel" not in _processor.get("cpu_name", "Intel"))
_ONEDNN_LEAST = 2**20  # multiplications of a member's product


def multiply(a: Tensor, b: Tensor, out: Tensor, beta: int = 0) -> Tensor:
    """out = beta * out + a @ b, batched over members (the first axis), beta 0 or 1.

    On a CPU a member's bits follow from its matrices' shapes and values alone; there products with a vector, and of
    length one, which take other routines in a stack, are done member by member, a vector widened to two.
    """
    if out.is_cuda:
        return torch.baddbmm(out, a, b, beta=beta, out=out)
    if 1 in (*a.shape[1:], b.shape[2]):
        products = map(_multiply_vector, a, b)
    elif _ONEDNN and out.dtype == torch.float32 and a.shape[1] * b[0].numel() >= _ONEDNN_LEAST:
        products = (_onednn_linear(left, right.t(), None, "none", [], "") for left, right in zip(a, b, strict=True))
    else:
        return torch.baddbmm(out, a, b, beta=beta, out=out)
    for result, product in zip(out, products, strict=True):
        result.add_(product) if beta else result.copy_(product)
    return out


def _multiply_vector(a: Tensor, b: Tensor) -> Tensor:
    wide_a = torch.cat([a, a]) if len(a) == 1 else a.contiguous()
    wide_b = torch.cat([b, b], dim=1) if b.shape[1] == 1 else b.contiguous()
    return torch.mm(wide_a, wide_b)[: len(a), : b.shape[1]]
