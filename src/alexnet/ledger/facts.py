"""What the ledger is drawn up from: a network layer by layer, and how it is trained (no torch here)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isclose, sqrt

from alexnet.config import TrainConfig
from alexnet.models.schemes import MODERN_HEAD, SCHEMES, start_bias
from alexnet.models.summary import Kind, Layer, trace
from alexnet.models.table import Conv, Dropout, Linear, Local, Norm, Variant

_GAINS = {"relu": sqrt(2), "tanh": 5 / 3}  # of He's initial weights


@dataclass(frozen=True)
class Stage:
    """What holds for a parameter from an epoch on, counted from 1; a rate of 0 freezes it."""

    epoch: int
    rate: float
    decay: float
    momentum: float


@dataclass(frozen=True)
class Pixels:
    """What becomes of an image before the network sees it; None where the data decides and was not looked at."""

    size: int
    """Side of the crop that the network sees."""
    side: int | None
    """Side of the square that training crops are cut from."""
    mean: tuple[float, ...] | None
    """Subtracted from each channel, on the 0-1 scale; without it the training split's own mean."""
    std: tuple[float, ...] | None
    """What each channel is divided by, likewise."""
    mean_image: bool | None
    """Whether a mean image is subtracted in place of the mean."""
    photographs: bool
    """Whether images are photographs of any size, and not small ones of one size."""
    axes: tuple[tuple[float, ...], ...] | None = None
    """The axes of the colour noise as `ColourNoise` has them, [3, 3] on the 0-255 scale."""
    divisor: float = 1.0
    """What pixels are divided by while they get colour noise."""


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    config: TrainConfig
    pixels: Pixels
    learning: Mapping[str, tuple[Stage, ...]]
    """Of every parameter, by name: from which epoch on it learns how."""

    def at(self, parameter: str, epoch: int) -> Stage:
        """What holds for a parameter in an epoch."""
        return next(stage for stage in reversed(self.learning[parameter]) if stage.epoch <= epoch)

    def changes(self, *parameters: str) -> list[int]:
        """The epochs in which anything changes for one of these parameters, the first epoch included."""
        return sorted({stage.epoch for name in parameters for stage in self.learning[name]})


@dataclass(frozen=True)
class Facts:
    """A network as built, and how it is trained where that is known."""

    layers: tuple[Layer, ...]
    init: str
    """The scheme of the initial weights (`Variant.init`) of those layers whose rows have no start of their own."""
    positive_bias: float | None = None
    """The biases of those rows that ask for positive ones (`Variant.positive_bias`); None for the scheme's."""
    training: Training | None = None

    @classmethod
    def of_table(cls, variant: Variant) -> Facts:
        """Those of a network that is still a table. Raises UsageError as `trace`."""
        return cls(trace(variant), variant.init, variant.positive_bias)

    def of_kind(self, *kinds: Kind) -> list[Layer]:
        """The layers of some kinds, in order."""
        return [layer for layer in self.layers if layer.kind in kinds]

    @cached_property
    def blocks(self) -> dict[str, list[Layer]]:
        """What follows each layer with weights, in order, by that layer's name; what precedes the first under ""."""
        blocks: dict[str, list[Layer]] = {}
        last = ""
        for layer in self.layers:
            if layer.weight_shape:
                last = layer.name
                blocks[last] = []
            else:
                blocks.setdefault(last, []).append(layer)
        return blocks

    @cached_property
    def weighted(self) -> list[Layer]:
        """The layers with weights, in order."""
        return [layer for layer in self.layers if layer.weight_shape]

    @cached_property
    def convs(self) -> list[Layer]:
        """The layers with weights that work on maps, in order: all but the fully connected ones."""
        return [layer for layer in self.weighted if layer.kind != "linear"]

    def channel_norms(self) -> Iterator[tuple[Layer, Norm]]:
        """Each local response normalisation over channels, and its row of the table."""
        for layer in self.of_kind("norm"):
            if isinstance(layer.row, Norm) and layer.row.over == "channels":
                yield layer, layer.row

    def dropouts(self) -> Iterator[tuple[int, Dropout]]:
        """Each dropout that drops anything, with the number of the fully connected layer whose inputs it drops, from
        0."""
        linears = 0
        for layer in self.layers:
            linears += layer.kind == "linear"
            if isinstance(layer.row, Dropout) and layer.row.rate > 0:
                yield linears, layer.row

    def start_std(self, layer: Layer) -> float:
        """The standard deviation of a layer's initial weights, whatever their distribution."""
        assert isinstance(layer.row, Conv | Local | Linear)
        if layer.row.start is not None or self.init in SCHEMES:
            return (layer.row.start or SCHEMES[self.init].start(layer)).std
        if self.is_uniform(layer):
            return 1 / sqrt(3 * layer.fan_in)
        head = MODERN_HEAD if self.init == "modern" and layer.role == "output" else 1.0
        gain = next((_GAINS[step] for step in layer.row.then if isinstance(step, str)), 1.0)
        return head * gain / sqrt(layer.fan_in)

    def is_uniform(self, layer: Layer) -> bool:
        """Whether a layer's initial weights are torch's own, and not normal."""
        assert isinstance(layer.row, Conv | Local | Linear)
        return layer.row.start is None and self.init == "torch"

    def start_bias(self, layer: Layer) -> float | None:
        """The initial bias of a layer; None for torch's own, which are uniform."""
        return start_bias(layer, self.init, self.positive_bias)

    @cached_property
    def plain(self) -> str:
        """The weights whose rate and decay stand for the network's: the second layer's, because the first may have
        its own, or the first that are trained at all."""
        assert self.training is not None
        names = [f"{layer.name}.weight" for layer in (*self.weighted[1:], self.weighted[0])]
        return next((name for name in names if self.training.at(name, 1).rate), names[0])

    @cached_property
    def compensated(self) -> frozenset[str]:
        """The layers behind a dropout whose training is exactly that of the paper's dropout.

        Ours scales what is kept by 1/p in training (p: the part kept), the paper's by p at test. With weights w p,
        learning rate x p^2 and weight decay / p^2 the two are the same function at every step, so a layer that learns
        so is judged by the weights, rate and decay that it stands for.
        """
        if self.training is None or self.training.config.optim.name not in ("sgd", "paper-sgd"):
            return frozenset()  # others divide by the gradient's size: a smaller rate is no smaller gradient
        names = set()
        for layer in self.weighted:
            if (kept := self.kept(layer)) < 1 and all(
                isclose(own.rate, kept**2 * plain.rate) and isclose(own.decay, plain.decay / kept**2)
                for own, plain in self._beside_plain(f"{layer.name}.weight")
            ):
                names.add(layer.name)
        return frozenset(names)

    def kept(self, layer: Layer) -> float:
        """The part of a fully connected layer's inputs that the dropouts before it keep."""
        number = next((i for i, linear in enumerate(self.of_kind("linear")) if linear.name == layer.name), None)
        part = 1.0
        for place, dropout in self.dropouts():
            part *= 1 - dropout.rate if place == number else 1.0
        return part

    def equivalent(self, layer: Layer) -> float:
        """The part kept by which a layer's weights, rate and decay are to be read (see `compensated`); 1 as they
        stand."""
        return self.kept(layer) if layer.name in self.compensated else 1.0

    def _beside_plain(self, name: str) -> Iterator[tuple[Stage, Stage]]:
        assert self.training is not None
        for epoch in self.training.changes(name, self.plain):
            yield self.training.at(name, epoch), self.training.at(self.plain, epoch)
