"""Local response normalisation as two operators of torch, each one pass over memory: C on a CPU, Triton on a GPU."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from alexnet.models.lrn import banded, native

DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}


def takes(x: Tensor) -> bool:
    """Whether there is a kernel for this tensor here."""
    if x.ndim != 4 or x.dtype not in DTYPES.get(x.device.type, ()):
        return False
    if x.device.type == "cuda":
        return _triton()
    return native.library() is not None


def lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """As LocalResponseNorm, for tensors that `takes` accepts."""
    y: Tensor = _forward(x, size, alpha, beta, k)
    return y


@torch.library.custom_op("alexnet::lrn", mutates_args=())
def _forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x, y = _dense(x), torch.empty_like(_dense(x))
    _launch(x, None, y, size, alpha, beta, k)
    return y


@torch.library.custom_op("alexnet::lrn_backward", mutates_args=())
def _backward(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = _dense(x)
    d = torch.empty_like(x)
    _launch(x, torch.empty_like(x).copy_(g) if g.stride() != x.stride() else g, d, size, alpha, beta, k)
    return d


@_forward.register_fake
def _(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(_dense(x))


@_backward.register_fake
def _(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(_dense(x))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    twice = torch.is_grad_enabled()  # create_graph=True
    return (banded.input_gradient if twice else _backward)(x, g, *ctx.constants), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _launch(x: Tensor, g: Tensor | None, y: Tensor, *constants: Any) -> None:
    inner = x.shape[2] * x.shape[3] if x.is_contiguous() else 1
    if x.device.type == "cuda":
        from alexnet.models.lrn.gpu import launch  # Triton takes seconds to import
    else:
        from alexnet.models.lrn.native import launch
    launch(x, g, y, inner, *constants)


@lru_cache(maxsize=1)
def _triton() -> bool:
    return find_spec("triton") is not None
