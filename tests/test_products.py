"""Products are right, and a member's bits do not depend on its place in the stack or in memory."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from mlp_lib.core import kernels
from mlp_lib.core.kernels import multiply

# by which library, in stacks or member by member, and of what numbers products are
_WAYS = {
    "mkl": (False, torch.float32),
    "onednn": (True, torch.float32),
    "bfloat16 in stacks": (True, torch.bfloat16),
    "bfloat16 by member": (False, torch.bfloat16),
}


@pytest.fixture(params=_WAYS, autouse=True)
def dtype(request, monkeypatch) -> Iterator[torch.dtype]:
    onednn, dtype = _WAYS[request.param]
    if onednn and not kernels._onednn_linear:
        pytest.skip("this torch comes without oneDNN")
    if dtype == torch.bfloat16 and not kernels.BFLOAT16:
        pytest.skip("this processor multiplies no bfloat16")
    monkeypatch.setattr(kernels, "_ONEDNN", onednn)
    monkeypatch.setattr(kernels, "_LARGE", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield dtype
    torch.set_num_threads(threads)


def draw_product(draws: np.random.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    """a [P, m, k], b [P, k, n] (or one for all), out [P, m, n], beta, as the network's: transposed, a column cut.

    Of bfloat16 the out that is added to has float32.
    """
    members, m, k, n = (
        int(draws.choice(sizes)) for sizes in ([1, 2, 3, 5], [1, 2, 3, 33, 120], [2, 5, 17, 100, 785], [1, 2, 8, 65])
    )

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal((members, *shape), dtype=np.float32)).to(dtype)

    a = draw(k, m + 1)[:, :, :m].transpose(1, 2) if draws.random() < 0.5 else draw(m, k)
    b = draw(n, k).transpose(1, 2) if draws.random() < 0.5 else draw(k, n)
    b = b[:1].expand_as(b) if draws.random() < 0.3 else b
    out, beta = draw(m + 1, n)[:, :m], int(draws.integers(2))
    return a, b, out.float() if beta else out, beta


def moved(stack: Tensor, shift: int) -> Tensor:
    """The same numbers with the same strides, `shift` numbers away from where memory begins."""
    reach = sum((size - 1) * stride for size, stride in zip(stack.shape, stack.stride(), strict=True)) + 1
    memory = torch.zeros(reach + shift, dtype=stack.dtype)
    memory[shift:].copy_(stack.as_strided((reach,), (1,)))
    return memory.as_strided(stack.shape, stack.stride(), shift)


@pytest.mark.parametrize("seed", range(10))
def test_a_product_is_right_whatever_its_layout(seed: int, dtype: torch.dtype):
    draws, tolerance = np.random.default_rng(seed), 1e-4 if dtype == torch.float32 else 2**-8
    for _ in range(50):
        a, b, out, beta = draw_product(draws, dtype)
        product = a.double() @ b.double()
        gap = multiply(a, b, out.clone(), beta).double() - beta * out.double() - product
        assert float((gap.abs() / (1 + product.abs())).max()) < tolerance


@pytest.mark.parametrize("seed", range(10))
def test_a_product_does_not_depend_on_its_place(seed: int, dtype: torch.dtype):
    """What the law rests on, and what some processors don't give by themselves: see mlp_lib/__init__.py."""
    draws = np.random.default_rng(seed)
    for _ in range(50):
        a, b, out, beta = draw_product(draws, dtype)
        together = multiply(a, b, out.clone(), beta)
        i, shift = int(draws.integers(len(a))), int(draws.integers(16))
        alone = multiply(*(moved(stack[i : i + 1], shift) for stack in (a, b, out)), beta)
        assert torch.equal(alone[0], together[i]), (a.shape, b.shape, beta, shift)
        backwards = multiply(a.flip(0), b.flip(0), out.flip(0), beta)
        assert torch.equal(backwards.flip(0), together), (a.shape, b.shape, beta)
