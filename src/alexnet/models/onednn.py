"""Products of 8-bit integers: oneDNN's, or the same sums in plain arithmetic.

torch has oneDNN's products under private names, which its compiler emits for quantised graphs. Here alone they are
called: where a version of torch lacks them, products are computed exactly in float64, slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.compute import torch_tells

OPERATORS = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")
_ARRANGED = 8  # batch sizes whose arrangement of a convolution's weights is kept


@dataclass(frozen=True)
class Grid:
    """The real numbers that the integers 0 to 255 stand for: scale * (integer - zero)."""

    scale: float
    zero: int


class Geometry(NamedTuple):
    """Of a convolution with a square kernel."""

    stride: int
    padding: int
    groups: int


def has_vnni() -> bool | None:
    """Whether the processor adds products of bytes without saturation (VNNI); None where torch does not say."""
    return torch_tells("vnni")


def operators() -> Any | None:
    """torch's names for oneDNN's products; None where one is missing or the processor's sums would saturate."""
    space = torch.ops.onednn
    return space if has_vnni() and all(hasattr(space, name) for name in OPERATORS) else None


class Product(nn.Module):
    """A convolution or, without a geometry, a fully connected layer, with a ReLU or not: from integers (uint8) of a
    grid to those of another, or to real numbers of a type.

    `weight` is int8, an output's real weights are `scales` times it, `bias` is real. oneDNN multiplies weights that it
    has arranged for the processor and, in a convolution, for the batch's size. The arrangement is made at first use and
    left out of copies and files, so that these work in another process and on another processor.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor
    zeros: Tensor

    def __init__(
        self,
        weights: tuple[Tensor, Tensor, Tensor],
        geometry: Geometry | None,
        grid: Grid,
        relu: bool,
        to: Grid | torch.dtype,
    ) -> None:
        super().__init__()
        zeros = torch.zeros(len(weights[0]), dtype=torch.int32)
        for name, tensor in zip(("weight", "scales", "bias", "zeros"), (*weights, zeros), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        self.grid, self.relu, self.to_type = grid, relu, to
        # oneDNN's grouped convolution of integers whose zero is another than 0 gives wrong sums at the border on
        # processors with AMX (oneDNN 3.x, torch 2.15: 24 channels to 24 in each of two groups), so that these get a
        # border of zeros beforehand.
        apart = geometry is not None and geometry.groups > 1 and grid.zero != 0
        self.border = geometry.padding if geometry and apart else 0
        self.geometry = geometry._replace(padding=0) if geometry and apart else geometry
        self._arranged: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arranged": {}}

    def forward(self, x: Tensor) -> Tensor:
        if self.border:
            x = F.pad(x, (self.border,) * 4, value=self.grid.zero)
        key = () if self.geometry is None else x.shape
        if (product := self._arranged.get(key)) is None:
            product = self._arrange(x.shape)
            for oldest in list(self._arranged)[: 1 - _ARRANGED]:  # other threads may do the same
                self._arranged.pop(oldest, None)
            self._arranged[key] = product
        return product(x)

    def _arrange(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """The product for inputs of a shape. All that is the same at every call is looked up here: of a single small
        image that was a tenth of the time."""
        found, to, scale, zero = operators(), self.to_type, self.grid.scale, self.grid.zero
        if found is None:
            return self._exact
        constants: list[Any] = [scale, zero]
        if self.geometry is None:
            multiply = found.qlinear_pointwise
            constants += [found.qlinear_prepack(self.weight, None), self.scales, self.zeros, self.bias]
        else:
            multiply, geometry = found.qconv2d_pointwise, _listed(self.geometry)
            arrangement = found.qconv_prepack(self.weight, self.scales, scale, zero, *geometry, shape)
            constants += [arrangement, self.scales, self.zeros, self.bias, *geometry]
        constants += (to.scale, to.zero, torch.uint8) if isinstance(to, Grid) else (1.0, 0, to)
        constants += ["relu" if self.relu else "none", [], ""]
        return lambda x: multiply(x, *constants)

    def _exact(self, x: Tensor) -> Tensor:
        wide, weight = x.double() - self.grid.zero, self.weight.double()
        if self.geometry is None:
            sums = F.linear(wide, weight)
        else:
            stride, padding, groups = self.geometry
            sums = torch.conv2d(wide, weight, stride=stride, padding=padding, groups=groups)
        column = (-1, *[1] * (sums.dim() - 2))
        y = sums * (self.grid.scale * self.scales.double()).view(column) + self.bias.double().view(column)
        if self.relu:
            y = y.relu()
        if isinstance(self.to_type, Grid):
            return (y / self.to_type.scale).round().add(self.to_type.zero).clamp(0, 255).to(torch.uint8)
        return y.to(self.to_type)


def _listed(geometry: Geometry) -> tuple[list[int], list[int], list[int], int]:
    """Stride, padding, dilation, groups, as the operators take them."""
    return [geometry.stride] * 2, [geometry.padding] * 2, [1, 1], geometry.groups
