"""Layers that torch does not have, against loops over torch's own operations in float64."""

from __future__ import annotations

import pytest
import torch

from alexnet import build_model
from alexnet.config import OptimConfig
from alexnet.models.local import LocalConv2d
from alexnet.training.optim import Optimizer


def by_position(layer: LocalConv2d, x: torch.Tensor) -> torch.Tensor:
    """Every position's own product with its window, one after the other."""
    k, s, p, side = layer.kernel_size, layer.stride, layer.padding, layer.positions
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * p, x.shape[3] + 2 * p)
    padded[:, :, p : p + x.shape[2], p : p + x.shape[3]] = x
    out = x.new_empty(len(x), layer.out_channels, side, side)
    for row in range(side):
        for column in range(side):
            window = padded[:, :, row * s : row * s + k, column * s : column * s + k]
            kernel = layer.weight[row * side + column].view(k, k, layer.in_channels, layer.out_channels)
            out[:, :, row, column] = torch.einsum("ncij,ijco->no", window, kernel) + layer.bias[row * side + column]
    return out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "side", "stride", "padding"), [(3, 6, 1, 1), (3, 7, 2, 0), (5, 9, 3, 2), (1, 4, 1, 0)]
)
def test_every_position_has_weights_of_its_own(kernel, side, stride, padding, layout):
    torch.manual_seed(0)
    layer = LocalConv2d(4, 5, kernel, side, stride, padding).double()
    images = torch.randn(3, 4, side, side, dtype=torch.float64).to(memory_format=layout)
    results = []
    for forward in (layer, lambda x: by_position(layer, x)):
        layer.zero_grad()
        x = images.clone().requires_grad_()
        out = forward(x)
        out.sin().sum().backward()
        results.append((out, x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_equal_weights_everywhere_are_a_convolution():
    torch.manual_seed(0)
    layer, conv = LocalConv2d(4, 5, 3, 6, padding=1), torch.nn.Conv2d(4, 5, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.permute(2, 3, 1, 0).reshape(1, 36, 5).expand(36, -1, -1))
        layer.bias.copy_(conv.bias.expand(36, -1))
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), conv(x), rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match=r"\[N, 4, 6, 6\]"):
        layer(torch.randn(2, 4, 8, 8))


def test_rules_select_local_layers():
    optimizer = Optimizer(OptimConfig(rules=("locals.weights decay=0.004",)), build_model("convnet-13pct", width=0.125))
    decayed = [name for group in optimizer.groups if group.weight_decay == 0.004 for name in group.parameters]
    assert decayed == ["local3.weight", "local4.weight"]
