"""Frozen values that a training is made of, parsed strictly."""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]  # the repository: what relative paths start from
MAX_SEED = 2**32 - 1
CLASSES = 10  # of every data set
GUESSING = math.log(CLASSES)  # loss of equal probabilities, nats an example
COMPLETED, DIVERGED, NOT_TRAINED = "completed", "diverged", "not_trained"  # how a training ends
_EXPONENT_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")


def _read_exponent(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 (no dot) as text; it is a number here."""
    if isinstance(value, str) and _EXPONENT_NUMBER.fullmatch(value):
        value = float(value)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def _refuse_number(value: Any) -> Any:
    """Python takes 0 for False."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise PydanticCustomError("number", "a number is neither a name nor false")
    return value


# the bounds come before the reader: only then does the JSON schema, which the messages are made from, show them
_Exponent = BeforeValidator(_read_exponent)
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(ge=1, le=10**9), _Exponent]
Width = Annotated[Whole, Field(ge=1, le=65536), _Exponent]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED), _Exponent]
Flag = Annotated[bool, Field(strict=True)]
# what a text may be is said by its title, since no keyword of a JSON schema says it in words
Text = Annotated[str, Field(strict=True, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$", title="a line of text")]

FREE, GROWS, DECIDES = "free", "may grow", "decides"


def told(default: Any, description: str, change: str = DECIDES, small: Any = ...) -> Any:
    """A setting's field: its default, what it is in a line (what follows a line break is said where there is room).

    `change` is what another value means for results that are there: FREE: nothing; GROWS: they go on, if it holds more
    of the same; DECIDES: they are others. `small` is the value of a small run, where the default is too much for one.
    """
    extra = {"change": change} if small is ... else {"change": change, "small": small}
    return Field(default, description=description, json_schema_extra=extra)


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set before it is read."""

    torchvision: str | None  # the name of its class there, which is its folder's too
    images: int = 60_000  # of the training data
    inputs: int = 784  # pixels an image
    brightest: int = 255  # value of a pixel


DATASETS = {
    "mnist": DatasetFacts("MNIST"),
    "fashion_mnist": DatasetFacts("FashionMNIST"),
    "kmnist": DatasetFacts("KMNIST"),
    "qmnist": DatasetFacts("QMNIST"),
    "digits": DatasetFacts(None, images=1_437, inputs=64, brightest=16),  # scikit-learn's
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, settings: Any) -> Self:
        """What of wider settings is of this kind."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})


@dataclass(frozen=True, order=True)
class Architecture:
    """The hidden widths of a multilayer perceptron, first layer first: one or more, else ValueError."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # a list would be no equal
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"architecture = {self.widths}: should be one width or more, each 1 or more")

    @property
    def name(self) -> str:
        return "mlp_" + "x".join(map(str, self.widths))

    @classmethod
    def from_name(cls, name: str) -> "Architecture":
        return cls(tuple(int(width) for width in name.removeprefix("mlp_").split("x")))

    def layer_sizes(self, inputs: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer, the last one to the classes."""
        return list(itertools.pairwise((inputs, *self.widths, CLASSES)))

    def count_parameters(self, inputs: int) -> int:
        """Number of weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.layer_sizes(inputs))


_LOG = "log"  # marks what is shown and modelled on a log scale


class Hyperparameters(_Frozen):
    """What the search tunes: AdamW's five numbers and the two of the regularization (all without unit).

    The defaults are those of torch's AdamW and LeakyReLU, without dropout.
    """

    lr: Annotated[Real, Field(gt=0, le=1e3), _Exponent, _LOG] = 1e-3
    beta1: Annotated[Real, Field(ge=0, lt=1), _Exponent] = 0.9
    beta2: Annotated[Real, Field(ge=0, lt=1), _Exponent] = 0.999
    eps: Annotated[Real, Field(gt=0, le=1), _Exponent, _LOG] = 1e-8
    weight_decay: Annotated[Real, Field(ge=0, le=1e3), _Exponent, _LOG] = 0.01
    dropout: Annotated[Real, Field(ge=0, lt=1), _Exponent] = 0.0
    leaky_relu_alpha: Annotated[Real, Field(ge=0, le=1), _Exponent] = 0.01


HYPERPARAMETERS = tuple(Hyperparameters.model_fields)
LOG_HYPERPARAMETERS = tuple(name for name, field in Hyperparameters.model_fields.items() if _LOG in field.metadata)


class DataSettings(_Frozen):
    """Which data, where from, how split, how fed."""

    dataset: Literal[tuple(DATASETS)] = told("mnist", "digits needs no network", small="digits")
    data_root: Text = told("data", "torchvision's files; the environment variable MLP_DATA_ROOT overrides it", FREE)
    preload: Annotated[Literal["auto", "cuda", "cpu", False], BeforeValidator(_refuse_number)] = told(
        "auto", "auto: on the training device, false: streamed through a DataLoader", FREE
    )
    validation_size: Count | None = told(None, "images; null: a sixth of the training data")
    split_seed: Seed = told(0, "decides the train/validation split alone")
    loader_workers: Annotated[Whole, Field(ge=0, le=256), _Exponent] = told(
        2, "a DataLoader's workers, for preload false", FREE
    )

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "DataSettings":
        size = DATASETS[self.dataset].images
        if self.validation_size is not None and self.validation_size >= size:
            raise ValueError(
                f"validation_size = {self.validation_size} should be below the {size} training images of {self.dataset}"
            )
        return self


# Powers of width / base width that a layer's numbers go by, those of LayerScale (core/optimizer.py). mup: Yang et
# al. 2022 (Tensor Programs V), table 3, which is table 8 without its output multiplier (lemma J.1): a trained member
# stays an ordinary nn.Sequential. independent_decay: the decay of a step is the same at any width, Kosson et al. 2025
# (Weight decay may matter more than muP). by_layer: the largest stable rates of Adam for PyTorch's initial weights, and
# eps in proportion to gradients, Everett et al. 2024 (Scaling exponents), table 1, full alignment.
PARAMETRIZATIONS: dict[str, dict[str, float]] = {
    "standard": {},
    "mup": {"weight": -0.5, "bias": 0.5, "lr": -1.0},
    "mup_independent_decay": {"weight": -0.5, "bias": 0.5, "lr": -1.0, "decay": 1.0},
    "standard_by_layer": {"lr": -1.0, "eps": -0.5},
}


class TrainingSettings(_Frozen):
    """What decides the result of one training besides data, hyperparameters and run seed."""

    batch_size: Count = told(4096, "images an optimizer step", small=256)
    max_epochs: Count = told(1000, "epochs, at most", small=200)
    patience: Count = told(7, "validation checks without improvement before a training stops", small=5)
    val_interval: Count = told(4, "epochs between validation checks")
    matmul_precision: Literal["highest", "high", "medium", "auto"] = told(
        "highest",
        "float32; medium: bfloat16 on CPU, TF32 on CUDA\n"
        "high: TF32 on CUDA; auto: medium on a CPU that multiplies bfloat16 faster than float32, else highest.",
    )
    deterministic: Flag = told(False, "true: torch's deterministic algorithms")
    parametrization: Literal[tuple(PARAMETRIZATIONS)] = told(
        "standard",
        "rates by layer and width\n"
        "mup: maximal update (Yang et al. 2022); mup_independent_decay: the same, with one decay a step in all layers "
        "(Kosson et al. 2025); standard_by_layer: PyTorch's initial weights, rates by layer (Everett et al. 2024).",
    )
    base_width: Width = told(128, "the width that any parametrization trains as standard")
