"""Inference in 8-bit integers: twice bf16's rate where the processor multiplies bytes fastest (VNNI)."""

from __future__ import annotations

import copy
from math import isfinite, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.errors import UsageError
from alexnet.models import native, pooling
from alexnet.models.lrn import LocalResponseNorm, MapResponseNorm
from alexnet.models.lrn.cpu import rounded
from alexnet.models.network import AlexNet, check_images
from alexnet.models.onednn import Geometry, Grid, Product, has_vnni
from alexnet.models.summary import positions
from alexnet.models.table import Variant
from alexnet.models.winograd import Conv2d

_IN_CACHE = 2**19  # real numbers that become integers at a time
_ON_INTEGERS = (nn.MaxPool2d, nn.ReLU, nn.Flatten, nn.ZeroPad2d)  # these give the same of integers as of real numbers
_IN_REAL_NUMBERS = (LocalResponseNorm, MapResponseNorm, nn.Tanh, nn.AvgPool2d, pooling.AvgPool2d, nn.AdaptiveAvgPool2d)
_KNOWN = (nn.Conv2d, nn.Linear, nn.Dropout, *_ON_INTEGERS, *_IN_REAL_NUMBERS)
_Weighted = nn.Conv2d | nn.Linear


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
    """A copy of the network that computes in 8 bits, on the CPU.

    Weights have a scale for each output channel, activations one for each layer: their extremes over `images`, some
    hundred like those to come. Normalisation, tanh and averages are computed in bf16. The copy cannot be trained; it
    can be copied, pickled and saved as a whole (torch.save of the module; its scales are in no state dict). It holds
    two bytes a weight, half of float32: the integers, and their arrangement for the processor, which is made at first
    use; of convolutions one arrangement for each batch size, the last eight.

    Raises UsageError where the processor has no VNNI (sums saturate in others), for a layer that it does not know and
    for a network whose activations are not finite.
    """
    check_int8(images.device)
    check_images(images, model.variant)
    if not len(images):
        raise UsageError("quantize needs some images, to see how large activations are.")
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise UsageError("quantize takes a network in float32: model.float().")
    steps: list[nn.Module] = []
    before: tuple[_Weighted, Grid] | None = None
    between: list[nn.Module] = []
    for module, grid in _calibrate(model, images):
        if grid is None:
            between.append(_unwatched(module))
        else:
            assert isinstance(module, _Weighted)
            steps += _connected(before, between, module, grid)
            before, between = (module, grid), []
    assert before is not None
    return QuantizedAlexNet(model.variant, [*steps, _product(*before, relu=False, to=torch.float32), *between])


def _unwatched(module: nn.Module) -> nn.Module:
    """A copy of a layer without weights that nobody's hooks watch: a deep one would copy the hooks' owners."""
    twin = copy.copy(module)
    twin.__dict__.update({name: type(value)() for name, value in vars(module).items() if "_hooks" in name})
    return twin


def check_int8(device: torch.device) -> None:
    """Raise UsageError where `quantize` does not work."""
    if not computes_int8(device):
        raise UsageError("--precision int8 needs an x86 processor with VNNI, and --device cpu.")


def computes_int8(device: torch.device) -> bool:
    """Whether `quantize` works there."""
    return device.type == "cpu" and has_vnni() is not False


def knows_layers(model: AlexNet) -> bool:
    """Whether `quantize` knows all layers of a network; local ones, for example, it does not."""
    return all(map(_is_known, model.children()))


@torch.inference_mode()
def _calibrate(model: AlexNet, images: Tensor) -> list[tuple[nn.Module, Grid | None]]:
    """The layers that a network in evaluation has, in order; those with weights with a grid for their inputs, on which
    zero lies. Raises UsageError for a layer that is not known."""
    layers: list[tuple[nn.Module, Grid | None]] = []
    x = images
    for name, module in model.named_children():
        if not _is_known(module):
            raise UsageError(f"--precision int8 does not know the layer {name}, {module}: evaluate it in bf16 or fp32.")
        if isinstance(module, nn.Dropout):
            continue
        y = module(x)
        if isinstance(module, _Weighted):
            layers.append((module, _grid(x, name)))
        elif not (isinstance(module, nn.AdaptiveAvgPool2d) and y.shape == x.shape):  # averages of single values
            layers.append((module, None))
        x = y
    return layers


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        square = all(len(set(sides)) == 1 for sides in (module.kernel_size, module.stride, module.padding))
        plain = (module.dilation, module.padding_mode) == ((1, 1), "zeros")
        return type(module) in (nn.Conv2d, Conv2d) and plain and square
    if isinstance(module, nn.MaxPool2d):
        plain = (module.padding, module.dilation, module.return_indices) == (0, 1, False)
        whole = isinstance(module.kernel_size, int) and isinstance(module.stride, int)
        return type(module) in (nn.MaxPool2d, pooling.MaxPool2d) and plain and whole
    if isinstance(module, nn.ZeroPad2d):  # on the right and below, as the paper's
        left, right, above, below = module.padding
        return type(module) is nn.ZeroPad2d and (left, above) == (0, 0) and right == below
    return type(module) in _KNOWN  # one derived from these may compute something else


def _grid(x: Tensor, name: str) -> Grid:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if not isfinite(high - low):
        raise UsageError(f"what {name} receives is not finite: train again with --precision fp32 or a lower rate.")
    scale = (high - low) / 255 or 1.0
    return Grid(scale, round(-low / scale))


def _connected(
    before: tuple[_Weighted, Grid] | None, between: list[nn.Module], module: _Weighted, grid: Grid
) -> list[nn.Module]:
    """The steps from the images, or from the inputs of the layer `before`, to the integers that `module` receives."""
    relu = before is not None and isinstance(between[0] if between else None, nn.ReLU)
    between = between[relu:]  # such a ReLU is part of its product
    cut = len(between)
    while cut and isinstance(between[cut - 1], _ON_INTEGERS):
        cut -= 1
    real, moved = between[:cut], between[cut:]
    steps: list[nn.Module] = []
    if before is not None:
        steps.append(_product(*before, relu, torch.bfloat16 if real else grid))
    positive = relu or any(isinstance(step, nn.ReLU) for step in real)  # no step gives a number another sign
    if real and isinstance(real[-1], LocalResponseNorm) and positive:
        steps += [*real[:-1], _RoundedNorm(real[-1], grid)]
    elif real or before is None:
        steps += [*real, _Quantize(grid)]
    extra = 0
    for step in moved:
        if isinstance(step, nn.ZeroPad2d):  # the last one
            extra = step.padding[1]
        elif isinstance(step, nn.MaxPool2d):
            steps.append(_MaxPool(step))
        elif isinstance(step, nn.Flatten):
            steps.append(step)
        else:  # ReLU: behind it the grid's zero is 0, so that what lay below is there already
            assert grid.zero == 0
    if isinstance(module, nn.Conv2d) and _side(module) > 1:
        steps.append(_Fold(module, extra, grid.zero))
    elif extra:
        steps.append(nn.ConstantPad2d((0, extra, 0, extra), grid.zero))
    return steps


def _product(module: _Weighted, grid: Grid, relu: bool, to: Grid | torch.dtype) -> Product:
    """The layer's weights as integers from -127 to 127, and where its sums go."""
    weight = module.weight.detach().float()
    geometry = None
    if isinstance(module, nn.Conv2d):
        geometry = Geometry(module.stride[0], int(module.padding[0]), module.groups)
        if (side := _side(module)) > 1:
            weight, geometry = _Fold.weight(weight, side), Geometry(1, 0, 1)
    scales = weight.flatten(1).abs().amax(dim=1).clamp_min(1e-12) / 127
    integers = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
    bias = torch.zeros_like(scales) if module.bias is None else module.bias.detach().float().clone()
    return Product((integers, scales, bias), geometry, grid, relu, to)


class _Quantize(nn.Module):
    """Real numbers to integers, some images at a time, which stay in the cache."""

    offset: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.scale = grid.scale
        offset = torch.tensor(grid.zero + 0.5, dtype=torch.float32)  # truncation then rounds
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        integers = torch.empty_like(x, dtype=torch.uint8)
        some = max(1, _IN_CACHE // prod(x.shape[1:]))
        for real, place in zip(x.split(some), integers.split(some), strict=True):
            place.copy_(torch.add(self.offset, real.float(), alpha=1 / self.scale).clamp_(0, 255))
        return integers


class _RoundedNorm(nn.Module):
    """Local response normalisation of numbers from zero up, to integers."""

    def __init__(self, norm: LocalResponseNorm, grid: Grid) -> None:
        super().__init__()
        self.norm, self.unit, self.quantize = norm, grid.scale, _Quantize(grid)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if native.library() is not None:
            return rounded(x, self.unit, norm.size, norm.alpha, norm.beta, norm.k, norm.columns)
        integers: Tensor = self.quantize(norm(x))
        return integers


class _MaxPool(nn.Module):
    """Of integers; torch's own counts positions in the type of its values."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel, self.stride = int(pool.kernel_size), int(pool.stride)  # type: ignore[arg-type]
        self.ceil_mode = pool.ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel, self.stride
        for dim in (2, 3):
            side = x.shape[dim]
            count = positions(side, kernel, stride, ceil=self.ceil_mode)
            beyond = (count - 1) * stride + kernel - side
            if beyond > 0:  # the last window is cut at the edge
                x = F.pad(x, (0, beyond) if dim == 3 else (0, 0, 0, beyond))  # with the lowest integer
            end = (count - 1) * stride + 1
            at = (slice(None),) * dim
            windows = [x[(*at, slice(start, start + end, stride))] for start in range(kernel)]
            x = windows[0]
            for window in windows[1:]:
                x = torch.maximum(x, window)
        return x


def _side(module: nn.Conv2d) -> int:
    """Of the squares of pixels that become channels before a strided convolution, or 1: of three channels it leaves
    most of the multipliers idle; the same sums over side * side * 3 channels, without a stride, take a third of the
    time."""
    if module.groups > 1 or module.stride[0] * module.in_channels % 4:
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
        places = (h + 2 * self.padding + self.extra - self.kernel) // f + 1
        m = places - 1 + -(-self.kernel // f)
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
