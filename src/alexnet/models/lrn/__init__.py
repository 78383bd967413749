"""Response normalisation: two modules, and behind them the fastest form for the tensor at hand.

`LocalResponseNorm` divides by the activity of neighbouring channels (section 3.3 of the paper), `MapResponseNorm` by
that of neighbouring pixels in the same channel (the released layer files have it after the second convolution).
"""

# Annotations stay types, not names (no `annotations` from __future__): torch.fx of torch 2.11 cannot pickle names.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.models.lrn import banded, derivatives, fused
from alexnet.models.native import Lack
from alexnet.models.tracing import takes_plain_operations

__all__ = ["LocalResponseNorm", "MapResponseNorm", "local_response_norm", "map_response_norm", "missing_kernel"]


class LocalResponseNorm(nn.Module):
    """Local response normalisation over neighbouring channels (section 3.3), equal to torch.nn.LocalResponseNorm.

    Input and output: [N, C, H, W], any floating dtype, either memory layout; sums are float32 at least, also under
    autocast. `alpha` is divided by `size`, as in the original code, Caffe and torch; the paper's formula read literally
    is `alpha * size` here. With `columns=2` a window never crosses from one half of the channels to the other, as on
    the two GPUs of the original code. Raises ValueError when called with channels that `columns` does not divide.

    A fused kernel does the work on a GPU (Triton) and, where there is a C compiler, on a CPU; otherwise, in float64, in
    float16 on a CPU and in exported programs it is a convolution with a banded matrix.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, columns: int = 1
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.columns = size, alpha, beta, k, columns

    def forward(self, x: Tensor) -> Tensor:
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k, self.columns)

    def extra_repr(self) -> str:
        columns = f", columns={self.columns}" if self.columns != 1 else ""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}{columns}"


class MapResponseNorm(nn.Module):
    """Response normalisation within each channel, over a window of `size` x `size` pixels clipped at the border.

    Input and output: [N, C, H, W], any floating dtype; sums are float32 at least, also under autocast. Every pixel is
    multiplied by (k + alpha / size^2 * sum of squares in its window)^-beta; the divisor is size^2 at the border too.
    An even window reaches one pixel further up and left. This is `rnorm` of cuda-convnet (layers-145.cfg: `cnorm2`),
    whose k is always 1; the paper does not mention it.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return map_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def local_response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, columns: int = 1
) -> Tensor:
    """`LocalResponseNorm` as a function."""
    if columns != 1 and (columns < 1 or x.shape[1] % columns):
        raise ValueError(f"columns={columns} does not divide {x.shape[1]} channels")
    constants = size, alpha, beta, k, columns
    if takes_plain_operations(size, columns):
        return banded.normalise(x, *constants)
    return derivatives.normalise(x, *constants)


def map_response_norm(x: Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """`MapResponseNorm` as a function."""
    height, width = x.shape[2:]
    with banded.own_precision(x):
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # An even window gives one position too many at the end.
        mean = F.avg_pool2d(wide * wide, size, 1, size // 2)[..., :height, :width]
        return (wide * (k + alpha * mean).pow(-beta)).to(x.dtype)


def missing_kernel(device: str = "cpu") -> Lack | None:
    """What to tell whoever computes on "cpu" or "cuda" without a fused kernel: the reason, the cost and the mend, as a
    sentence too (str); None where there is a kernel."""
    return fused.missing(device)


# torch.fx, and torchvision's feature extraction through it, records these as one step each and looks no further.
torch.fx.wrap("local_response_norm")
torch.fx.wrap("map_response_norm")
