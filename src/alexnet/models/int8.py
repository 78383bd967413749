"""Inference in 8-bit integers: twice bf16's rate where the processor multiplies bytes fastest (VNNI)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.errors import UsageError
from alexnet.models.lrn import LocalResponseNorm, native
from alexnet.models.network import AlexNet, check_images
from alexnet.models.summary import Layer, trace
from alexnet.models.variants import Variant

_ONEDNN = torch.ops.onednn  # what torch's compiler emits for quantised graphs; here without a minute of compiling
_IN_CACHE = 2**19  # real numbers that become integers at a time


@dataclass(frozen=True)
class _Grid:
    """The real numbers that the integers 0 to 255 stand for: scale * (integer - zero)."""

    scale: float
    zero: int


class QuantizedAlexNet(nn.Sequential):
    """What `quantize` gives: images [N, C, H, W] in float32 to logits [N, K] in float32, in 8 bits between."""

    def __init__(self, variant: Variant, steps: list[nn.Module]) -> None:
        super().__init__(*steps)
        self.variant = variant
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.variant)
        return super().forward(images)  # type: ignore[no-any-return, no-untyped-call]


def quantize(model: AlexNet, images: Tensor) -> QuantizedAlexNet:
    """A copy of the network that computes in 8 bits.

    Weights have a scale for each output channel, activations one for each layer: their extremes over `images`, some
    hundred like those to come. Normalisation and tanh are computed in bf16. The copy lives in this process alone: it
    cannot be trained, saved or moved. Raises UsageError where the processor has no VNNI (sums saturate in others) and
    for a network whose activations are not finite.
    """
    if not computes_int8(images.device):
        raise UsageError("--precision int8 needs an x86 processor with VNNI, and --device cpu.")
    grids = _calibrate(model, images)
    layers = [layer for layer in trace(model.variant) if layer.kind != "dropout" and not _is_identity(layer)]
    weighted = [position for position, layer in enumerate(layers) if layer.parameters]
    relu = model.variant.activation == "relu"

    def product(layer: Layer, relu: bool, to: _Grid | torch.dtype) -> _Product:
        return _Product(_weighted(model, layer), grids[layer.name], relu, to)

    steps: list[nn.Module] = []
    for here, there in pairwise([-1, *weighted]):  # from the images or one product to the next
        inner = here >= 0
        between = layers[here + 1 + (inner and relu) : there]  # a ReLU is part of its product
        following, grid = _weighted(model, layers[there]), grids[layers[there].name]
        cut = len(between)
        while cut and between[cut - 1].kind in ("pool", "flatten"):
            cut -= 1  # these move integers as well as real numbers
        real = [model.get_submodule(layer.name) for layer in between[:cut] if layer.kind != "pad"]
        if inner:
            steps.append(product(layers[here], relu, torch.bfloat16 if real else grid))
        if real and isinstance(real[-1], LocalResponseNorm) and relu:
            steps += [*real[:-1], _RoundedNorm(real[-1], grid)]
        elif real or not inner:
            steps += [*real, _Quantize(grid)]
        steps += [nn.Flatten() if layer.kind == "flatten" else _MaxPool(layer) for layer in between[cut:]]
        extra = sum(layer.padding for layer in between if layer.kind == "pad")
        if isinstance(following, nn.Conv2d) and _side(following) > 1:
            steps.append(_Fold(following, extra, grid.zero))
        elif extra:
            steps.append(nn.ConstantPad2d((0, extra, 0, extra), grid.zero))
    return QuantizedAlexNet(model.variant, [*steps, product(layers[-1], False, torch.float32)])


def computes_int8(device: torch.device) -> bool:
    """Whether `quantize` works there."""
    probe = getattr(torch.cpu, "_is_vnni_supported", None)  # torch's own name for it is private
    return device.type == "cpu" and probe is not None and probe()


def _is_identity(layer: Layer) -> bool:
    return layer.kind == "average" and layer.in_shape == layer.out_shape


def _weighted(model: AlexNet, layer: Layer) -> nn.Conv2d | nn.Linear:
    module = model.get_submodule(layer.name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module


@torch.inference_mode()
def _calibrate(model: AlexNet, images: Tensor) -> dict[str, _Grid]:
    """A grid for the inputs of every layer with weights; zero lies on it."""
    grids: dict[str, _Grid] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = min(float(inputs[0].min()), 0.0), max(float(inputs[0].max()), 0.0)
        if not isfinite(high - low):
            raise UsageError(f"what {name} receives is not finite: train again with --precision fp32 or a lower rate.")
        scale = (high - low) / 255 or 1.0
        grids[name] = _Grid(scale, round(-low / scale))

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_children()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return grids


class _Quantize(nn.Module):
    """Real numbers to integers, some images at a time, which stay in the cache."""

    def __init__(self, grid: _Grid) -> None:
        super().__init__()
        self.scale = grid.scale
        self.offset = torch.tensor(grid.zero + 0.5)  # truncation then rounds

    def forward(self, x: Tensor) -> Tensor:
        integers = torch.empty_like(x, dtype=torch.uint8)
        some = max(1, _IN_CACHE // x[0].numel())
        for real, place in zip(x.split(some), integers.split(some), strict=True):
            place.copy_(torch.add(self.offset, real.float(), alpha=1 / self.scale).clamp_(0, 255))
        return integers


class _RoundedNorm(nn.Module):
    """Local response normalisation of numbers from zero up, to integers."""

    def __init__(self, norm: LocalResponseNorm, grid: _Grid) -> None:
        super().__init__()
        self.norm, self.unit, self.quantize = norm, grid.scale, _Quantize(grid)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if native.library() is not None:
            return native.rounded(x, self.unit, norm.size, norm.alpha, norm.beta, norm.k)
        integers: Tensor = self.quantize(norm(x))
        return integers


class _MaxPool(nn.Module):
    """Of integers; torch's own counts positions in the type of its values."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.kernel, self.stride = layer.kernel, layer.stride

    def forward(self, x: Tensor) -> Tensor:
        for dim in (2, 3):
            end = x.shape[dim] - self.kernel + 1
            at = (slice(None),) * dim
            windows = [x[(*at, slice(start, start + end, self.stride))] for start in range(self.kernel)]
            x = windows[0]
            for window in windows[1:]:
                x = torch.maximum(x, window)
        return x


def _side(module: nn.Conv2d | nn.Linear) -> int:
    """Of the squares of pixels that become channels before a strided convolution, or 1: of three channels it leaves
    most of the multipliers idle; the same sums over side * side * 3 channels, without a stride, take a third of the
    time."""
    if isinstance(module, nn.Linear) or module.groups > 1 or module.stride[0] * module.in_channels % 4:
        return 1  # pixels move as words of four bytes
    return module.stride[0]


class _Fold(nn.Module):
    """Integers [N, C, H, W] padded, and squares of stride x stride pixels made channels, for a convolution by
    `weight` without padding or stride."""

    def __init__(self, module: nn.Conv2d, extra: int, zero: int) -> None:
        super().__init__()
        self.side, self.kernel, self.padding = module.stride[0], module.kernel_size[0], int(module.padding[0])
        self.extra, self.zero = extra, zero

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, _ = x.shape
        f = self.side
        positions = (h + 2 * self.padding + self.extra - self.kernel) // f + 1
        m = positions - 1 + -(-self.kernel // f)
        after = m * f - h - self.padding
        padded = F.pad(x, (self.padding, after, self.padding, after), value=self.zero).permute(0, 2, 3, 1)
        words = padded.reshape(n, m * f, m * f * c).view(torch.int32).view(n, m, f, m, f * c // 4)
        cells = words.transpose(2, 3).contiguous().view(n, m, m, f * f * c // 4)
        return cells.view(torch.uint8).permute(0, 3, 1, 2)

    @staticmethod
    def weight(weight: Tensor, side: int) -> Tensor:
        """[O, C, k, k] to [O, side * side * C, k', k'] for the folded images."""
        o, c, k, _ = weight.shape
        cells = -(-k // side)
        wide = F.pad(weight, (0, cells * side - k) * 2).view(o, c, cells, side, cells, side)
        return wide.permute(0, 3, 5, 1, 2, 4).reshape(o, side * side * c, cells, cells)


class _Product(nn.Module):
    """A convolution or fully connected layer, with its ReLU: from integers of a grid to those of another, or to real
    numbers of a type."""

    def __init__(self, module: nn.Conv2d | nn.Linear, grid: _Grid, relu: bool, to: _Grid | torch.dtype) -> None:
        super().__init__()
        weight = module.weight.detach().float()
        side = _side(module)
        if side > 1:
            weight = _Fold.weight(weight, side)
        scales = weight.flatten(1).abs().amax(dim=1).clamp_min(1e-12) / 127
        integers = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
        assert module.bias is not None
        zeros, bias = torch.zeros(len(scales), dtype=torch.int32), module.bias.detach().float()
        scale, zero, kind = (to.scale, to.zero, torch.uint8) if isinstance(to, _Grid) else (1.0, 0, to)
        after: tuple[Any, ...] = (scale, zero, kind, "relu" if relu else "none", [], "")
        if isinstance(module, nn.Conv2d):
            stride, padding = ((1, 1), (0, 0)) if side > 1 else (module.stride, module.padding)
            geometry = (stride, padding, (1, 1), module.groups)

            @lru_cache(maxsize=8)
            def packed(shape: torch.Size) -> Tensor:  # the best arrangement of the weights depends on the batch
                weights: Tensor = _ONEDNN.qconv_prepack(integers, scales, grid.scale, grid.zero, *geometry, shape)
                return weights

            def compute(x: Tensor) -> Tensor:
                given = (x, grid.scale, grid.zero, packed(x.shape), scales, zeros, bias)
                y: Tensor = _ONEDNN.qconv2d_pointwise(*given, *geometry, *after)
                return y
        else:
            once = _ONEDNN.qlinear_prepack(integers, None)

            def compute(x: Tensor) -> Tensor:
                y: Tensor = _ONEDNN.qlinear_pointwise(x, grid.scale, grid.zero, once, scales, zeros, bias, *after)
                return y

        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)
