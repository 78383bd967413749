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
    fits = x.ndim == 4 and x.dtype in DTYPES.get(x.device.type, ()) and x.numel() < 2**31
    return fits and _kernel(x.device.type)


def _kernel(device: str) -> bool:
    return _triton() if device == "cuda" else native.library() is not None


@lru_cache(maxsize=1)
def _triton() -> bool:
    """Whether Triton is there and works: it needs a C compiler and Python's headers, which small images have not."""
    if find_spec("triton") is None:
        return False
    x = torch.ones(1, 1, 1, 1, device="cuda")
    try:
        _forward(x, 1, 1.0, 0.75, 1.0)
    except Exception:  # whatever it is, the convolution does the same work
        return False
    return True


# torch.compile shall take the answer and not look into how it is found. This is torch.compiler.assume_constant_result,
# which imports that compiler: seconds.
_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """As LocalResponseNorm, for tensors that `takes` accepts."""
    y: Tensor = torch.ops.alexnet.lrn(x, size, alpha, beta, k)
    return y


# torch.library.custom_op would import torch's compiler, which takes seconds, at the first call.
_operators = torch.library.Library("alexnet", "DEF")
_operators.define("lrn(Tensor x, int size, float alpha, float beta, float k) -> Tensor")
_operators.define("lrn_backward(Tensor x, Tensor g, int size, float alpha, float beta, float k) -> Tensor")


def _forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = _dense(x)
    y = torch.empty_like(x)
    _launch(x, None, y, size, alpha, beta, k)
    return y


def _backward(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = _dense(x)
    d = torch.empty_like(x)
    _launch(x, g if g.stride() == x.stride() else torch.empty_like(x).copy_(g), d, size, alpha, beta, k)
    return d


for _device in ("CPU", "CUDA"):
    _operators.impl("lrn", _forward, _device)
    _operators.impl("lrn_backward", _backward, _device)


@torch.library.register_fake("alexnet::lrn")  # type: ignore[untyped-decorator]
def _(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(_dense(x))


@torch.library.register_fake("alexnet::lrn_backward")  # type: ignore[untyped-decorator]
def _(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(_dense(x))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    twice = torch.is_grad_enabled()  # create_graph=True
    gradient = banded.input_gradient if twice else torch.ops.alexnet.lrn_backward
    return gradient(x, g, *ctx.constants), None, None, None, None


torch.library.register_autograd("alexnet::lrn", _differentiate, setup_context=_save)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _launch(x: Tensor, g: Tensor | None, y: Tensor, *constants: Any) -> None:
    if x.numel() == 0:
        return
    inner = x.shape[2] * x.shape[3] if x.is_contiguous() else 1
    if x.device.type == "cuda":
        from alexnet.models.lrn.gpu import launch  # Triton takes seconds to import
    else:
        from alexnet.models.lrn.native import launch
    launch(x, g, y, inner, *constants)
