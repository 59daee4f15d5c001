"""Ways to train trials: what people do otherwise, this project, and the matrix products alone."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from mlp_lib.core.data import Split
from mlp_lib.core.kernels import multiply
from mlp_lib.core.network import draw_weights, tile_members, to_sequential
from mlp_lib.core.training import Training
from mlp_lib.core.values import CLASSES, Architecture, Hyperparameters, TrainingSettings
from mlp_lib.run.parameters import BenchmarkCase

HYPERPARAMETERS = Hyperparameters(weight_decay=1e-4, dropout=0.25, leaky_relu_alpha=0.05)
_TILE_ROWS = 512


class Work(NamedTuple):
    """What is timed: an epoch over the data, of so many members (a part of one, where it is less than an epoch)."""

    epoch: Callable[[], None]
    members: float


Method = Callable[[Split, BenchmarkCase], Work]


def seed_way(data: Split, case: BenchmarkCase) -> Work:
    """DataLoader over torchvision's images with ToTensor, nn.Sequential, AdamW, one trial at a time."""
    loader = DataLoader(_Images(data), case.batch_size, shuffle=True)
    return Work(_trial(data, case, lambda: loader), 1)


class _Images(Dataset):
    """The data as torchvision hands it out: image by image, each turned from a PIL image into a tensor."""

    def __init__(self, data: Split):
        side = math.isqrt(data.images.shape[1])
        self.images = (data.images * 255).round().to(torch.uint8).view(-1, side, side).cpu().numpy()
        self.labels = data.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.images[index])).flatten(), self.labels[index]


def plain(data: Split, case: BenchmarkCase) -> Work:
    """The same with slices of whole tensors."""
    return Work(_trial(data, case, lambda: _slices(data, case)), 1)


def compiled(data: Split, case: BenchmarkCase) -> Work:
    """The same with the model compiled by torch.compile."""
    return Work(_trial(data, case, lambda: _slices(data, case), torch.compile), 1)


def _slices(data: Split, case: BenchmarkCase) -> Iterator[tuple[Tensor, Tensor]]:
    for index in torch.randperm(len(data.labels), device=data.labels.device).split(case.batch_size):
        yield data.images[index], data.labels[index]


def _trial(
    data: Split,
    case: BenchmarkCase,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    compile: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Callable[[], None]:
    """One epoch of an ordinary training."""
    device = data.images.device
    model = compile(_sequential(case, data).train())
    h = HYPERPARAMETERS
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=h.lr, betas=(h.beta1, h.beta2), eps=h.eps, weight_decay=h.weight_decay
    )

    def epoch() -> None:
        total = torch.zeros((), device=device)
        for images, labels in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return epoch


def _sequential(case: BenchmarkCase, data: Split) -> nn.Sequential:
    architecture = Architecture(case.architecture)
    weights = draw_weights(architecture, data.images.shape[1], seed=0)
    model = to_sequential(architecture, [torch.from_numpy(w).float() for w in weights], HYPERPARAMETERS)
    return model.to(data.images.device)


def vmapped(data: Split, case: BenchmarkCase) -> Work:
    """torch.func over a stacked model: one draw of dropout for all, AdamW with each member's own numbers."""
    model = _sequential(case, data).train()
    parameters, _ = stack_module_state([_sequential(case, data) for _ in range(case.members)])
    parameters = {name: value.detach() for name, value in parameters.items()}
    moments = [{name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2)]
    h = HYPERPARAMETERS
    shape = {name: (case.members, *[1] * (value.ndim - 1)) for name, value in parameters.items()}
    numbers = [data.images.new_full((case.members,), n) for n in (h.lr, h.beta1, h.beta2, h.eps, h.weight_decay)]
    steps = 0

    def loss(own: dict[str, Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        value = nn.functional.cross_entropy(functional_call(model, own, (images,)), labels)
        return value, value

    gradients_of = vmap(grad(loss, has_aux=True), in_dims=(0, None, None), randomness="same")

    def epoch() -> None:
        nonlocal steps
        total = torch.zeros(case.members, device=data.images.device)
        for index in torch.randperm(len(data.labels), device=data.labels.device).split(case.batch_size):
            gradients, losses = gradients_of(parameters, data.images[index], data.labels[index])
            total += losses
            steps += 1
            for name, weight in parameters.items():
                first, second, gradient = moments[0][name], moments[1][name], gradients[name]
                lr, beta1, beta2, eps, decay = (number.view(shape[name]) for number in numbers)
                first.lerp_(gradient, 1 - beta1)
                second.mul_(beta2).addcmul_(gradient * gradient, 1 - beta2)
                root = (second / (1 - beta2**steps)).sqrt_().add_(eps)
                weight.mul_(1 - lr * decay).sub_(lr / (1 - beta1**steps) * first / root)
        total.sum().item()

    return Work(epoch, case.members)


def population(data: Split, case: BenchmarkCase, matmul_precision: str = "highest") -> Work:
    """This project."""
    settings = TrainingSettings(
        batch_size=case.batch_size, max_epochs=10**6, val_interval=10**6, matmul_precision=matmul_precision
    )
    training = Training(
        data,
        Split(data.images[:1], data.labels[:1]),
        Architecture(case.architecture),
        [HYPERPARAMETERS] * case.members,
        settings=settings,
    )
    return Work(lambda: next(training), case.members)


def limit(data: Split, case: BenchmarkCase) -> Work:
    """The same shapes' matrix products alone: the faster of full-batch and tiled."""
    works = [_products(data, case, rows) for rows in {case.batch_size, min(case.batch_size, _TILE_ROWS)}]
    return min(works, key=lambda work: timed(work.epoch)[1] / work.members)


def _products(data: Split, case: BenchmarkCase, rows: int) -> Work:
    architecture, device = Architecture(case.architecture), data.images.device
    members = min(case.members, tile_members(architecture, rows, device))
    tiles = math.ceil(len(data.labels) / rows) * math.ceil(case.members / members)

    def empty(*shape: int) -> Tensor:
        return torch.rand(members, *shape, device=device)

    sizes = architecture.layer_sizes(data.images.shape[1])
    weights = [empty(n_out, n_in + 1) for n_in, n_out in sizes]
    gradients = [empty(n_out, n_in + 1) for n_in, n_out in sizes]
    inputs = [empty(n_in + 1, rows) for n_in, n_out in sizes]
    inputs[0] = inputs[0][:1].expand_as(inputs[0])  # all members see the same images
    outputs = [empty(n_out, rows) for n_in, n_out in sizes]
    deltas = [empty(n_in, rows) for n_in, n_out in sizes]

    def products() -> None:
        for layer, weight in enumerate(weights):
            multiply(weight, inputs[layer], outputs[layer])
        for layer in reversed(range(len(sizes))):
            multiply(outputs[layer], inputs[layer].transpose(1, 2), gradients[layer])
            if layer:
                multiply(weights[layer][:, :, :-1].transpose(1, 2), outputs[layer], deltas[layer])

    @torch.inference_mode()
    def epoch() -> None:
        for _ in range(tiles):
            products()
        gradients[0][0, 0, 0].item()

    return Work(epoch, tiles * rows * members / len(data.labels))


def timed(epoch: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the first call, which warms up and compiles, and of the second."""
    begun = time.perf_counter()
    epoch()
    middle = time.perf_counter()
    epoch()
    return middle - begun, time.perf_counter() - middle


def sklearn(data: Split, case: BenchmarkCase) -> Work:
    """scikit-learn's MLPClassifier, one trial at a time; it has no dropout, and Adam in place of AdamW."""
    from sklearn.neural_network import MLPClassifier

    images, labels = data.images.cpu().numpy(), data.labels.cpu().numpy()
    model = MLPClassifier(case.architecture, batch_size=min(case.batch_size, len(labels)), random_state=0)
    return Work(lambda: model.partial_fit(images, labels, classes=range(CLASSES)), 1)


def optuna(data: Split, case: BenchmarkCase) -> Work:
    """Optuna's loop around `plain`'s: one trial of one epoch after the other."""
    import optuna as package

    package.logging.set_verbosity(package.logging.ERROR)

    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 3e-2, log=True)
        _trial(data, case, lambda: _slices(data, case))()
        return 0.0

    study = package.create_study()
    return Work(lambda: study.optimize(objective, n_trials=case.members), case.members)


def jax(data: Split, case: BenchmarkCase) -> Work:
    """JAX: the population as an axis (vmap), the epoch as one compiled scan over its steps."""
    from mlp_lib.lab.jax_peer import make_epoch  # needs the extra `peers`

    return Work(make_epoch(data, case, HYPERPARAMETERS), case.members)


METHODS: dict[str, Method] = {
    "seed_way": seed_way,
    "plain": plain,
    "compiled": compiled,
    "vmap": vmapped,
    "jax": jax,
    "population": population,
    "medium": functools.partial(population, matmul_precision="medium"),
    "limit": limit,
    "sklearn": sklearn,
    "optuna": optuna,
}
