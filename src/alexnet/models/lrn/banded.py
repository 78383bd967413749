"""Local response normalisation by a 1x1 convolution with a banded matrix: torch's own operations, on every device.

    s_c = k + a * sum(x_j^2, j in window(c)),   y_c = x_c * s_c^-beta,   a = alpha / size

torch's own form pads, unfolds to five dimensions and differentiates a power; this computes the same window sum several
times faster in both memory layouts. Every function takes and gives tensors [N, C, H, W] in one floating dtype, computes
in float32 at least, and may be differentiated.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def normalise(x: Tensor, size: int, alpha: float, beta: float, k: float, columns: int) -> Tensor:
    """As LocalResponseNorm."""
    with own_precision(x):
        wide = _wide(x)
        scale = _scale(wide, _band(wide, size, columns), alpha / size, k)
        return _as(x.dtype, wide * _power(scale, beta))


def input_gradient(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float, columns: int) -> Tensor:
    """Gradient of x for the gradient g of the normalised x."""
    with own_precision(x):  # also if backward is called within autocast
        wide, a = _wide(x), alpha / size
        band = _band(wide, size, columns)
        scale = _scale(wide, band, a, k)
        # dy_j/dx_i = [i=j] s_j^-b - 2ab x_i x_j s_j^(-b-1) for every window j that holds channel i.
        direct = _wide(g) * _power(scale, beta)
        through = F.conv2d(direct * wide / scale, band.transpose(0, 1))
        return _as(x.dtype, torch.addcmul(direct, wide, through, value=-2 * a * beta))


def second_gradients(
    x: Tensor, g: Tensor, v: Tensor, size: int, alpha: float, beta: float, k: float, columns: int
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of g for the gradient v of `input_gradient`'s result.

    With W the sum over windows and W' that over the windows which hold a channel, they are those of
    <v, input_gradient> = sum(g v s^-b) - 2ab sum(W(v x) g x s^(-b-1)); s depends on x by W.
    """
    with own_precision(x):
        wide, u, w, a = _wide(x), _wide(g), _wide(v), alpha / size
        band = _band(wide, size, columns)
        scale = _scale(wide, band, a, k)
        power, mirrored = _power(scale, beta), band.transpose(0, 1)
        cross = power / scale
        inner = 2 * a * beta * F.conv2d(w * wide, band)
        of_g = w * power - inner * wide * cross
        of_scale = u * cross * ((beta + 1) * inner * wide / scale - beta * w)
        of_x = 2 * a * wide * F.conv2d(of_scale, mirrored) - inner * u * cross
        of_x = of_x - 2 * a * beta * w * F.conv2d(u * wide * cross, mirrored)
        return _as(x.dtype, of_x), _as(g.dtype, of_g)


def own_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast, on devices that have it."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _as(dtype: torch.dtype, y: Tensor) -> Tensor:
    # Where `to` has nothing to do, torch.compile of torch 2.11 takes one result for two and computes a wrong gradient.
    return y if y.dtype == dtype else y.to(dtype)


def _band(x: Tensor, size: int, columns: int) -> Tensor:
    """[C, C, 1, 1]: 1 where an input's channel lies in the window of an output's, and in the same column."""
    channel = torch.arange(x.shape[1], device=x.device)
    distance = channel[None, :] - channel[:, None]  # from the output's channel to the input's
    inside = (distance >= -(size // 2)) & (distance <= (size - 1) // 2)
    if columns > 1:
        column = channel // (x.shape[1] // columns)
        inside = inside & (column[None, :] == column[:, None])
    return inside.to(x.dtype)[:, :, None, None]


def _scale(x: Tensor, band: Tensor, a: float, k: float) -> Tensor:
    return k + a * F.conv2d(x * x, band)


def _power(scale: Tensor, beta: float) -> Tensor:
    # For the published beta two square roots cost far less than a general power.
    return (scale * scale.sqrt()).rsqrt() if beta == 0.75 else scale.pow(-beta)
