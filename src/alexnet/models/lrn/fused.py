"""Local response normalisation as two operators of torch, each one pass over memory: C on a CPU, Triton on a GPU.

The operators do not differentiate themselves: `derivatives` does, because what torch.library.register_autograd makes of
an operator is refused by torch.func (pytorch issue 168393).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from alexnet.models import native
from alexnet.models.lrn.cpu import Geometry
from alexnet.models.native import Lack
from alexnet.models.tracing import constant, runs_elsewhere

DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}

_missing: dict[str, Lack | None] = {}  # by device type; found out once


def takes(x: Tensor) -> bool:
    """Whether there is a kernel for this tensor here."""
    if runs_elsewhere():
        return False
    fits = x.ndim == 4 and x.dtype in DTYPES.get(x.device.type, ()) and x.numel() < 2**31
    return fits and has_kernel(x.device.type) and (x.dtype != torch.bfloat16 or _has_bf16(x.device.type))


@constant
def has_kernel(device: str) -> bool:
    """Whether there is a kernel for "cpu" or "cuda" here."""
    return missing(device) is None


@constant
def _has_bf16(device: str) -> bool:
    """Whether what computes there has bf16: Triton compiles no kernel in it for a GPU before compute capability 8."""
    return device == "cpu" or torch.cuda.get_device_capability() >= (8, 0)


def missing(device: str) -> Lack | None:
    """Why there is no kernel for "cpu" or "cuda"; None where there is one."""
    if device not in _missing:
        _missing[device] = _without_triton() if device == "cuda" else native.missing()
    return _missing[device]


def _without_triton() -> Lack | None:
    """Triton needs a C compiler and Python's headers, which small images have not."""
    cost = "local response normalisation runs as a convolution, slower and with more memory"
    if find_spec("triton") is None:
        return Lack("Triton is not installed", cost, "install the package triton")
    try:
        normalise(torch.ones(1, 1, 1, 1, device="cuda"), 1, 1.0, 0.75, 1.0, 1)
    except Exception as error:  # whatever it is, the convolution does the same work
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        mend = "give it a C compiler and Python's headers, which it needs"
        return Lack(f"Triton does not work here ({reason})", cost, mend)
    return None


# torch.library.custom_op would import torch's compiler, which takes seconds, at the first call.
_operators = torch.library.Library("alexnet", "DEF")
_CONSTANTS = "int size, float alpha, float beta, float k, int columns"
_operators.define(f"lrn(Tensor x, {_CONSTANTS}) -> Tensor")
_operators.define(f"lrn_backward(Tensor x, Tensor g, {_CONSTANTS}) -> Tensor")


def normalise(x: Tensor, size: int, alpha: float, beta: float, k: float, columns: int) -> Tensor:
    """As LocalResponseNorm, for tensors that `takes` accepts."""
    y: Tensor = torch.ops.alexnet.lrn(x, size, alpha, beta, k, columns)
    return y


def input_gradient(x: Tensor, g: Tensor, size: int, alpha: float, beta: float, k: float, columns: int) -> Tensor:
    """Gradient of x for the gradient g of the normalised x, for an x that `takes` accepts."""
    gradient: Tensor = torch.ops.alexnet.lrn_backward(x, g, size, alpha, beta, k, columns)
    return gradient


def _forward(x: Tensor, *constants: Any) -> Tensor:
    x = _dense(x)
    y = torch.empty_like(x)
    _launch(x, None, y, *constants)
    return y


def _backward(x: Tensor, g: Tensor, *constants: Any) -> Tensor:
    x = _dense(x)
    d = torch.empty_like(x)
    _launch(x, g if g.stride() == x.stride() else torch.empty_like(x).copy_(g), d, *constants)
    return d


for _device in ("CPU", "CUDA"):
    _operators.impl("lrn", _forward, _device)
    _operators.impl("lrn_backward", _backward, _device)


@torch.library.register_fake("alexnet::lrn")  # type: ignore[untyped-decorator]
def _(x: Tensor, *constants: Any) -> Tensor:
    return torch.empty_like(_dense(x))


@torch.library.register_fake("alexnet::lrn_backward")  # type: ignore[untyped-decorator]
def _(x: Tensor, g: Tensor, *constants: Any) -> Tensor:
    return torch.empty_like(_dense(x))


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _launch(x: Tensor, g: Tensor | None, y: Tensor, *constants: Any) -> None:
    if x.numel() == 0:
        return
    if x.device.type == "cuda":
        from alexnet.models.lrn.gpu import launch  # Triton takes seconds to import
    else:
        from alexnet.models.lrn.cpu import launch
    *numbers, columns = constants
    launch(x, g, y, Geometry.of(x, columns), *numbers)
