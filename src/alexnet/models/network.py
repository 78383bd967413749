"""AlexNet as a torch module, built from a table of `variants`."""

# Annotations stay types, not names (no `annotations` from __future__): torch.fx of torch 2.11 cannot pickle names.

from collections import OrderedDict
from collections.abc import Iterator
from math import prod, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alexnet.models.ablations import resolve
from alexnet.models.local import GroupedLinear, LocalConv2d
from alexnet.models.lrn import LocalResponseNorm, MapResponseNorm
from alexnet.models.schemes import MODERN_HEAD, SCHEMES, start_bias
from alexnet.models.summary import Layer, trace
from alexnet.models.table import Conv, Dropout, Linear, Local, Norm, Pool, Variant


class AlexNet(nn.Sequential):
    """Images [N, C, H, W] to logits [N, num_classes]; modules are named conv1, relu1, norm1, pool1 ... fc8.

    `forward_features` and `forward_head` are its two parts, and `reset_classifier` gives it other classes, as the
    methods of the same names of timm's networks do. `variant` is the table that it was built from. Raises UsageError
    where the table does not fit its input (`trace`) and, when called, ValueError for images of another shape than the
    table's.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__(OrderedDict((layer.name, build_layer(layer)) for layer in trace(variant)))
        self.variant = variant
        initialise(self, variant.init)

    def forward(self, images: Tensor) -> Tensor:
        _check_shape(images, self.variant.in_channels, self.variant.input_size)
        return super().forward(images)  # type: ignore[no-any-return, no-untyped-call]

    def forward_features(self, images: Tensor) -> Tensor:
        """What the convolutional layers make of images [N, C, H, W]: maps [N, num_features, h, w], not yet pooled to a
        fixed size or flattened."""
        _check_shape(images, self.variant.in_channels, self.variant.input_size)
        for module in list(self.children())[: self._head]:
            images = module(images)
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """What the fully connected layers make of the maps of `forward_features`: logits [N, num_classes], or with
        `pre_logits` what goes into the last of them, [N, head_hidden_size]."""
        for module in list(self.children())[self._head : self._output if pre_logits else None]:
            features = module(features)
        return features

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Every layer by its name, in order; one that somebody put into several places at each of them, where torch's
        own method names it once."""
        for name, module in self._modules.items():
            assert module is not None
            yield name, module

    def get_classifier(self) -> nn.Module:
        """The last layer, which tells the classes apart."""
        return self[self._output]  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer for other classes, with initial weights by the network's scheme, in the place of the old
        one; all other weights stay. An optimiser must be made afterwards. Raises UsageError for no classes at all:
        `forward_head(features, pre_logits=True)` is the network without its last layer."""
        variant, place = resolve(self.variant, num_classes=num_classes), self._output
        layer, old = trace(variant)[place], next(self[place].parameters())
        head = build_layer(layer)
        initialise_layer(head, layer, variant.init, variant.positive_bias)
        self[place] = head.to(old.device, old.dtype).train(self.training)
        self.variant = variant

    @property
    def num_classes(self) -> int:
        """How many logits it gives."""
        return self.variant.num_classes

    @property
    def num_features(self) -> int:
        """Channels of `forward_features`."""
        return trace(self.variant)[self._head].in_shape[0]

    @property
    def head_hidden_size(self) -> int:
        """Values that go into the last layer."""
        return prod(trace(self.variant)[self._output].in_shape)

    @property
    def _head(self) -> int:
        """The place of the first layer behind the convolutional ones."""
        return next(i for i, name in enumerate(self._modules) if name in ("avgpool", "flatten"))

    @property
    def _output(self) -> int:
        """The place of the layer that gives the logits, behind which a table of one's own may have others."""
        return next(i for i, layer in enumerate(trace(self.variant)) if layer.role == "output")

    def __getitem__(self, index: int | slice) -> Any:
        """A layer; for a slice, those layers as a plain Sequential, since a part of the network has no table."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


def build_model(name: str | Variant = "paper", **fields: Any) -> AlexNet:
    """A freshly initialised network: a name of `list_models` or a table of one's own, with `fields` changed, for
    example num_classes, in_channels, input_size, width, dropout, lrn, overlap, activation, groups, init.

    Raises UsageError for an unknown name or field and for an input too small for the kernels.
    """
    return AlexNet(resolve(name, **fields))


def blank_model(name: str | Variant = "paper", **fields: Any) -> AlexNet:
    """As `build_model`, with memory for the weights but nothing of use in it, for a checkpoint to fill.

    No random number is drawn, and a large network is there at once.
    """
    with Undrawn():
        return build_model(name, **fields)


class Undrawn(TorchFunctionMode):
    """Where tensors are not filled with random numbers. (The meta device does the same after seconds of imports.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


class InFloat32(TorchFunctionMode):
    """Where networks are made in float32, whatever a program's default dtype is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.empty and given.get("dtype") is None:
            given = given | {"dtype": torch.float32}
        return func(*args, **given)


def check_images(images: Tensor, variant: Variant) -> None:
    """Raise ValueError for images of another shape than the network's."""
    _check_shape(images, variant.in_channels, variant.input_size)


def _check_shape(images: Tensor, channels: int, side: int) -> None:
    if images.shape[1:] != (channels, side, side):
        raise ValueError(
            f"this network takes images of [N, {channels}, {side}, {side}], not {[*map(int, images.shape)]}"
        )


# torch.fx records the check as one step and looks no further: while it traces, images have no shape.
torch.fx.wrap("_check_shape")


def build_layer(layer: Layer) -> nn.Module:
    """The module that computes a layer of `trace`; its weights are torch's own until `initialise` fills them."""
    match layer.row:
        case Conv():
            return nn.Conv2d(
                layer.in_shape[0], layer.out_shape[0], layer.kernel, layer.stride, layer.padding, groups=layer.groups
            )
        case Local():
            channels, side, _ = layer.in_shape
            return LocalConv2d(channels, layer.out_shape[0], layer.kernel, side, layer.stride, layer.padding)
        case Linear():
            inputs, width = prod(layer.in_shape), layer.out_shape[0]
            return nn.Linear(inputs, width) if layer.groups == 1 else GroupedLinear(inputs, width, layer.groups)
        case Norm(size, alpha, beta, k, "map"):
            return MapResponseNorm(size, alpha, beta, k)
        case Norm(size, alpha, beta, k, "channels", columns):
            return LocalResponseNorm(size, alpha, beta, k, columns)
        case Pool(size, stride, ceil, average):
            return (nn.AvgPool2d if average else nn.MaxPool2d)(size, stride, ceil_mode=ceil)
        case Dropout(rate):
            return nn.Dropout(rate)
        case "relu":
            return nn.ReLU()
        case "tanh":
            return nn.Tanh()
    match layer.kind:
        case "pad":
            return nn.ZeroPad2d((0, layer.padding, 0, layer.padding))
        case "average":
            return nn.AdaptiveAvgPool2d(layer.out_shape[1:])
        case _:
            return nn.Flatten()


@torch.no_grad()
def initialise(model: AlexNet, scheme: str) -> None:
    """Fill every weight and bias by a scheme of `SCHEMES`, by "torch", the layers' own defaults, by "he", He's normal
    (2015) with zero biases, or by "modern": He's, but an output layer near zero, so that all classes are equally
    probable at first and the loss of K classes starts at ln K. A row's own start (`Start`) goes before the scheme."""
    for layer in trace(model.variant):
        if isinstance(layer.row, Conv | Local | Linear):
            initialise_layer(model.get_submodule(layer.name), layer, scheme, model.variant.positive_bias)


@torch.no_grad()
def initialise_layer(module: nn.Module, layer: Layer, scheme: str, positive_bias: float | None) -> None:
    """Fill the weights and biases of one layer of `trace`; `positive_bias` is that of its network's table."""
    row = layer.row
    assert isinstance(row, Conv | Local | Linear)
    assert isinstance(module, nn.Conv2d | LocalConv2d | nn.Linear)
    assert module.bias is not None
    if row.start is None and scheme == "torch":
        module.reset_parameters()
    elif row.start is None and scheme in ("he", "modern"):
        gain = nn.init.calculate_gain(_nonlinearity(row))
        nn.init.normal_(module.weight, std=gain / sqrt(layer.fan_in))
        if scheme == "modern" and layer.role == "output":
            module.weight.mul_(MODERN_HEAD)
    else:
        nn.init.normal_(module.weight, std=(row.start or SCHEMES[scheme].start(layer)).std)
    if (bias := start_bias(layer, scheme, positive_bias)) is not None:
        nn.init.constant_(module.bias, bias)


def _nonlinearity(row: Conv | Local | Linear) -> Literal["linear", "relu", "tanh"]:
    for step in row.then:
        if step == "relu" or step == "tanh":
            return step
    return "linear"
