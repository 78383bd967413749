"""Local response normalisation: one module, the fastest form for the tensor at hand behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alexnet.models.lrn import banded, fused


class LocalResponseNorm(nn.Module):
    """Local response normalisation over neighbouring channels (section 3.3), equal to torch.nn.LocalResponseNorm.

    Input and output: [N, C, H, W], any floating dtype, either memory layout; sums are float32 at least, also under
    autocast. `alpha` is divided by `size`, as in the original code, Caffe and torch; the paper's formula read literally
    is `alpha * size` here.

    A fused kernel does the work on a GPU (Triton) and, where there is a C compiler, on a CPU; otherwise, in float64, in
    float16 on a CPU and in exported programs it is a convolution with a banded matrix.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        constants = self.size, self.alpha, self.beta, self.k
        if not torch.compiler.is_exporting() and fused.takes(x):
            return fused.lrn(x, *constants)
        return banded.lrn(x, *constants)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
