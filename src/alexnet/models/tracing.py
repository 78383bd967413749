"""What torch's tracers are told: what they may take for granted, and which programs must run without this package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_F = TypeVar("_F", bound=Callable[..., Any])


def constant(function: _F) -> _F:
    """Have torch.compile call `function` while it traces, and not look into how the answer is found.

    The public way, torch.compiler.assume_constant_result, imports that compiler, which takes seconds, so the mark that
    it leaves is left here unless the compiler is there already. A torch that does not know the mark looks into the
    function: it can where the answer is in a table already; if not, it compiles the parts before and after, and
    fullgraph=True raises.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.assume_constant_result(function)
    else:
        function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant  # looked into, torch.compile of torch 2.11 takes is_exporting for true
def runs_elsewhere() -> bool:
    """Whether a program is being recorded (torch.export, torch.onnx.export, torch.jit.trace) that is to run without
    this package: of torch's own operations alone."""
    return torch.compiler.is_exporting() or _traced()


def takes_plain_operations(size: int, columns: int) -> bool:
    """Whether local response normalisation with these constants has to be made of torch's own operations alone."""
    if torch.compiler.is_dynamo_compiling() and _transformed():
        return True
    return runs_elsewhere() and not _onnx_has(size, columns)


def _onnx_has(size: int, columns: int) -> bool:
    """Whether what is recorded is for ONNX by way of TorchScript, and one operator of ONNX, LRN, does all of it."""
    # Its even windows reach further to the other side than ours.
    return size % 2 == 1 and columns == 1 and _traced() and torch.onnx.is_in_onnx_export()


def is_called_plainly() -> bool:
    """Whether neither torch.func nor torch.jit.trace is at work around a call; where a torch has another name for the
    question, the answer is no."""
    peek = _peek()
    return peek is not None and peek() is None and not _traced()


def carries_tangents(*tensors: Tensor) -> bool:
    """Whether derivatives are carried forward through a call on these tensors: they are dual numbers, or torch.func
    (jvp, jacfwd, hessian) is at work around it."""
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        return True
    stack = getattr(getattr(torch._C, "_functorch", None), "get_interpreter_stack", None)
    return stack is not None and any("Jvp" in str(each.key()) for each in stack() or ())


@constant
def _transformed() -> bool:
    """Whether torch.func (grad, vmap) is at work around or within what torch.compile traces.

    That compiler knows no vmap of a torch.autograd.Function. Where a torch has another name for the question, the
    answer is no, and torch.compile raises.
    """
    peek = _peek()
    return peek is not None and peek() is not None


def _peek() -> Callable[[], object] | None:
    """torch's private name for the transformation of torch.func that is at work, if it has it."""
    return getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)


def _traced() -> bool:
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traced


def is_left_to_us(x: object) -> bool:
    """Whether a kernel may read the memory of `x` in the place of torch's own operator: nothing records, compiles,
    transforms or overrides the call, and x is a plain tensor without a tangent."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or not is_called_plainly():
        return False
    if torch.overrides.has_torch_function((x,)) or _dispatched():
        return False
    return x.layout == torch.strided and _has_memory(x) and forward_ad.unpack_dual(x).tangent is None


def _has_memory(x: Tensor) -> bool:
    """Not so where many gradients are computed at once (torch.autograd.grad with is_grads_batched), of which nothing
    else tells."""
    try:
        return x.data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False


def _dispatched() -> bool:
    """Whether a mode (fake tensors, a count of operations, make_fx) sees every operator; where a torch has another name
    for the question, the answer is yes."""
    count = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return count is None or count() > 0
