"""Local response normalisation against torch's own, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alexnet.models.lrn import LocalResponseNorm

CASES = [  # size, alpha, beta, k
    (5, 1e-4, 0.75, 2.0),
    (5, 0.5, 0.75, 1.0),
    (4, 0.5, 0.75, 2.0),
    (3, 0.3, 0.6, 1.5),
    (2, 0.3, 0.75, 1.0),
    (1, 0.3, 0.5, 1.0),
    (9, 1.0, 1.0, 2.0),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def sample(channels: int, dtype=torch.float64, layout=torch.contiguous_format) -> torch.Tensor:
    torch.manual_seed(channels)
    return (3 * torch.randn(2, channels, 3, 2, dtype=dtype)).to(memory_format=layout).requires_grad_()


def both(x: torch.Tensor, *arguments) -> tuple[torch.Tensor, ...]:
    """Output and input gradient of ours, then of torch's in float64."""
    y = LocalResponseNorm(*arguments)(x)
    upstream = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    (gradient,) = torch.autograd.grad(y, x, upstream.to(y.dtype))
    exact = x.detach().double().contiguous().requires_grad_()
    expected = nn.LocalResponseNorm(*arguments)(exact)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream)
    return y, gradient, expected.detach(), expected_gradient


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_equals_torch_in_float64(arguments, channels, layout):
    y, gradient, expected, expected_gradient = both(sample(channels, layout=layout), *arguments)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-12)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_gradcheck(arguments):
    assert torch.autograd.gradcheck(LocalResponseNorm(*arguments), sample(4), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_second_derivatives(arguments):
    assert torch.autograd.gradgradcheck(LocalResponseNorm(*arguments), sample(3), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    # Rounding of the output, of s and of its power: a few units of 2^-9 (bf16, 8 bits) and of 2^-24.
    [(torch.float32, 1e-6), (torch.bfloat16, 0.02)],
)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("arguments", CASES[:3], ids=str)
def test_lower_precision_within_its_bound(arguments, layout, dtype, bound):
    y, gradient, expected, expected_gradient = both(sample(16, dtype, layout), *arguments)
    assert y.dtype == gradient.dtype == dtype
    assert (y.double() - expected).abs().max() <= bound * expected.abs().max()
    assert (gradient.double() - expected_gradient).abs().max() <= bound * expected_gradient.abs().max()


def test_by_hand():
    """One pixel, three channels, the paper's formula with sums written out."""
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    y = LocalResponseNorm(size=3, alpha=3.0, beta=0.75, k=2.0)(x).flatten()  # alpha / n = 1
    torch.testing.assert_close(y, torch.tensor([1 / (2 + 5) ** 0.75, 2 / (2 + 14) ** 0.75, 3 / (2 + 13) ** 0.75]))


def test_input_stays_as_it_is():
    x = sample(8).detach()
    before = x.clone()
    LocalResponseNorm()(x)
    assert torch.equal(x, before)


def test_has_no_state_and_names_its_constants():
    layer = LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    assert not layer.state_dict()
    assert repr(layer) == "LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2.0)"
