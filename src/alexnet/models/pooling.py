"""Pooling by a kernel in C (native/pool.c), to the bit what torch's own gives and several times as fast.

torch keeps a position of eight bytes for every maximum, and in bf16 its gradients go number by number. The modules here
are torch's, and hand over to the kernel only where nobody can tell: on a CPU, for dense channels_last images in float32
or bf16, in a plain call. In every other case, and in double backward, torch's own operators do the work.
"""

# Annotations stay types, not names (no `annotations` from __future__): torch.fx of torch 2.11 cannot pickle names.

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.models import native
from alexnet.models.summary import positions
from alexnet.models.tracing import is_left_to_us

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class MaxPool2d(nn.MaxPool2d):
    """torch.nn.MaxPool2d, faster on a CPU in training and inference; see `fast.use_kernels`."""

    def forward(self, input: Tensor) -> Tensor:
        window = None if self.dilation != 1 or self.return_indices else _window(self, input)
        if window is None:
            return super().forward(input)  # type: ignore[no-any-return]
        if torch.is_grad_enabled() and input.requires_grad:
            return _Maximum.apply(input, window)  # type: ignore[no-any-return]
        y = window.empty(input)
        window.launch("max", input, y, None)
        return y


class AvgPool2d(nn.AvgPool2d):
    """torch.nn.AvgPool2d, whose gradient on a CPU is faster; see `fast.use_kernels`."""

    def forward(self, input: Tensor) -> Tensor:
        window = None if self.divisor_override is not None else _window(self, input)
        if window is None or not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        return _Average.apply(input, window)  # type: ignore[no-any-return]


class _Window(NamedTuple):
    """Windows of size x size pixels, and the images [N, C, H, W] that they are laid over."""

    size: int
    stride: int
    ceil: bool
    shape: torch.Size

    def empty(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for the pooled images, in channels_last."""
        shape = (*self.shape[:2], *(positions(side, self.size, self.stride, ceil=self.ceil) for side in self.shape[2:]))
        return torch.empty(shape, dtype=dtype or like.dtype, memory_format=torch.channels_last)

    def launch(self, kind: str, read: Tensor, written: Tensor, at: Tensor | None) -> None:
        """Pooling ("max"), or its gradient ("max_gradient", "average_gradient")."""
        n, c, h, w = self.shape
        pooled = written if kind == "max" else read
        function = getattr(native.library(), f"{kind}_{_NAMES[read.dtype]}")
        pointer = None if at is None else at.data_ptr()
        sizes = (n, h, w, c, *pooled.shape[2:], self.size, self.stride)
        function(read.data_ptr(), written.data_ptr(), pointer, *sizes, torch.get_num_threads())

    def gradient(self, kind: str, g: Tensor, at: Tensor | None) -> Tensor:
        """The gradient of the images for that of the pooled ones."""
        gradient = torch.empty(self.shape, dtype=g.dtype, memory_format=torch.channels_last)
        layout = torch.channels_last  # of g, and of positions that hooks have saved elsewhere, it may be another
        at = None if at is None else at.contiguous(memory_format=layout)
        self.launch(kind, g.contiguous(memory_format=layout), gradient, at)
        return gradient

    def indices(self, at: Tensor) -> Tensor:
        """What torch keeps in the place of positions in the window: those in the map."""
        rows, columns = (torch.arange(count)[:, None] * self.stride for count in at.shape[2:])
        place = at.long()
        return (rows + place // self.size) * self.shape[3] + columns.T + place % self.size


def _window(pool: nn.MaxPool2d | nn.AvgPool2d, x: Tensor) -> _Window | None:
    """None where torch's own has to do it."""
    if not is_left_to_us(x) or x.device.type != "cpu" or x.dtype not in _NAMES or x.dim() != 4:
        return None
    size, stride = pool.kernel_size, pool.stride
    if not isinstance(size, int) or not isinstance(stride, int) or pool.padding != 0 or size > min(x.shape[2:]):
        return None
    # Where an image is dense in both layouts, torch's rules for the result's are torch's.
    dense = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if not dense or size > 99 or x.numel() == 0 or native.library() is None:
        return None
    return _Window(size, stride, pool.ceil_mode, x.shape)


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: _Window) -> Tensor:
        y, at = window.empty(x), window.empty(x, torch.int16)
        window.launch("max", x, y, at)
        ctx.save_for_backward(at)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (at,), (g,), window = ctx.saved_tensors, gradients, ctx.window
        if not torch.is_grad_enabled() and is_left_to_us(g) and is_left_to_us(at):
            return window.gradient("max_gradient", g, at), None
        like = torch.empty(window.shape, dtype=g.dtype, memory_format=torch.channels_last)
        pool = [window.size] * 2, [window.stride] * 2, [0, 0], [1, 1], window.ceil
        return torch.ops.aten.max_pool2d_with_indices_backward(g, like, *pool, window.indices(at)), None


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: _Window) -> Tensor:
        ctx.window = window
        return F.avg_pool2d(x, window.size, window.stride, ceil_mode=window.ceil)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,), window = gradients, ctx.window
        if not torch.is_grad_enabled() and is_left_to_us(g):
            return window.gradient("average_gradient", g, None), None
        like = torch.empty(window.shape, dtype=g.dtype, memory_format=torch.channels_last)
        pool = [window.size] * 2, [window.stride] * 2, [0, 0], window.ceil
        return torch.ops.aten.avg_pool2d_backward(g, like, *pool, True, None), None
