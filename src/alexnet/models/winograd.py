"""Convolutions in float32 by Winograd's short products: less than half of the multiplications.

For m x m neighbouring places of a result, kernels of r x r weights take m^2 r^2 multiplications, and (m + r - 1)^2 once
images and kernels are transformed (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
What is left are products of matrices, between transformations by a kernel in C (native/winograd.c). Rounding grows: of
results of about one, torch's own convolution loses at most some 5e-6, this one some 4e-5 (bf16 4e-3), and a value that
is not finite makes all of its tile NaN.

The module here is torch's, and computes so only where that is faster: on a CPU, for dense channels_last images in
float32, strides of one, channels and images enough, in a plain call. In every other case, and in double backward,
torch's own operator does the work.
"""

# Annotations stay types, not names (no `annotations` from __future__): torch.fx of torch 2.11 cannot pickle names.

from collections.abc import Iterable
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.compute import Compute
from alexnet.models import native
from alexnet.models.summary import Layer
from alexnet.models.tracing import carries_tangents, is_left_to_us

_POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)  # where polynomials are evaluated, beside infinity: the largest tile has eight
_CHANNELS, _TILES = 32, 32  # with fewer in a group, or in a batch, it is not faster
_ROWS = 192  # tiles multiplied at once, where images are that small: what they are made to should stay in the cache


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d, faster on a CPU in float32; see `fast.use_kernels`."""

    def forward(self, input: Tensor) -> Tensor:
        product = short_product(self, input)
        if product is None:
            return super().forward(input)
        if torch.is_grad_enabled():
            return _Convolution.apply(input, self.weight, self.bias, product)  # type: ignore[no-any-return]
        return product.convolve(input, product.transform(self.weight), self.bias)


class ShortProduct(NamedTuple):
    """How one convolution of square images [N, C, H, H] is computed, for any N."""

    kernel: int
    padding: int
    groups: int
    out: int
    """Places in a row of the result."""
    size: int
    """Places in a row that one tile gives."""

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return ceil(self.out / self.size)

    @property
    def side(self) -> int:
        """Places in a row of a tile."""
        return self.size + self.kernel - 1

    def pays(self, count: int) -> bool:
        """Whether a batch of `count` images has tiles enough for it to be faster."""
        return count * self.across**2 >= _TILES

    def transform(self, weight: Tensor) -> Tensor:
        """For `convolve`, as long as the weights [O, C of a group, r, r] stay as they are: kernels [groups * places, O
        of a group, C of a group]."""
        dense = weight.detach().contiguous(memory_format=torch.channels_last)
        outs, ins = weight.shape[0] // self.groups, weight.shape[1]
        kernels = _empty(self.groups, self.side**2, outs, ins)
        for part, made in zip(dense.chunk(self.groups), kernels, strict=True):
            _launch("tiles", self._matrices.kernels, part, made, None, 1, 1, 0, 0)
        return kernels.flatten(0, 1)

    def convolve(self, x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        """The result [N, O, out, out], in channels_last."""
        y = _empty_images(len(x), self.groups * kernels.shape[1], self.out)
        for read, made in zip(self._split(x), self._split(y), strict=True):
            products = self._tiles(self._matrices.images, read, self.padding) @ kernels.mT
            self._assemble(self._matrices.results, products, made, 0, bias)
        return y

    def gradients(
        self, g: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of images and weights for that of the result, where they are wanted."""
        by, kernels = self._matrices, self.transform(weight)
        dx = _empty_images(*x.shape[:3]) if of_x else None
        sums = torch.zeros_like(kernels) if of_weight else None
        parts = zip(self._split(g), self._split(x), self._split(x if dx is None else dx), strict=True)
        for given, read, made in parts if of_x or of_weight else ():
            products = self._tiles(by.results_back, given, 0)
            if sums is not None:
                sums.baddbmm_(products.mT, self._tiles(by.images, read, self.padding))
            if dx is not None:
                self._assemble(by.images_back, products @ kernels, made, self.padding, None)
        return dx, None if sums is None else self._transform_back(sums, weight.shape)

    def _transform_back(self, kernels: Tensor, shape: torch.Size) -> Tensor:
        weight = _empty_images(*shape[:3])
        for part, read in zip(weight.chunk(self.groups), kernels.chunk(self.groups), strict=True):
            _launch("images", self._matrices.kernels_back, part, read, None, 1, 1, 0, 0)
        return weight

    @property
    def _matrices(self) -> "_Matrices":
        return _matrices(self.size, self.kernel)

    def _split(self, images: Tensor) -> tuple[Tensor, ...]:
        # Threads share the images of a part.
        return torch.split(images, max(ceil(_ROWS / self.across**2), torch.get_num_threads()))

    def _tiles(self, matrix: Tensor, images: Tensor, padding: int) -> Tensor:
        """The transformed tiles [groups * places, N * tiles, C of a group] of images [N, C, h, h]."""
        n, c, _, _ = images.shape
        tiles = _empty(self.groups * self.side**2, n * self.across**2, c // self.groups)
        _launch("tiles", matrix, images, tiles, None, self.groups, self.across, self.size, padding)
        return tiles

    def _assemble(self, matrix: Tensor, tiles: Tensor, images: Tensor, padding: int, bias: Tensor | None) -> None:
        """Make images of tiles, the sums where these overlap, with the bias."""
        _launch("images", matrix, images, tiles, bias, self.groups, self.across, self.size, padding)


def short_product(layer: nn.Conv2d, x: Tensor) -> ShortProduct | None:
    """How to compute the convolution of a layer with these images; None where torch's own has to do it."""
    if not is_left_to_us(x) or not _is_plain(x) or x.dim() != 4 or x.shape[2] != x.shape[3]:
        return None
    # Where an image is dense in both layouts, torch's rules for the result's are torch's.
    if not x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous():
        return None
    if torch.is_autocast_enabled("cpu") or not _multiplies_exactly() or not _is_regular(layer):
        return None
    side, padding, count = layer.kernel_size[0], int(layer.padding[0]), x.shape[1]
    if count != layer.in_channels or not _has_plain_weights(layer):
        return None
    product = _plan(side, padding, layer.groups, count, layer.out_channels, x.shape[2])
    return product if product and product.pays(len(x)) and native.library() is not None else None


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.layout == torch.strided


def _is_regular(layer: nn.Conv2d) -> bool:
    squares = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in (layer.kernel_size, layer.padding))
    return squares and layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"


def _has_plain_weights(layer: nn.Conv2d) -> bool:
    """Not where they are computed anew at each use, as by torch's parametrizations, or are not as the layer says."""
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    if weight is None or not _is_plain(weight) or weight.shape != shape or carries_tangents(weight):
        return False
    if bias is None:
        return layer.bias is None
    plain = _is_plain(bias) and bias.shape == shape[:1] and bias.is_contiguous()
    return plain and not carries_tangents(bias)


def _multiplies_exactly() -> bool:
    """Whether torch multiplies matrices of float32 in float32, as it does unless somebody asks for less."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it was asked for by two names that contradict each other
        return False


@lru_cache
def _plan(kernel: int, padding: int, groups: int, ins: int, outs: int, side: int) -> ShortProduct | None:
    """The one with the fewest multiplications; None where none halves them, as for kernels of one weight, or large."""
    out = side + 2 * padding - kernel + 1
    if out < 1 or kernel < 2 or min(ins, outs) < _CHANNELS * groups:
        return None
    products = [ShortProduct(kernel, padding, groups, out, size) for size in range(2, len(_POINTS) + 3 - kernel)]
    best = min(products, key=lambda product: product.across * product.side, default=None)
    return best if best and 2 * (best.across * best.side) ** 2 <= (out * kernel) ** 2 else None


def multiplications(layers: Iterable[Layer], count: int, compute: Compute) -> float:
    """Which part of the multiplications of layers, of `trace`, is left for batches of `count` images."""
    layers = list(layers)
    able = compute.device.type == "cpu" and compute.dtype == torch.float32 and native.library() is not None
    left = sum(layer.macs * (_left(layer, count) if able else 1.0) for layer in layers)
    return left / sum(layer.macs for layer in layers)


def _left(layer: Layer, count: int) -> float:
    if layer.kind != "conv" or layer.stride > 1:
        return 1.0
    (ins, side, _), outs = layer.in_shape, layer.out_shape[0]
    product = _plan(layer.kernel, layer.padding, layer.groups, ins, outs, side)
    if product is None or not product.pays(count):
        return 1.0
    return ((product.across * product.side) / (product.out * product.kernel)) ** 2


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, product: ShortProduct) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.product = product
        return product.convolve(x, product.transform(weight), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x, weight), (g,), product = ctx.saved_tensors, gradients, ctx.product
        wanted = list(ctx.needs_input_grad[:3])
        if (
            torch.is_grad_enabled()
            or not all(is_left_to_us(t) and _is_plain(t) for t in (g, x))
            or not _is_plain(weight)
        ):
            how = [g.shape[1]], [1, 1], [product.padding] * 2, [1, 1], False, [0, 0], product.groups
            return *torch.ops.aten.convolution_backward(g, x, weight, *how, wanted), None
        dense = (t.contiguous(memory_format=torch.channels_last) for t in (g, x))  # as saved by hooks it may not be
        dx, dw = product.gradients(*dense, weight, *wanted[:2])
        return dx, dw, g.sum((0, 2, 3)) if wanted[2] else None, None


class _Matrices(NamedTuple):
    """What transforms images, kernels and results, and back, from the left and the right."""

    images: Tensor
    kernels: Tensor
    results: Tensor
    images_back: Tensor
    kernels_back: Tensor
    results_back: Tensor


@lru_cache
def _matrices(size: int, kernel: int) -> _Matrices:
    """For results of `size` places and kernels of `kernel` weights, in one direction (Toom and Cook, transposed):
    the polynomial products are evaluated at `_POINTS` and at infinity, one a row."""
    count = size + kernel - 1
    points = np.array(_POINTS[: count - 1])
    images, kernels, results = np.zeros((count, count)), np.zeros((count, kernel)), np.zeros((size, count))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        images[row, :-1] = np.poly(others)[::-1]
        kernels[row] = point ** np.arange(kernel) / np.prod(point - others)
        results[:, row] = point ** np.arange(size)
    images[-1] = np.poly(points)[::-1]
    kernels[-1, -1] = results[-1, -1] = 1
    largest = np.abs(images).max(axis=1, keepdims=True)  # rows of very different size would be rounded worse
    forth = [images / largest, kernels * largest, results]
    both = [*forth, *(matrix.T.copy() for matrix in forth)]
    return _Matrices(*(torch.from_numpy(matrix.astype(np.float32)) for matrix in both))


def _launch(kind: str, matrix: Tensor, images: Tensor, tiles: Tensor, bias: Tensor | None, *tiling: int) -> None:
    """`tiling`: groups, tiles in a row, their distance, and the padding."""
    n, c, h, w = images.shape
    side, points = matrix.shape if kind == "images" else matrix.shape[::-1]
    addresses = (matrix.data_ptr(), images.data_ptr(), tiles.data_ptr(), None if bias is None else bias.data_ptr())
    function = getattr(native.library(), f"winograd_{kind}")
    function(*addresses, n, h, w, c, *tiling, side, points, torch.get_num_threads())


def _empty_images(n: int, c: int, side: int) -> Tensor:
    return torch.empty((n, c, side, side), dtype=torch.float32, memory_format=torch.channels_last)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)  # whatever torch's default is
