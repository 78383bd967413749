"""Local response normalisation as a differentiable function, whichever form computes it.

Two torch.autograd.Functions, the normalisation and its gradient, in the style that torch's transformations accept:
torch.func (grad, vjp, jacrev, vmap and any of them within another), autograd to any order, torch.compile. Where
derivatives are carried forward torch differentiates its own operations: torch.compile takes no Function that says how.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet.models.lrn import banded, fused
from alexnet.models.tracing import carries_tangents, is_called_plainly

_CONSTANTS = (None,) * 5  # size, alpha, beta, k, columns have no gradient


def normalise(x: Tensor, *constants: Any) -> Tensor:
    """x [N, C, H, W] and size, alpha, beta, k, columns to the normalised x."""
    return _apply(_Normalisation, x, *constants)


class _Normalisation(torch.autograd.Function):
    plain = staticmethod(banded.normalise)

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
        return _apply(_Gradient, x, gradients[0], *ctx.constants), *_CONSTANTS

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *constants: Any) -> tuple[Tensor, int]:
        return _unfold(_apply(_Normalisation, _fold(x, in_dims[0], info.batch_size), *constants), info.batch_size)

    @staticmethod
    def symbolic(g: Any, x: Any, size: int, alpha: float, beta: float, k: float, columns: int) -> Any:
        """The operator of ONNX, for the exporter of torch that goes by TorchScript."""
        return g.op("LRN", x, alpha_f=alpha, beta_f=beta, bias_f=k, size_i=size).setType(x.type())


class _Gradient(torch.autograd.Function):
    """From x, the gradient g of the normalised x and the constants to the gradient of x."""

    plain = staticmethod(banded.input_gradient)

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
        return _unfold(_apply(_Gradient, x, g, *constants), info.batch_size)


def _apply(function: type[_Normalisation | _Gradient], *arguments: Any) -> Tensor:
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if not torch.compiler.is_dynamo_compiling() and carries_tangents(*tensors):
        return function.plain(*arguments)
    differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    # Half of the time of a single small image, and torch.compile of torch 2.11 would call it with a context, which it
    # does not take.
    if not differentiated and (torch.compiler.is_dynamo_compiling() or is_called_plainly()):
        alone: Tensor = function.forward(*arguments)
        return alone
    result: Tensor = function.apply(*arguments)
    return result


def _fold(x: Tensor, dim: int | None, batch: int) -> Tensor:
    """[N, C, H, W] with a further dimension of `batch`, at `dim` or nowhere, to [batch * N, C, H, W]."""
    whole = x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0)
    return whole.flatten(0, 1)


def _unfold(y: Tensor, batch: int) -> tuple[Tensor, int]:
    return y.unflatten(0, (batch, y.shape[0] // batch)), 0
