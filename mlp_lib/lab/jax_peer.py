"""The population in JAX: vmap over the members, one compiled scan over an epoch's steps."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mlp_lib.core.data import Split
from mlp_lib.core.network import draw_weights
from mlp_lib.core.values import Architecture, Hyperparameters
from mlp_lib.run.parameters import BenchmarkCase

_NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay")


def make_epoch(data: Split, case: BenchmarkCase, h: Hyperparameters) -> Callable[[], None]:
    """An epoch of AdamW of all members, each with its own numbers, on the CPU: one draw of dropout for all."""
    weights = draw_weights(Architecture(case.architecture), data.images.shape[1], 0)
    layers = [jnp.stack([jnp.asarray(weight, jnp.float32).T] * case.members) for weight in weights]  # [P, in + 1, out]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    numbers = {name: jnp.full(case.members, getattr(h, name)) for name in _NUMBERS}
    images, labels = jnp.asarray(data.images.cpu().numpy()), jnp.asarray(data.labels.cpu().numpy())
    state = [layers, zeros, zeros, jnp.zeros((), jnp.int32), jax.random.key(0)]

    def epoch() -> None:
        *state[:], losses = _epoch(case.batch_size, h.dropout, h.leaky_relu_alpha, numbers, images, labels, *state)
        losses.block_until_ready()

    return epoch


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(size: int, dropout: float, slope: float, numbers: dict, images: Any, labels: Any, *state: Any) -> tuple:
    """The state after an epoch, and the members' losses; the last batch is what is left."""
    key, order_key = jax.random.split(state[-1])
    order = jax.random.permutation(order_key, len(labels))
    whole = math.floor(len(labels) / size) * size
    step = functools.partial(_step, dropout, slope, numbers, images, labels)
    carry, losses = jax.lax.scan(step, (*state[:-1], key), order[:whole].reshape(-1, size))
    total = losses.sum(0)
    if whole < len(labels):
        carry, rest = step(carry, order[whole:])
        total += rest
    return (*carry, total)


def _step(
    dropout: float, slope: float, numbers: dict, images: Any, labels: Any, carry: tuple, index: Any
) -> tuple[tuple, Any]:
    layers, first, second, steps, key = carry
    keys = jax.random.split(key, len(layers))
    keep = [
        jax.random.bernoulli(own, 1 - dropout, (len(index), layer.shape[2])) / (1 - dropout)
        for own, layer in zip(keys[1:], layers[:-1], strict=True)
    ]

    def loss(own: list) -> Any:
        units = images[index]
        for layer, mask in zip(own[:-1], keep, strict=True):
            units = jax.nn.leaky_relu(units @ layer[:-1] + layer[-1], slope) * mask
        logits = jax.nn.log_softmax(units @ own[-1][:-1] + own[-1][-1])
        return -logits[jnp.arange(len(index)), labels[index]].mean()

    def member(own: list, m: list, v: list, n: dict) -> tuple:
        value, gradients = jax.value_and_grad(loss)(own)
        m = jax.tree.map(lambda a, g: n["beta1"] * a + (1 - n["beta1"]) * g, m, gradients)
        v = jax.tree.map(lambda a, g: n["beta2"] * a + (1 - n["beta2"]) * g * g, v, gradients)

        def update(weight: Any, a: Any, b: Any) -> Any:
            root = jnp.sqrt(b / (1 - n["beta2"] ** steps)) + n["eps"]
            return weight * (1 - n["lr"] * n["weight_decay"]) - n["lr"] / (1 - n["beta1"] ** steps) * a / root

        return jax.tree.map(update, own, m, v), m, v, value

    steps = steps + 1
    layers, first, second, losses = jax.vmap(member)(layers, first, second, numbers)
    return (layers, first, second, steps, keys[0]), losses
