"""AlexNet as a torch module, built from a table of `variants`."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.models.lrn import LocalResponseNorm
from alexnet.models.summary import Layer, trace
from alexnet.models.variants import Variant, resolve

LRN_SIZE, LRN_ALPHA, LRN_BETA = 5, 1e-4, 0.75  # section 3.3

# Standard deviation of the weights and the bias, layer by layer.
INITS: dict[str, dict[str, tuple[float, float]]] = {
    "text": {  # section 5
        "conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.01, 0), "conv4": (0.01, 1), "conv5": (0.01, 1),
        "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0),
    },
    "code": {  # the released layer files of net 145
        "conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1),
        "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0),
    },
    "caffe": {  # BVLC models/bvlc_alexnet/train_val.prototxt
        "conv1": (0.01, 0), "conv2": (0.01, 0.1), "conv3": (0.01, 0), "conv4": (0.01, 0.1), "conv5": (0.01, 0.1),
        "fc6": (0.005, 0.1), "fc7": (0.005, 0.1), "fc8": (0.01, 0),
    },
}  # fmt: skip


class AlexNet(nn.Sequential):
    """Images [N, C, H, W] to logits [N, num_classes]; modules are named conv1, relu1, norm1, pool1 ... fc8."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(OrderedDict((layer.name, _module(layer, variant)) for layer in trace(variant)))
        self.variant = variant
        initialise(self, variant.init)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.variant)
        return super().forward(images)  # type: ignore[no-any-return, no-untyped-call]


def check_images(images: Tensor, variant: Variant) -> None:
    """Raise ValueError for images of another shape than the network's."""
    wanted = (variant.in_channels, variant.input_size, variant.input_size)
    if tuple(images.shape[1:]) != wanted:
        raise ValueError(f"this network takes images of [N, {', '.join(map(str, wanted))}], not {list(images.shape)}")


def build_model(name: str = "paper", **fields: Any) -> AlexNet:
    """A freshly initialised network; `fields` replace those of the table, for example num_classes, in_channels,
    input_size, width, dropout, lrn, overlap, activation, groups, init.

    Raises UsageError for an unknown name or field and for an input too small for the kernels.
    """
    return AlexNet(resolve(name, **fields))


def blank_model(name: str = "paper", **fields: Any) -> AlexNet:
    """As `build_model`, with weights of undefined content, to be loaded: nothing is drawn from a random generator."""
    with torch.device("meta"):
        model = AlexNet(resolve(name, **fields))
    return model.to_empty(device="cpu")


def _module(layer: Layer, variant: Variant) -> nn.Module:
    match layer.kind:
        case "pad":
            return nn.ZeroPad2d((0, layer.padding, 0, layer.padding))
        case "conv":
            return nn.Conv2d(
                layer.in_shape[0], layer.out_shape[0], layer.kernel, layer.stride, layer.padding, groups=layer.groups
            )
        case "activation":
            return nn.ReLU(inplace=True) if variant.activation == "relu" else nn.Tanh()
        case "norm":
            alpha = LRN_ALPHA * (LRN_SIZE if variant.lrn == "formula" else 1)
            return LocalResponseNorm(LRN_SIZE, alpha, LRN_BETA, variant.lrn_k)
        case "pool":
            return nn.MaxPool2d(layer.kernel, layer.stride)
        case "average":
            return nn.AdaptiveAvgPool2d(layer.out_shape[1:])
        case "flatten":
            return nn.Flatten()
        case "dropout":
            return nn.Dropout(variant.dropout)
        case "linear":
            return nn.Linear(prod(layer.in_shape), layer.out_shape[0])


@torch.no_grad()
def initialise(model: AlexNet, scheme: str) -> None:
    """Fill every weight and bias by a scheme of `INITS`; "torch": the layers' own defaults; "modern": He's normal
    (2015) with zero biases."""
    *_, last = (name for name, module in model.named_children() if isinstance(module, nn.Linear))
    for name, module in model.named_children():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert module.bias is not None
        if scheme == "torch":
            module.reset_parameters()
        elif scheme in INITS:
            std, bias = INITS[scheme][name]
            nn.init.normal_(module.weight, std=std)
            nn.init.constant_(module.bias, bias)
        else:
            gain = "linear" if name == last else model.variant.activation
            nn.init.kaiming_normal_(module.weight, nonlinearity=gain)
            nn.init.zeros_(module.bias)
