"""The arithmetic of a network without building it: shapes, parameters, multiply-accumulates, neurons (no torch here).

`trace` is the single source of the layer sequence: `network.AlexNet` builds its modules from it and `alexnet info`
prints it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Literal

from alexnet.errors import UsageError
from alexnet.models.table import Conv, Dropout, Linear, Local, Norm, Pool, Step, Variant

Kind = Literal["pad", "conv", "local", "activation", "norm", "pool", "average", "flatten", "dropout", "linear"]
Role = Literal["conv", "conv3x3", "hidden", "output"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One module of the network; shapes are without the batch axis: (C, H, W) or (features,)."""

    name: str
    kind: Kind
    in_shape: Shape
    out_shape: Shape
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    row: Conv | Local | Linear | Step | None = None
    """The entry of the table that asks for this layer; None for what other entries need (pad, average, flatten)."""
    role: Role | None = None
    """What a layer with weights is in the network, whatever its name and number: "conv3x3" are the convolutions, local
    ones too, of at most 3x3 that work on maps, "conv" those with larger kernels and the first one, which works on
    pixels."""

    @property
    def weight_shape(self) -> Shape | None:
        """As the module has it, of a layer with weights: (out, in, kernel, kernel) of a convolution, (out, in) of a
        fully connected layer, where "in" is what one group sees; (positions, in * kernel**2, out) of a local one."""
        match self.kind:
            case "conv":
                return (self.out_shape[0], self.in_shape[0] // self.groups, self.kernel, self.kernel)
            case "local":
                return (prod(self.out_shape[1:]), self.in_shape[0] * self.kernel**2, self.out_shape[0])
            case "linear":
                return (self.out_shape[0], self.in_shape[0] // self.groups)
        return None

    @property
    def bias_shape(self) -> Shape | None:
        """(out), or (positions, out) where weights are not shared, of a layer with weights."""
        if self.weight_shape is None:
            return None
        return self.weight_shape[::2] if self.kind == "local" else self.weight_shape[:1]

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return prod(self.weight_shape) + prod(self.bias_shape) if self.weight_shape and self.bias_shape else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image: convolutions and fully connected layers, biases not counted."""
        if self.weight_shape is None:
            return 0
        return prod(self.weight_shape) * (prod(self.out_shape[1:]) if self.kind == "conv" else 1)

    @property
    def neurons(self) -> int:
        """Units of the layer, as the paper counts them (figure 2): outputs of layers with weights."""
        return prod(self.out_shape) if self.parameters else 0

    @property
    def fan_in(self) -> int:
        """How many values one unit of a layer with weights sees."""
        return self.macs // self.neurons


class _TooSmall(Exception):
    pass


def trace(variant: Variant) -> tuple[Layer, ...]:
    """Every layer in order with its shapes.

    Layers are named by kind and number: conv1 relu1 norm1 pool1 ... fc8; the second of a kind behind the same layer has
    a letter more (norm2, norm2b). Raises UsageError when the input is too small for the kernels, naming the smallest
    size that works, when groups or columns do not divide the channels, and for a step that cannot stand where it does.
    """
    try:
        return _Walk(variant, variant.input_size).layers()
    except _TooSmall as problem:
        smallest = smallest_input(variant)
        raise UsageError(
            f"an input of {variant.input_size}x{variant.input_size} is too small for this network ({problem}); "
            f"the smallest that works is {smallest}x{smallest}: enlarge the images (--data.resize {smallest}, and "
            f"--data.crop {smallest} where it is set)."
        ) from None


def parameter_shapes(variant: Variant) -> dict[str, Shape]:
    """The shape of every weight and bias by its name (conv1.weight ... fc8.bias), in order. Raises as `trace`."""
    shapes: dict[str, Shape] = {}
    for layer in trace(variant):
        if layer.weight_shape and layer.bias_shape:
            shapes |= {f"{layer.name}.weight": layer.weight_shape, f"{layer.name}.bias": layer.bias_shape}
    return shapes


def smallest_input(variant: Variant) -> int:
    """The smallest square input, in pixels, that leaves every layer at least one position."""
    size = 1
    while True:
        try:
            _Walk(variant, size).layers()
        except _TooSmall:
            size += 1
        else:
            return size


def positions(side: int, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> int:
    """Places of a window along a side of a map; with `ceil` also the one that starts inside and ends outside. Where the
    window is larger than the side there are none, 0 or less."""
    count = (side + 2 * padding - kernel + (stride - 1 if ceil else 0)) // stride + 1
    return count - (ceil and (count - 1) * stride >= side)


class _Walk:
    """The way of an image's shape through a table."""

    def __init__(self, variant: Variant, size: int) -> None:
        self.variant = variant
        self.shape: Shape = (variant.in_channels, size, size)
        self.passed: list[Layer] = []
        self.names: Counter[str] = Counter()

    def layers(self) -> tuple[Layer, ...]:
        table = self.variant
        for number, conv in enumerate(table.convs, 1):
            self._conv(number, conv)
            self._steps(number, conv.then)
        if (side := table.adaptive_pool) is not None:
            if side < 1:
                raise UsageError(f"adaptive_pool {side} must be at least 1.")
            self._add("avgpool", "average", (self.shape[0], side, side))
        self._add("flatten", "flatten", (prod(self.shape),))
        for number, linear in enumerate((*table.hidden, table.output), len(table.convs) + 1):
            self._steps(number, linear.before)
            role: Role = "hidden" if number <= len(table.convs) + len(table.hidden) else "output"
            self._linear(number, linear, role)
            self._steps(number, linear.then)
        return tuple(self.passed)

    def _conv(self, number: int, row: Conv | Local) -> None:
        kind: Kind = "conv" if isinstance(row, Conv) else "local"
        groups = row.groups if isinstance(row, Conv) else 1
        name, (channels, side, _) = f"{kind}{number}", self.shape
        if isinstance(row, Conv) and row.ceil and (over := (row.kernel - side - 2 * row.padding) % row.stride):
            self._add(f"pad{number}", "pad", (channels, side + over, side + over), padding=over)
        self._check_groups(name, groups, channels, row.width, "channels")
        out = self._positions(name, row.kernel, row.stride, row.padding)
        role: Role = "conv3x3" if number > 1 and row.kernel <= 3 else "conv"
        geometry = {"kernel": row.kernel, "stride": row.stride, "padding": row.padding, "groups": groups}
        self._add(name, kind, (row.width, out, out), row, role, **geometry)

    def _linear(self, number: int, row: Linear, role: Role) -> None:
        name = f"fc{number}"
        self._check_groups(name, row.groups, self.shape[0], row.width, "values")
        self._add(name, "linear", (row.width,), row, role, groups=row.groups)

    @staticmethod
    def _check_groups(name: str, groups: int, before: int, width: int, what: str) -> None:
        if min(groups, width) < 1 or before % groups or width % groups:
            raise UsageError(f"{name}: {groups} groups do not divide {before} -> {width} {what}.")

    def _steps(self, number: int, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if isinstance(step, Norm | Pool) and len(self.shape) == 1:
                raise UsageError(f"layer {number} of the table: {step} needs maps and stands behind them.")
            match step:
                case "relu" | "tanh":
                    self._add(f"{step}{number}", "activation", self.shape, step)
                case Norm():
                    name = f"norm{number}"
                    if step.size < 1 or step.columns < 1 or (step.over == "map" and step.columns != 1):
                        raise UsageError(f"{name}: {step} needs a window, and columns over channels alone.")
                    if self.shape[0] % step.columns:
                        raise UsageError(f"{name}: {step.columns} columns do not divide {self.shape[0]} channels.")
                    self._add(name, "norm", self.shape, step)
                case Pool():
                    name = f"pool{number}"
                    out = self._positions(name, step.size, step.stride, ceil=step.ceil)
                    self._add(name, "pool", (self.shape[0], out, out), step, kernel=step.size, stride=step.stride)
                case Dropout():
                    self._add(f"drop{number}", "dropout", self.shape, step)
                case _:
                    raise UsageError(f"layer {number} of the table: {step!r} is no relu, tanh, Norm, Pool or Dropout.")

    def _positions(self, name: str, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> int:
        """`positions` along a side of the present maps. Raises UsageError for a window that means nothing."""
        side = self.shape[1]
        if kernel < 1 or stride < 1 or padding < 0:
            raise UsageError(f"{name}: kernel {kernel} and stride {stride} must be at least 1, padding {padding} 0.")
        out = positions(side, kernel, stride, padding, ceil)
        if out < 1:
            raise _TooSmall(f"{name}'s {kernel}x{kernel} window meets {side}x{side}")
        return out

    def _add(
        self,
        name: str,
        kind: Kind,
        out: Shape,
        row: Conv | Local | Linear | Step | None = None,
        role: Role | None = None,
        **geometry: int,
    ) -> None:
        again = self.names[name]
        self.names[name] += 1
        name += chr(ord("a") + again) if again else ""
        self.passed.append(Layer(name, kind, self.shape, out, row=row, role=role, **geometry))
        self.shape = out
