"""Local response normalisation in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.models.lrn.cpu import Geometry

BLOCK = 512


def launch(
    x: Tensor, g: Tensor | None, y: Tensor, geometry: Geometry, size: int, alpha: float, beta: float, k: float
) -> None:
    """y from x or, with g, the gradient of x; dense tensors of one layout, seen as `geometry` says."""
    grid = (triton.cdiv(x.numel(), BLOCK),)
    _, channels, inner = geometry
    numbers = x.numel(), channels, inner, alpha / size, beta, k
    fixed = {"SIZE": size, "ROOTS": beta == 0.75, "BLOCK": BLOCK}
    with torch.cuda.device_of(x):
        if g is None:
            _forward[grid](x, y, *numbers, **fixed)
        else:
            _backward[grid](x, g, y, *numbers, **fixed)


@triton.jit
def _square(x, at, channel, away, channels, inner, inside):
    """x^2, `away` channels on; zero beyond the first and the last."""
    there = inside & (channel + away >= 0) & (channel + away < channels)
    value = tl.load(x + at + away * inner, mask=there, other=0.0).to(tl.float32)
    return value * value


@triton.jit
def _power(scale, beta, ROOTS: tl.constexpr):
    """scale^-beta; two roots cost less than a general power."""
    if ROOTS:
        root = tl.rsqrt(scale)
        return root * tl.sqrt(root)
    return tl.exp2(-beta * tl.log2(scale))


@triton.jit
def _inverse(scale, ROOTS: tl.constexpr):
    """1 / scale, from the root that the power has computed."""
    if ROOTS:
        root = tl.rsqrt(scale)
        return root * root
    return 1 / scale


@triton.jit
def _forward(x, y, total, channels, inner, a, beta, k, SIZE: tl.constexpr, ROOTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    channel = at // inner % channels
    scale = tl.zeros([BLOCK], tl.float32)
    for away in tl.static_range(-(SIZE // 2), (SIZE + 1) // 2):
        scale += _square(x, at, channel, away, channels, inner, inside)
    value = tl.load(x + at, mask=inside).to(tl.float32)
    tl.store(y + at, value * _power(k + a * scale, beta, ROOTS), mask=inside)


@triton.jit
def _backward(
    x,
    g,
    d,
    total,
    channels,
    inner,
    a,
    beta,
    k,
    SIZE: tl.constexpr,
    ROOTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The scales of the neighbours are computed again: their values are in the cache, while a tensor of scales would be
    # written and read.
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    channel = at // inner % channels
    direct = tl.zeros([BLOCK], tl.float32)
    through = tl.zeros([BLOCK], tl.float32)
    for owner in tl.static_range(-((SIZE - 1) // 2), SIZE // 2 + 1):  # windows that hold this channel
        scale = tl.zeros([BLOCK], tl.float32)
        for away in tl.static_range(-(SIZE // 2), (SIZE + 1) // 2):
            scale += _square(x, at, channel, owner + away, channels, inner, inside)
        scale = k + a * scale
        there = inside & (channel + owner >= 0) & (channel + owner < channels)
        passed = tl.load(g + at + owner * inner, mask=there, other=0.0).to(tl.float32) * _power(scale, beta, ROOTS)
        value = tl.load(x + at + owner * inner, mask=there, other=0.0).to(tl.float32)
        through += passed * value * _inverse(scale, ROOTS)
        if owner == 0:
            direct = passed
    value = tl.load(x + at, mask=inside).to(tl.float32)
    tl.store(d + at, direct - 2 * a * beta * value * through, mask=inside)
