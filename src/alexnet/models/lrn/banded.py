"""Local response normalisation by a 1x1 convolution with a banded matrix: torch's own operations, on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """As LocalResponseNorm; twice differentiable."""
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        y: Tensor = _Lrn.apply(wide, _band(wide, size), alpha / size, beta, k)
        return y.to(x.dtype)


class _Lrn(torch.autograd.Function):
    """y = x * s**-beta with s = k + alpha/n * window_sum(x**2), and its gradient written out.

    torch's own form pads, unfolds to five dimensions and differentiates a power; this computes the same window sum
    several times faster in both memory layouts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> Tensor:
        scale, power = _scale_and_power(x, band, alpha, beta, k)
        ctx.save_for_backward(x, band, scale, power)
        ctx.constants = alpha, beta, k
        return x * power

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, band, scale, power = ctx.saved_tensors
        alpha, beta, k = ctx.constants
        with torch.autocast(x.device.type, enabled=False):  # as forward, also if backward is called within autocast
            if torch.is_grad_enabled():  # create_graph=True: a second derivative needs the way from x to the scale
                scale, power = _scale_and_power(x, band, alpha, beta, k)
            return _input_gradient(x, grads[0], band, scale, power, alpha * beta), None, None, None, None


def input_gradient(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Gradient of `lrn` for the gradient `g` of its output; differentiable itself."""
    with torch.autocast(x.device.type, enabled=False):
        wide, band = x.float(), _band(x.float(), size)
        scale, power = _scale_and_power(wide, band, alpha / size, beta, k)
        return _input_gradient(wide, g.float(), band, scale, power, alpha / size * beta).to(x.dtype)


def _band(x: Tensor, size: int) -> Tensor:
    """[C, C, 1, 1]: 1 where an input's channel lies in the window of an output's."""
    channel = torch.arange(x.shape[1], device=x.device)
    distance = channel[None, :] - channel[:, None]  # from the output's channel to the input's
    inside = (distance >= -(size // 2)) & (distance <= (size - 1) // 2)
    return inside.to(x.dtype)[:, :, None, None]


def _scale_and_power(x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> tuple[Tensor, Tensor]:
    scale = k + alpha * F.conv2d(x * x, band)
    # For the published beta two square roots cost far less than a general power.
    return scale, (scale * scale.sqrt()).rsqrt() if beta == 0.75 else scale.pow(-beta)


def _input_gradient(x: Tensor, g: Tensor, band: Tensor, scale: Tensor, power: Tensor, factor: float) -> Tensor:
    # dy_j/dx_i = [i=j] s_j^-b - 2ab x_i x_j s_j^(-b-1) for every window j that holds channel i.
    direct = g * power
    through = F.conv2d(direct * x / scale, band.transpose(0, 1))
    return torch.addcmul(direct, x, through, value=-2 * factor)
