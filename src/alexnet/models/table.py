"""The grammar of the networks: what a table is made of (no torch here).

A table is a `Variant`: rows of convolutions, rows of fully connected layers, and in each row, in order, what follows
the layer. A network of one's own is such a table, given to `build_model` in place of a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lrn = Literal["off", "code", "formula"]
Activation = Literal["relu", "tanh"]
Pixels = Literal["raw", "standardised"]
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
class Local:
    """A locally connected layer, a convolution whose weights and biases are not shared: every position of the window
    has its own (`local` in cuda-convnet). In order, what follows it."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    then: tuple[Step, ...] = ("relu",)
    positive_bias: bool = False
    start: Start | None = None


@dataclass(frozen=True)
class Linear:
    """A fully connected layer with, in order, what comes before it and what follows it. In `groups` the inputs and the
    outputs are cut into as many equal parts, and each part of the outputs sees its own part of the inputs alone."""

    width: int
    before: tuple[Step, ...] = ()
    then: tuple[Step, ...] = ("relu", Dropout())
    positive_bias: bool = True
    start: Start | None = None
    groups: int = 1


@dataclass(frozen=True)
class Variant:
    """A whole network as a table: nothing about it is decided elsewhere."""

    about: str
    convs: tuple[Conv | Local, ...]
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
    positive_bias: float | None = None
    """Initial biases of the rows that ask for positive ones (section 5: 1), in the place of the scheme's constant."""
    pixels: Pixels = "raw"
    """What its weights are shown where nothing else says it: pixels of 0 to 255 less their mean, as the paper's are
    (section 2), or "standardised" ones, which are divided by their deviation too."""

    @property
    def num_classes(self) -> int:
        """The width of the output layer."""
        return self.output.width
