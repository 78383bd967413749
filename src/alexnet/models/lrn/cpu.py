"""The kernel in C, called without a copy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexnet.models.native import library


class Geometry(NamedTuple):
    """A dense tensor as the kernels see it: [outer, channels, inner], windows over the middle."""

    outer: int
    channels: int
    inner: int

    @classmethod
    def of(cls, x: Tensor, columns: int) -> Geometry:
        """From [N, C, H, W], dense in either layout: every column is an item of its own in `outer`."""
        channels, inner = x.shape[1] // columns, x.shape[2] * x.shape[3] if x.is_contiguous() else 1
        return cls(x.numel() // (channels * inner), channels, inner)


def launch(
    x: Tensor, g: Tensor | None, y: Tensor, geometry: Geometry, size: int, alpha: float, beta: float, k: float
) -> None:
    """y from x or, with g, the gradient of x; dense tensors of one layout, seen as `geometry` says."""
    loaded = library()
    assert loaded is not None
    function = loaded.lrn_bf16 if x.dtype == torch.bfloat16 else loaded.lrn_fp32
    gradient = None if g is None else g.data_ptr()
    function(x.data_ptr(), gradient, y.data_ptr(), *geometry, size, alpha, beta, k, torch.get_num_threads())


def rounded(x: Tensor, unit: float, size: int, alpha: float, beta: float, k: float, columns: int = 1) -> Tensor:
    """bf16 [N, C, H, W], dense, normalised, as whole units from 0 to 255 in uint8."""
    loaded = library()
    assert loaded is not None
    y = torch.empty_like(x, dtype=torch.uint8)
    constants = (*Geometry.of(x, columns), size, alpha, beta, k, torch.get_num_threads())
    loaded.lrn_rounded(x.data_ptr(), unit, y.data_ptr(), *constants)
    return y
