"""The networks that people call AlexNet, side by side as literal tables (no torch here).

A table is a `Variant`: rows of convolutions, rows of fully connected layers, and in each row, in order, what follows
the layer. A network of one's own is another such table, given to `build_model` in place of a name.

Sources: the paper (Krizhevsky, Sutskever, Hinton 2012), the original code (cuda-convnet, released 2025), the "one
weird trick" network of cuda-convnet2, Caffe's bvlc_alexnet and CaffeNet, torchvision's models/alexnet.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Lrn = Literal["off", "code", "formula"]
Activation = Literal["relu", "tanh"]
Init = Literal["text", "code", "caffe", "torch", "he", "modern"]


@dataclass(frozen=True)
class Norm:
    """Local response normalisation (section 3.3): x / (k + alpha/n * sum of x**2)**beta, with n numbers in a window.

    The window spans `size` neighbouring channels, or size x size pixels of one map (over="map"). With `columns` the
    channels are cut into as many equal parts, the paper's GPUs, and no window reaches into another part. The division
    of alpha by n is the original code's; the paper's formula has none.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    over: Literal["channels", "map"] = "channels"
    columns: int = 1


@dataclass(frozen=True)
class Pool:
    """Pooling of size x size pixels, `stride` apart (section 3.4): their maximum, or their average.

    With `ceil` the last window may run past the edge and is cut there, as in the original code and in Caffe.
    """

    size: int = 3
    stride: int = 2
    ceil: bool = False
    average: bool = False


@dataclass(frozen=True)
class Dropout:
    """Dropout (section 4.2) of a part of the values, `rate`; the rest is scaled up in training."""

    rate: float = 0.5


Step = Activation | Norm | Pool | Dropout


@dataclass(frozen=True)
class Start:
    """A row's own initial weights, normal with this standard deviation, and its constant initial bias; they take the
    place of the scheme's (`Variant.init`)."""

    std: float
    bias: float = 0.0


@dataclass(frozen=True)
class Conv:
    """A convolutional layer and, in order, what follows it."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    # The original code computes 1 + ceil((size - kernel) / stride) modules: the kernel runs past the right and bottom
    # edge over implicit zeros, which is how an input of 224 gives 55 (paper, section 3.5, says 224; Caffe crops 227).
    ceil: bool = False
    then: tuple[Step, ...] = ("relu",)
    positive_bias: bool = False
    """Whether its biases start at the scheme's positive constant, so that its ReLUs get positive inputs early: in the
    second, fourth and fifth convolutional layers and in the hidden layers (section 5)."""
    start: Start | None = None


@dataclass(frozen=True)
class Linear:
    """A fully connected layer with, in order, what comes before it and what follows it."""

    width: int
    before: tuple[Step, ...] = ()
    then: tuple[Step, ...] = ("relu", Dropout())
    positive_bias: bool = True
    start: Start | None = None


@dataclass(frozen=True)
class Variant:
    """A whole network as a table: nothing about it is decided elsewhere."""

    about: str
    convs: tuple[Conv, ...]
    hidden: tuple[Linear, ...] = (Linear(4096), Linear(4096))
    output: Linear = Linear(1000, then=(), positive_bias=False)
    input_size: int = 224
    in_channels: int = 3
    adaptive_pool: int | None = None
    """Average-pool the last maps to this side, so that the first hidden layer has one shape for every input size."""
    init: Init = "text"
    """Initial weights: "text" as the paper says (section 5), "code" as released, "caffe", "torch" (its layers' own
    defaults, which public ports train from), "he" (He's normal), or "modern" (the same with an output layer near zero,
    so that the loss starts at ln K)."""

    @property
    def num_classes(self) -> int:
        """The width of the output layer."""
        return self.output.width


NORM, POOL = Norm(), Pool()
DROP = Dropout()

PAPER = Variant(
    about="the paper's network, two columns as groups (sections 3.1-3.5)",
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=("relu", NORM, POOL)),
        Conv(256, 5, padding=2, groups=2, then=("relu", NORM, POOL), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1, groups=2, positive_bias=True),
        Conv(256, 3, padding=1, groups=2, then=("relu", POOL), positive_bias=True),
    ),
)
OWT = Variant(
    about="one column, 'One weird trick' (2014), with LRN",
    convs=(
        Conv(64, 11, stride=4, padding=2, then=("relu", NORM, POOL)),
        Conv(192, 5, padding=2, then=("relu", NORM, POOL), positive_bias=True),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1, positive_bias=True),
        Conv(256, 3, padding=1, then=("relu", POOL), positive_bias=True),
    ),
)
TORCHVISION = Variant(
    about="torchvision.models.alexnet: OWT without LRN, dropout before fc6 and fc7",
    convs=(
        Conv(64, 11, stride=4, padding=2, then=("relu", POOL)),
        Conv(192, 5, padding=2, then=("relu", POOL), positive_bias=True),
        *OWT.convs[2:],
    ),
    hidden=(Linear(4096, before=(DROP,), then=("relu",)), Linear(4096, before=(DROP,), then=("relu",))),
    adaptive_pool=6,
    init="torch",
)
_CAFFE = Norm(k=1.0)
BVLC = replace(
    PAPER,
    about="Caffe's bvlc_alexnet: 227 crops, LRN with k=1",
    convs=(
        Conv(96, 11, stride=4, ceil=True, then=("relu", _CAFFE, POOL)),
        Conv(256, 5, padding=2, groups=2, then=("relu", _CAFFE, POOL), positive_bias=True),
        *PAPER.convs[2:],
    ),
    input_size=227,
    init="caffe",
)

VARIANTS: dict[str, Variant] = {
    "paper": PAPER,
    "owt": OWT,
    "torchvision": TORCHVISION,
    "bvlc": BVLC,
    "caffenet": replace(
        BVLC,
        about="Caffe's bvlc_reference_caffenet: LRN after pooling",
        convs=(
            Conv(96, 11, stride=4, ceil=True, then=("relu", POOL, _CAFFE)),
            Conv(256, 5, padding=2, groups=2, then=("relu", POOL, _CAFFE), positive_bias=True),
            *PAPER.convs[2:],
        ),
        # train_val.prototxt: the paper's text but for these two
        hidden=(Linear(4096, start=Start(0.005, bias=1.0)), Linear(4096, start=Start(0.005, bias=1.0))),
        init="text",
    ),
    "cifar": replace(
        PAPER,
        about="the paper's widths, groups and LRN for 32x32: the first two kernels 5x5",
        convs=(Conv(96, 5, padding=2, then=("relu", NORM, POOL)), *PAPER.convs[1:]),
        output=replace(PAPER.output, width=10),
        input_size=32,
        init="modern",
    ),
    "cifar-resized": replace(
        TORCHVISION,
        about="OWT widths with LRN on 64x64 crops of enlarged small images",
        convs=OWT.convs,
        output=replace(OWT.output, width=10),
        input_size=64,
        init="modern",
    ),
}


def list_models() -> list[str]:
    """Names that `build_model` knows."""
    return list(VARIANTS)
