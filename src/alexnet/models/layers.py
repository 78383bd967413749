"""Layers that torch has not, or has slowly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _LrnFunction(torch.autograd.Function):
    """y = x * s**-beta with s = k + alpha/n * window_sum(x**2), and its gradient written out.

    torch's own form pads, unfolds to five dimensions and differentiates a power; a banded 1x1 convolution computes the
    same window sum several times faster in both memory layouts and also runs in bf16 on a CPU.
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
        if torch.is_grad_enabled():  # create_graph=True: a second derivative needs the way from x to the scale
            scale, power = _scale_and_power(x, band, alpha, beta, k)
        # dy_j/dx_i = [i=j] s_j^-b - 2ab x_i x_j s_j^(-b-1) for every window j that holds channel i.
        direct = grads[0] * power
        through = F.conv2d(direct * x / scale, band.transpose(0, 1))
        return torch.addcmul(direct, x, through, value=-2 * alpha * beta), None, None, None, None


def _scale_and_power(x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> tuple[Tensor, Tensor]:
    scale = k + alpha * F.conv2d(x * x, band)
    # For the published beta two square roots cost far less than a general power.
    return scale, (scale * scale.sqrt()).rsqrt() if beta == 0.75 else scale.pow(-beta)


class LocalResponseNorm(nn.Module):
    """Local response normalisation over neighbouring channels (section 3.3), equal to torch.nn.LocalResponseNorm.

    Input and output: [N, C, H, W], any floating dtype, either memory layout. `alpha` is divided by `size`, as in the
    original code, Caffe and torch; the paper's formula read literally is `alpha * size` here.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        channel = torch.arange(x.shape[1], device=x.device)
        distance = channel[None, :] - channel[:, None]  # from the output's channel to the input's
        inside = (distance >= -(self.size // 2)) & (distance <= (self.size - 1) // 2)
        band = inside.to(x.dtype)[:, :, None, None]
        return _LrnFunction.apply(x, band, self.alpha / self.size, self.beta, self.k)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
