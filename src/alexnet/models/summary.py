"""The arithmetic of a network without building it: shapes, parameters, multiply-accumulates, neurons (no torch here).

`trace` is the single source of the layer sequence: `network.AlexNet` builds its modules from it and `alexnet info`
prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from alexnet.errors import UsageError
from alexnet.models.variants import Variant

Kind = Literal["pad", "conv", "activation", "norm", "pool", "average", "flatten", "dropout", "linear"]
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

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        if self.kind == "conv":
            return self.out_shape[0] * (self.in_shape[0] // self.groups * self.kernel**2 + 1)
        return self.out_shape[0] * (self.in_shape[0] + 1) if self.kind == "linear" else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image: convolutions and fully connected layers, biases not counted."""
        weights = self.parameters - self.out_shape[0] if self.parameters else 0
        return weights * prod(self.out_shape[1:])

    @property
    def neurons(self) -> int:
        """Units of the layer, as the paper counts them (figure 2): outputs of layers with weights."""
        return prod(self.out_shape) if self.parameters else 0


class _TooSmall(Exception):
    pass


def trace(variant: Variant) -> tuple[Layer, ...]:
    """Every layer in order with its shapes.

    Raises UsageError when the input is too small for the kernels, naming the smallest size that works, or when the
    groups do not divide the channels.
    """
    try:
        return _walk(variant, variant.input_size)
    except _TooSmall as problem:
        smallest = smallest_input(variant)
        raise UsageError(
            f"an input of {variant.input_size}x{variant.input_size} is too small for this network ({problem}); "
            f"the smallest that works is {smallest}x{smallest}: enlarge the images (--data.resize {smallest})."
        ) from None


def smallest_input(variant: Variant) -> int:
    """The smallest square input, in pixels, that leaves every layer at least one position."""
    size = 1
    while True:
        try:
            _walk(variant, size)
        except _TooSmall:
            size += 1
        else:
            return size


def _walk(variant: Variant, size: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    shape: Shape = (variant.in_channels, size, size)

    def add(name: str, kind: Kind, out: Shape, **geometry: int) -> None:
        nonlocal shape
        layers.append(Layer(name, kind, shape, out, **geometry))
        shape = out

    def slide(name: str, kernel: int, stride: int, padding: int = 0) -> int:
        out = (shape[1] + 2 * padding - kernel) // stride + 1
        if out < 1:
            raise _TooSmall(f"{name}'s {kernel}x{kernel} window meets {shape[1]}x{shape[1]}")
        return out

    for i, row in enumerate(variant.convs, 1):
        if row.ceil and (over := (row.kernel - shape[1]) % row.stride):
            add(f"pad{i}", "pad", (shape[0], shape[1] + over, shape[2] + over), padding=over)
        if shape[0] % row.groups or row.width % row.groups:
            raise UsageError(f"conv{i}: {row.groups} groups do not divide {shape[0]} -> {row.width} channels.")
        out = slide(f"conv{i}", row.kernel, row.stride, row.padding)
        add(
            f"conv{i}",
            "conv",
            (row.width, out, out),
            kernel=row.kernel,
            stride=row.stride,
            padding=row.padding,
            groups=row.groups,
        )
        add(f"relu{i}", "activation", shape)
        steps = [("norm", row.normalised and variant.lrn != "off"), ("pool", row.pooled)]
        for step, present in reversed(steps) if variant.norm_after_pool else steps:
            if present and step == "norm":
                add(f"norm{i}", "norm", shape)
            elif present:
                window = 3 if variant.overlap else 2
                out = slide(f"pool{i}", window, 2)
                add(f"pool{i}", "pool", (shape[0], out, out), kernel=window, stride=2)
    if variant.adaptive_pool is not None:
        add("avgpool", "average", (shape[0], variant.adaptive_pool, variant.adaptive_pool))
    add("flatten", "flatten", (prod(shape),))
    for i, width in enumerate(variant.hidden, len(variant.convs) + 1):
        if variant.dropout_before:
            add(f"drop{i}", "dropout", shape)
        add(f"fc{i}", "linear", (width,))
        add(f"relu{i}", "activation", shape)
        if not variant.dropout_before:
            add(f"drop{i}", "dropout", shape)
    add(f"fc{len(variant.convs) + len(variant.hidden) + 1}", "linear", (variant.num_classes,))
    return tuple(layers)
