"""Local response normalisation as a differentiable function, whichever form computes it.

Two torch.autograd.Functions, the normalisation and its gradient, in the style that every transformation of torch
accepts: torch.func (grad, vjp, jacrev, vmap and any of them within another), autograd to any order, torch.compile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet.models.lrn import banded, fused

_CONSTANTS = (None,) * 5  # size, alpha, beta, k, columns have no gradient


class Normalisation(torch.autograd.Function):
    """x [N, C, H, W] and size, alpha, beta, k, columns to the normalised x."""

    @staticmethod
    def forward(x: Tensor, *constants: Any) -> Tensor:
        return fused.normalise(x, *constants) if fused.takes(x) else banded.normalise(x, *constants)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _Gradient.apply(x, gradients[0], *ctx.constants), *_CONSTANTS

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *constants: Any) -> tuple[Tensor, int]:
        return _unfold(Normalisation.apply(_fold(x, in_dims[0], info.batch_size), *constants), info.batch_size)


class _Gradient(torch.autograd.Function):
    """x and the gradient g of the normalised x, both [N, C, H, W], and the constants to the gradient of x."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, *constants: Any) -> Tensor:
        return fused.input_gradient(x, g, *constants) if fused.takes(x) else banded.input_gradient(x, g, *constants)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, g, *ctx.constants = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        return *banded.second_gradients(x, g, directions[0], *ctx.constants), *_CONSTANTS

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, g: Tensor, *constants: Any) -> tuple[Tensor, int]:
        x, g = (_fold(tensor, dim, info.batch_size) for tensor, dim in zip((x, g), in_dims, strict=False))
        return _unfold(_Gradient.apply(x, g, *constants), info.batch_size)


def _fold(x: Tensor, dim: int | None, batch: int) -> Tensor:
    """[N, C, H, W] with a further dimension of `batch`, at `dim` or nowhere, to [batch * N, C, H, W]."""
    whole = x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0)
    return whole.flatten(0, 1)


def _unfold(y: Tensor, batch: int) -> tuple[Tensor, int]:
    return y.unflatten(0, (batch, y.shape[0] // batch)), 0
