"""Networks for inference on a CPU: weights arranged or transformed for it once, most ReLUs in the pass of the layer
before them.

oneDNN arranges a convolution's weights anew at every call, which counts where a batch is small, and float32 products
of torch's own read theirs slowly on some processors. torch has the operators under private names, which its compiler
emits for graphs that are frozen. Here alone they are called (onednn.py has those of integers): where a version of torch
or a processor lacks them, a network stays as it is.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from alexnet.compute import is_watched
from alexnet.models.fast import use_kernels
from alexnet.models.winograd import Conv2d, ShortProduct, short_product

_REORDER = "mkldnn_reorder_conv2d_weight"
_HAS_BF16 = "_is_mkldnn_bf16_supported"
_OPERATORS = ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight", _HAS_BF16)
_SHAPES = 8  # of inputs for which a convolution keeps an arrangement


def arrange(network: nn.Module) -> None:
    """Put faster layers in the place of a network's, which is ours alone, in evaluation mode and on its device already
    (`Compute.replica`). It answers as before, but for rounding, and gives no gradients. A network that somebody's
    hooks watch stays as it is, and so does one that is not on a CPU."""
    if is_watched(network) or not _is_supported(network):
        return
    use_kernels(network)
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        layers = list(sequence.named_children())
        for (name, layer), (following, behind) in zip(layers, [*layers[1:], ("", None)], strict=True):
            if _is_known(layer):
                relu = type(behind) is nn.ReLU
                sequence._modules[name] = Arranged(layer, relu)
                if relu:
                    sequence._modules[following] = nn.Identity()


def _is_known(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """One derived from these may compute something else."""
    if type(layer) in (nn.Conv2d, Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def _is_supported(network: nn.Module) -> bool:
    there = hasattr(torch._C._nn, _REORDER) and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    if not there or not torch.backends.mkldnn.is_available():
        return False
    formats = (torch.float32, torch.bfloat16) if getattr(torch.ops.mkldnn, _HAS_BF16)() else (torch.float32,)
    return all(weight.device.type == "cpu" and weight.dtype in formats for weight in network.parameters())


class Arranged(nn.Module):
    """A convolution or fully connected layer, with the ReLU behind it or not."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, relu: bool) -> None:
        super().__init__()
        self._layer: nn.Conv2d | nn.Linear | None = layer
        self._bias = layer.bias
        self._after: tuple[Any, ...] = ("relu" if relu else "none", [], "")
        self._arranged: dict[tuple[int, ...], Tensor] = {}
        self._transformed: dict[int, Tensor] = {}  # by the side of a tile: the same for any number of images

    def forward(self, x: Tensor) -> Tensor:
        layer, operators = self._layer, torch.ops.mkldnn
        if isinstance(layer, nn.Conv2d):
            if (product := short_product(layer, x)) is not None:
                return self._multiply(product, layer, x)
            where: Any = (layer.padding, layer.stride, layer.dilation, layer.groups)
            if (weight := self._arranged.get(x.shape)) is None:
                if len(self._arranged) == _SHAPES:
                    self._arranged.pop(next(iter(self._arranged)))
                reorder = getattr(torch._C._nn, _REORDER)
                weight = self._arranged[x.shape] = reorder(layer.weight.to_mkldnn(), *where, x.shape)
            y: Tensor = operators._convolution_pointwise(x, weight, self._bias, *where, *self._after)
            return y
        if layer is not None:  # its own weights, many of them, are not needed again
            self._arranged[()], self._layer = operators._reorder_linear_weight(layer.weight, len(x)), None
        y = operators._linear_pointwise(x, self._arranged[()], self._bias, *self._after)
        return y

    def _multiply(self, product: ShortProduct, layer: nn.Conv2d, x: Tensor) -> Tensor:
        if (kernels := self._transformed.get(product.side)) is None:
            kernels = self._transformed[product.side] = product.transform(layer.weight)
        y = product.convolve(x, kernels, self._bias)
        return y.relu_() if self._after[0] == "relu" else y
