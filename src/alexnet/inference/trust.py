"""Whether weights were ever trained, told from the weights alone.

Untrained weights have been published, and used, as trained ones: they load, and the network answers. But whatever the
scheme, fresh weights are drawn independently of each other (those that are fitted to images apart, see `judge`), and
training adds to them what all images of a step have in common: a few directions, much longer than chance makes any. The
largest singular value of a matrix of independent numbers is known well: it ends where Marchenko and Pastur's law (1967)
does, give or take the law of Tracy and Widom (Johnstone 2001, theorem 1.1), for normal and uniform numbers alike. So it
needs no knowledge of the scheme to see a single epoch of training; orthogonal initial weights lie inside that edge too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alexnet.models.local import LocalConv2d
from alexnet.models.network import AlexNet

EDGE = 8.0  # of the statistic `spectrum`; noise stays below 4 in 999 of 1000 matrices
_EXACT = 1024  # up to so many rows or columns all singular values are computed
_VECTORS, _ROUNDS = 16, 30  # of the iteration for larger matrices
Biases = Literal["constant", "uniform", "other"]
State = Literal["untrained", "barely trained", "trained"]


@dataclass(frozen=True)
class LayerWeights:
    """What the weights of one layer look like."""

    name: str
    std: float
    kurtosis: float
    """Excess kurtosis: 0 of normal numbers, -1.2 of uniform ones; training makes it grow."""
    spectrum: float
    """How far the largest singular value is from the edge of noise, in standard units of the Tracy-Widom law, which lie
    between -4 and 4 for independent numbers of any distribution."""
    biases: Biases
    """All equal, uniform within 1 / sqrt(fan in) (torch's default), or neither, as training makes them."""
    resembles: str | None
    """The known initial weights with this distribution and standard deviation, if any."""
    kernel: int | None = None
    """The side of a convolution's kernels; None of a fully connected layer."""

    @property
    def learned(self) -> bool:
        """Whether the weights are more than noise."""
        return self.spectrum > EDGE

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"learned": self.learned}


def inspect_weights(model: AlexNet) -> list[LayerWeights]:
    """Statistics of every layer with weights, in their order, which tell trained weights from initial ones. No random
    number of the caller's is drawn."""
    return [
        _inspect(name, module)
        for name, module in model.named_children()
        if isinstance(module, nn.Conv2d | LocalConv2d | nn.Linear)
    ]


def judge(layers: list[LayerWeights], start: Sequence[str] = ()) -> State:
    """Whether a network was trained: untrained if every layer looks as initialised; barely if only biases do not, as
    after a few steps.

    `start` is what the weights were fitted by before training (--start), which are not all drawn by chance then: a
    whitened first layer, and 3x3 convolutions that began as identities, tell nothing.
    """
    fitted = {layers[0].name} if "whiten" in start else set()
    fitted |= {layer.name for layer in layers if layer.kernel == 3} if "identity" in start else set()
    if any(layer.learned for layer in layers if layer.name not in fitted):
        return "trained"
    return "barely trained" if any(layer.biases == "other" for layer in layers) else "untrained"


@torch.inference_mode()
def _inspect(name: str, module: nn.Conv2d | LocalConv2d | nn.Linear) -> LayerWeights:
    assert module.bias is not None
    weight, bias = (tensor.detach().float().cpu() for tensor in (module.weight, module.bias))
    units = weight.transpose(1, 2).flatten(0, 1) if isinstance(module, LocalConv2d) else weight.flatten(1)
    kernel = module.kernel_size[0] if isinstance(module, nn.Conv2d) else None
    power = float(units.square().mean())
    if not power:
        return LayerWeights(name, 0.0, 0.0, 0.0, _kind(bias, units.shape[1]), "zeros", kernel)
    centred = units - units.mean()
    std = float(centred.square().mean().sqrt())
    kurtosis = float((centred / std).pow_(4).mean()) - 3 if std else 0.0
    spread = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
    fans = (units.shape[1], weight.shape[0] * spread if not isinstance(module, LocalConv2d) else weight.shape[2])
    resembles = _resembles(std, kurtosis, fans, units.numel())
    return LayerWeights(name, std, kurtosis, _excess(units, power), _kind(bias, fans[0]), resembles, kernel)


def _excess(units: Tensor, power: float) -> float:
    """The square of the largest singular value of a matrix [n, p] of numbers with this mean square, in Johnstone's
    centring and scaling."""
    n, p = sqrt(max(1, units.shape[0] - 1)), sqrt(units.shape[1])
    scale: float = (n + p) * (1 / n + 1 / p) ** (1 / 3)
    return (_largest_singular_value(units) ** 2 / power - (n + p) ** 2) / scale


def _largest_singular_value(matrix: Tensor) -> float:
    """Exact for small matrices; of large ones by subspace iteration, which may stay a little below where no direction
    stands out, and never goes above."""
    if min(matrix.shape) <= _EXACT:
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return sqrt(max(0.0, float(torch.linalg.eigvalsh(gram.double())[-1])))
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(matrix.shape[1], _VECTORS, generator=generator, dtype=matrix.dtype)
    for _ in range(_ROUNDS):
        vectors = torch.linalg.qr(matrix.T @ (matrix @ vectors)).Q
    return float(torch.linalg.matrix_norm(matrix @ vectors, 2))


def _kind(bias: Tensor, fan_in: int) -> Biases:
    values, bound = bias.flatten(), 1 / sqrt(fan_in)
    if bool((values == values[0]).all()):
        return "constant"
    # Of n uniform numbers the largest is as small as this in one of 10,000 draws; their mean square is a third, with a
    # standard deviation of .3 / sqrt(n).
    count, largest = len(values), float(values.abs().max()) / bound
    off = abs(float((values / bound).square().mean()) - 1 / 3)
    fits = 1e-4 ** (1 / count) <= largest <= 1 + 1e-6 and off < 5 * 0.3 / sqrt(count)
    return "uniform" if fits else "other"


def _resembles(std: float, kurtosis: float, fans: tuple[int, int], count: int) -> str | None:
    """The known scheme that gives `count` weights of this standard deviation and kurtosis, within chance."""
    shapes = {"normal": 0.0, "uniform": -1.2, "normal cut at two deviations": -0.633}
    shape = next((s for s, k in shapes.items() if abs(kurtosis - k) < 0.02 + 6 * sqrt(24 / count)), None)
    known = {
        "He's": sqrt(2 / fans[0]),
        "He's by fan out": sqrt(2 / fans[1]),
        "Glorot's": sqrt(2 / sum(fans)),
        "LeCun's": sqrt(1 / fans[0]),
        "torch's default": sqrt(1 / (3 * fans[0])),
        **{f"std {fixed:g}": fixed for fixed in (0.0001, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)},
    }
    within = 0.002 + 6 * sqrt((kurtosis + 2) / (4 * count)) if kurtosis > -2 else 0.0
    off, scheme = min((abs(std / value - 1), name) for name, value in known.items())
    return f"{scheme}, {shape}" if shape and off < within else None
