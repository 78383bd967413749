"""A network of two columns on two processes, as on the two GPUs of 2012 (section 3.2, figure 2).

Each process sees every image and holds one half of every layer's kernels and units. `plan` reads from the table what
crosses between them, and it is little:

    images                                 nothing: they are there on both processes
    layers in groups                       nothing: a column reads its own maps (conv2, conv4, conv5)
    other convolutions, fully connected    the other column's whole input (conv3, fc6, fc7, fc8)
    LRN over all channels                  the channels beyond the border that a window reaches
    LRN of each column, within a map       nothing (net 145)
    pooling, ReLU                          nothing
    dropout                                nothing: both draw the whole mask, by one process's random numbers
    logits                                 the other half of the classes

In 2012 one of the GPUs computed fc8 alone (layers-145.cfg: fc1000). Here it is halved like every other layer: one code
serves all, neither process waits for the other, and both have the logits, so that both know the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.compute.distributed import World
from alexnet.errors import UsageError
from alexnet.models.network import AlexNet, Undrawn, build_layer, check_images
from alexnet.models.summary import Layer, Shape, trace
from alexnet.models.table import Conv, Linear, Norm, Variant

COLUMNS = 2


@dataclass(frozen=True)
class Part:
    """One process's part of a layer, and how many channels or units cross before it."""

    layer: Layer
    """The part as a layer of its own: shapes, groups and columns are this process's, with what it takes."""
    whole: Layer
    """The layer of the table."""
    gives: int = 0
    """Channels that the other process gets: those next to the border between the two, or all."""
    takes: int = 0
    """Channels that it gets from the other process."""


def plan(variant: Variant, column: World) -> tuple[Part, ...]:
    """Every layer in order, as it is computed by the process whose place among the two is `column`.

    Raises UsageError for a network that has not two columns, where no convolution is in groups and nothing would stay
    within a process, and for a layer that cannot be halved.
    """
    layers = trace(variant)
    if not any(layer.kind == "conv" and layer.groups % COLUMNS == 0 for layer in layers):
        raise UsageError(
            "--columns 2 needs a network of two columns, and no convolution of this one is in groups: set "
            "--model.groups 2, choose another --model.variant such as paper, or train without --columns."
        )
    weighted = [layer for layer in layers if layer.weight_shape]
    for layer in weighted[:-1]:
        if layer.out_shape[0] % COLUMNS:
            raise UsageError(f"--columns 2: the width of {layer.name}, {layer.out_shape[0]}, cannot be halved.")
    start = layers.index(weighted[0])  # before it there are but the images
    parts = (_part(layer, column, reads_images=layer is weighted[0]) for layer in layers[start:])
    return *(Part(layer, layer) for layer in layers[:start]), *parts


def _part(layer: Layer, column: World, reads_images: bool) -> Part:
    own, out = _half(layer.in_shape, column), _half(layer.out_shape, column)
    match layer.row:
        case Conv() if reads_images and layer.groups == 1:
            return Part(replace(layer, out_shape=out), layer)
        case Conv() | Linear() if not reads_images and layer.groups % COLUMNS == 0:
            return Part(replace(layer, in_shape=own, out_shape=out, groups=layer.groups // COLUMNS), layer)
        case Conv() | Linear() if layer.groups == 1:
            return Part(replace(layer, out_shape=out), layer, own[0], layer.in_shape[0] - own[0])
        case Norm(over="channels", columns=1) as norm:
            below, above = (min(reach, own[0]) for reach in (norm.size // 2, (norm.size - 1) // 2))
            gives, takes = (above, below) if column.rank else (below, above)
            return Part(replace(layer, in_shape=(own[0] + takes, *own[1:]), out_shape=own), layer, gives, takes)
        case Norm(over="channels") as norm if norm.columns % COLUMNS == 0:
            row = replace(norm, columns=norm.columns // COLUMNS)
            return Part(replace(layer, in_shape=own, out_shape=out, row=row), layer)
        case _ if layer.weight_shape or (isinstance(layer.row, Norm) and layer.row.over == "channels"):
            raise UsageError(f"--columns 2: {layer.name} cannot be halved, its {layer.row} belongs to both columns.")
        case _:
            return Part(replace(layer, in_shape=own, out_shape=out), layer)


def _half(shape: Shape, column: World) -> Shape:
    return (len(range(shape[0])[column.part(shape[0])]), *shape[1:])


class ColumnNetwork(nn.Module):
    """One process's column of an AlexNet: images [N, C, H, W] to the logits [N, num_classes] of the whole network.

    Both processes must call it together, with the same images, and go back through it together. Its modules and its
    parameters have the names of the whole network's; the parameters are this process's part of those along their first
    axis (`World.cut`, undone by `World.concatenate`), and only they learn here. What follows the logits has to be the
    same on both processes: the gradient of its own classes is all that a process goes back with.
    """

    def __init__(self, network: AlexNet, column: World) -> None:
        """The column of `network` at the place `column` among two processes, with its weights and with those frozen
        that are frozen there. Raises as `plan`."""
        super().__init__()
        self.variant, self.column = network.variant, column
        self.parts = plan(network.variant, column)
        self.exchanged = 0
        """Bytes given to and taken from the other process so far."""
        with Undrawn():
            for part in self.parts:
                self.add_module(part.layer.name, build_layer(part.layer))
        like = next(network.parameters())
        self.to(like.device, like.dtype).load_state_dict(column.cut(network.state_dict()))
        for name, parameter in network.named_parameters():
            self.get_parameter(name).requires_grad_(parameter.requires_grad)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.variant)
        x = images
        for part in self.parts:
            module = self.get_submodule(part.layer.name)
            if part.layer.kind == "dropout":
                x = x * self._mask(module, x, part.whole.in_shape[0])
                continue
            x = module(self._beside(x, part.gives, part.takes) if part.gives or part.takes else x)
            extra = x.shape[1] - part.layer.out_shape[0]  # a normalisation gives the channels beyond the border, too
            if extra:
                x = x.narrow(1, extra if self.column.rank else 0, part.layer.out_shape[0])
        classes = self.variant.num_classes
        return self._beside(x, x.shape[1], classes - x.shape[1], shared=True)

    def _beside(self, x: Tensor, gives: int, takes: int, shared: bool = False) -> Tensor:
        joined: Tensor = _Beside.apply(x, gives, takes, self._swap, self.column.rank, shared)
        return joined

    def _swap(self, mine: Tensor, channels: int) -> Tensor:
        """The other process's [N, channels, ...] for mine, as they lie in memory: channels last."""
        last = mine.movedim(1, -1).contiguous()
        theirs = self.column.swap(last, (*last.shape[:-1], channels))
        self.exchanged += last.nbytes + theirs.nbytes
        return theirs.movedim(-1, 1)

    def _mask(self, module: nn.Module, x: Tensor, channels: int) -> Tensor:
        """This column's part of what dropout multiplies the whole layer by."""
        whole = x.new_ones(x.shape[0], channels, *x.shape[2:])
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)  # numbers are drawn in the order of memory
        mask: Tensor = module(whole)
        return mask[:, self.column.part(channels)]


class _Beside(torch.autograd.Function):
    """From a column's own x [N, C, ...] to [N, C + takes, ...]: with the other's channels beside it, in their order.

    `swap` gives some channels to the other process and takes the others'. Backward the gradients go the other way, and
    are added to those of the channels that were given; where the rest is `shared`, the same work on both processes, its
    gradient is the same there, and complete.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gives: int, takes: int, swap: Callable[[Tensor, int], Tensor], rank: int, shared: bool
    ) -> Tensor:
        ctx.constants = gives, takes, swap, rank, shared
        given = x.narrow(1, 0 if rank else x.shape[1] - gives, gives)
        taken = swap(given, takes)
        return torch.cat([taken, x] if rank else [x, taken], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (gives, takes, swap, rank, shared) = gradients, ctx.constants
        own = g.shape[1] - takes
        mine = g.narrow(1, takes if rank else 0, own)
        if not shared:
            mine = mine.clone()
            back = swap(g.narrow(1, 0 if rank else own, takes), gives)
            mine.narrow(1, 0 if rank else own - gives, gives).add_(back)
        return mine, None, None, None, None, None
