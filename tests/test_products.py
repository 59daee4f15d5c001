"""Products are right, and a member's bits do not depend on its place in the stack or in memory."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from mlp_lib.core import kernels
from mlp_lib.core.kernels import multiply


@pytest.fixture(params=["mkl", "onednn"], autouse=True)
def _library(request, monkeypatch) -> Iterator[None]:
    if request.param == "onednn" and not kernels._onednn_linear:
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(kernels, "_ONEDNN", request.param == "onednn")
    monkeypatch.setattr(kernels, "_ONEDNN_LEAST", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_product(draws: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, int]:
    """a [P, m, k], b [P, k, n] (or one for all), out [P, m, n], beta, as the network's: transposed, a column cut."""
    members, m, k, n = (
        int(draws.choice(sizes)) for sizes in ([1, 2, 3, 5], [1, 2, 3, 33, 120], [2, 5, 17, 100, 785], [1, 2, 8, 65])
    )

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(draws.standard_normal((members, *shape), dtype=np.float32))

    a = draw(k, m + 1)[:, :, :m].transpose(1, 2) if draws.random() < 0.5 else draw(m, k)
    b = draw(n, k).transpose(1, 2) if draws.random() < 0.5 else draw(k, n)
    b = b[:1].expand_as(b) if draws.random() < 0.3 else b
    return a, b, draw(m, n), int(draws.integers(2))


def moved(stack: Tensor, shift: int) -> Tensor:
    """The same numbers with the same strides, `shift` numbers away from where memory begins."""
    reach = sum((size - 1) * stride for size, stride in zip(stack.shape, stack.stride(), strict=True)) + 1
    memory = torch.zeros(reach + shift)
    memory[shift:].copy_(stack.as_strided((reach,), (1,)))
    return memory.as_strided(stack.shape, stack.stride(), shift)


@pytest.mark.parametrize("seed", range(10))
def test_a_product_is_right_whatever_its_layout(seed: int):
    draws = np.random.default_rng(seed)
    for _ in range(50):
        a, b, out, beta = draw_product(draws)
        exact = beta * out.double() + a.double() @ b.double()
        torch.testing.assert_close(multiply(a, b, out, beta).double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_a_product_does_not_depend_on_its_place(seed: int):
    """What the law rests on, and what some processors don't give by themselves: see mlp_lib/__init__.py."""
    draws = np.random.default_rng(seed)
    for _ in range(50):
        a, b, out, beta = draw_product(draws)
        together = multiply(a, b, out.clone(), beta)
        i, shift = int(draws.integers(len(a))), int(draws.integers(16))
        alone = multiply(*(moved(stack[i : i + 1], shift) for stack in (a, b, out)), beta)
        assert torch.equal(alone[0], together[i]), (a.shape, b.shape, beta, shift)
        backwards = multiply(a.flip(0), b.flip(0), out.flip(0), beta)
        assert torch.equal(backwards.flip(0), together), (a.shape, b.shape, beta)
