"""What the machine could do: the rate of its arithmetic, of its memory, and the bound that follows for a network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from alexnet.compute import Compute
from alexnet.models.summary import Layer
from alexnet.speed.steps import Step, seconds

GIB = 2**30


def arithmetic(compute: Compute, count: int) -> float:
    """FLOP/s of the better of a large matrix product and the paper's third convolution on `count` images."""
    device, dtype = compute.device, compute.dtype
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    conv = nn.Conv2d(256, 384, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    x = torch.randn(count, 256, 13, 13, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return max(
            2 * side**3 / _best(lambda: a @ b, device),
            2 * count * 384 * 256 * 9 * 13 * 13 / _best(lambda: conv(x), device),
        )


def bandwidth(device: torch.device) -> float:
    """Bytes/s read and written by copying a tensor that no cache holds."""
    size = GIB if device.type == "cuda" else GIB // 4
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def _best(step: Step, device: torch.device) -> float:
    step()
    return min(seconds(step, 2, device) for _ in range(6))


def training_bound(
    layers: Sequence[Layer], count: int, arithmetic: float, bandwidth: float, left: float = 1.0
) -> float:
    """Images a second of training at the roofline, in 16-bit activations and 32-bit weights.

    Arithmetic: three products as large as the forward pass, 6 FLOP a multiply-accumulate, of which the part `left` has
    to be done. Memory: a layer reads its
    input and writes its output; backward it reads both gradients' sources and writes one; a weight, its gradient and
    its momentum are read and written once a step. The slower of the two bounds.
    """
    flops = 6 * left * sum(layer.macs for layer in layers)
    activations = 2 * sum(3 * prod(layer.in_shape) + 2 * prod(layer.out_shape) for layer in layers)
    weights = 4 * 6 * sum(layer.parameters for layer in layers)
    return 1 / max(flops / arithmetic, (activations + weights / count) / bandwidth)
