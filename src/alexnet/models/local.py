"""Layers whose units see only a part of what torch's own layers connect them with: one place of the maps
(`LocalConv2d`) or one column of the network (`GroupedLinear`)."""

# Annotations stay types, not names (no `annotations` from __future__): torch.fx of torch 2.11 cannot pickle names.

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocalConv2d(nn.Module):
    """A locally connected layer: a convolution in which every position of the window has weights and biases of its own.

    Input [N, in_channels, side, side] to [N, out_channels, S, S] with S = 1 + (side + 2 padding - kernel_size) //
    stride; any floating dtype, either memory layout, also under autocast. `weight` is [S * S, in_channels *
    kernel_size**2, out_channels], positions and a window's pixels row by row, the channels of a pixel side by side;
    `bias` is [S * S, out_channels]. Raises ValueError when called with maps of another size.
    This is `local` of cuda-convnet, in its networks of 13 % and 11 % on CIFAR-10 (section 3.3 of the paper).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, side: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.side = in_channels, out_channels, side
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.positions = 1 + (side + 2 * padding - kernel_size) // stride  # along a side
        places = self.positions**2
        self.weight = nn.Parameter(torch.empty(places, in_channels * kernel_size**2, out_channels))
        self.bias = nn.Parameter(torch.empty(places, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan in), as torch's convolutions start."""
        bound = 1 / sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        _check_maps(x, self.in_channels, self.side)
        # Positions before images, so that each multiplies one matrix [N, k * k * C]. Windows are cut out column by
        # column, then row by row, in an eighth of unfold's time.
        x = F.pad(x.permute(2, 3, 0, 1), (0, 0, 0, 0, *[self.padding] * 4))
        starts, end = range(self.kernel_size), self.stride * (self.positions - 1) + 1
        x = torch.cat([x[:, start : start + end : self.stride] for start in starts], -1)
        x = torch.cat([x[start : start + end : self.stride] for start in starts], -1)
        out = torch.baddbmm(self.bias.unsqueeze(1), x.flatten(0, 1), self.weight)  # [S * S, N, O]
        return out.view(self.positions, self.positions, -1, self.out_channels).permute(2, 3, 0, 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, side={self.side}, "
            f"stride={self.stride}, padding={self.padding}"
        )


class GroupedLinear(nn.Linear):
    """A fully connected layer in `groups`: equal parts of the inputs, each with its own equal part of the outputs.

    Input [N, in_features] to [N, out_features]; `weight` is [out_features, in_features / groups], as a grouped
    convolution has it. Net 150 of the released code consists of two columns that meet in the last layer alone.
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__(in_features // groups, out_features)
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        parts = input.unflatten(1, (self.groups, self.in_features)).transpose(0, 1)  # [groups, N, in]
        weight = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return torch.matmul(parts, weight).transpose(0, 1).flatten(1) + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


def _check_maps(x: Tensor, channels: int, side: int) -> None:
    if x.shape[1:] != (channels, side, side):
        raise ValueError(f"this layer takes maps of [N, {channels}, {side}, {side}], not {[*map(int, x.shape)]}")


# torch.fx records the check as one step and looks no further: while it traces, maps have no shape.
torch.fx.wrap("_check_maps")
