"""Inference in 8 bits, beside torch's own simulation of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import alexnet
from alexnet.errors import UsageError
from alexnet.models.int8 import _Fold, computes_int8, quantize
from alexnet.models.lrn import LocalResponseNorm, fused, native
from alexnet.models.network import AlexNet, build_model
from alexnet.models.variants import VARIANTS, Conv, Linear, Pool

pytestmark = pytest.mark.skipif(not computes_int8(torch.device("cpu")), reason="the processor has no VNNI")


def network(name="cifar", **fields):
    torch.manual_seed(0)
    return build_model(name, **{"width": 0.125, "num_classes": 10, "init": "modern"} | fields).eval()


def images(model, count=3):
    v = model.variant
    torch.manual_seed(1)
    return torch.randn(count, v.in_channels, v.input_size, v.input_size)


@torch.no_grad()
def simulated(model, typical, x):
    """The network with every product's inputs and weights rounded by torch, computed in float64."""
    model, typical, x = model.double(), typical.double(), x.double()
    for module in model.children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            low, high = min(typical.min().item(), 0), max(typical.max().item(), 0)
            scale = (high - low) / 255
            x = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)
            scales = module.weight.abs().flatten(1).amax(1) / 127
            zeros = torch.zeros(len(scales), dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(
                module.weight.detach().float(), scales.float(), zeros, 0, -127, 127
            )
            typical = module(typical)
            kept = module.weight.data
            module.weight.data = weight.double()
            x = module(x)
            module.weight.data = kept
        else:
            x, typical = module(x.clone()), module(typical)
    model.float()
    return x.float()


CASES = [(name, {}) for name in VARIANTS] + [
    ("cifar", {"activation": "tanh"}),
    ("cifar", {"lrn": "off"}),
    ("cifar", {"lrn": "off", "overlap": False}),
    ("cifar", {"groups": 1, "in_channels": 1}),
    ("paper", {"lrn": "off", "input_size": 99, "in_channels": 4}),
    ("paper", {"activation": "tanh", "input_size": 101}),
    ("torchvision", {"input_size": 131}),  # its last average is more than a name
]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_is_what_torch_simulates(name, fields):
    compare(network(name, **fields))


def test_a_border_that_is_not_folded():
    """Six bytes a square are no words of four, so that the extra column and row stay zeros on their own."""
    pooled = ("relu", Pool())
    convs = (Conv(16, 5, stride=2, ceil=True, then=pooled), Conv(16, 3, padding=1), Conv(16, 3, padding=1, then=pooled))
    model = AlexNet(replace(VARIANTS["cifar"], convs=convs, hidden=(Linear(64), Linear(64))))
    assert any(isinstance(step, nn.ConstantPad2d) for step in quantize(model, images(model)))
    compare(model.eval())


def compare(model):
    typical, x = images(model, 4), images(model)
    ours, theirs = quantize(model, typical)(x), simulated(model, typical, x)
    exact = model(x)
    assert ours.dtype == torch.float32
    assert (ours - theirs).norm() < 0.02 * exact.norm()  # roundings to the other side, bf16 in the normalisation
    assert 0 < (ours - exact).norm() < 0.08 * exact.norm()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(11, 4, 0), (11, 4, 2), (7, 2, 1), (8, 4, 3), (4, 4, 0)])
@pytest.mark.parametrize("size", [21, 24, 27])
@pytest.mark.parametrize(("extra", "zero"), [(0, 0), (1, 7), (3, 200)])
def test_folding_keeps_a_strided_convolution(kernel, stride, padding, size, extra, zero):
    conv = nn.Conv2d(2, 5, kernel, stride, padding, bias=False)
    x = torch.randint(0, 256, (2, 2, size, size), dtype=torch.uint8)
    weight = torch.randint(-127, 128, conv.weight.shape).double()
    wide = torch.nn.functional.pad(x.double() - zero, (padding, padding + extra) * 2)
    folded = _Fold(conv, extra, zero)(x)
    ours = torch.conv2d(folded.double() - zero, _Fold.weight(weight, stride))
    assert torch.equal(ours, torch.conv2d(wide, weight, stride=stride))


@pytest.mark.skipif(native.library() is None, reason="no C compiler")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (3, 0.5)])
def test_normalisation_to_integers(memory, size, beta):
    x = torch.rand(2, 9, 6, 7).mul(40).bfloat16().contiguous(memory_format=memory)
    exact = LocalResponseNorm(size, 0.1, beta, 1.0)(x.double())
    unit = exact.max().item() / 300  # some lie beyond the last integer
    ours = native.rounded(x, unit, size, 0.1, beta, 1.0)
    assert ours.dtype == torch.uint8
    assert ours.stride() == x.stride()
    assert ours.max() == 255
    assert (ours.double() - (exact / unit).clamp(max=255)).abs().max() <= 0.5 + 1e-3


@pytest.mark.skipif(native.library() is None, reason="no C compiler")
def test_without_a_compiler(monkeypatch):
    model = network("paper", input_size=99)
    x = images(model)
    fast = quantize(model, x)(x)
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(fused, "DTYPES", {})
    slow = quantize(model, x)(x)
    assert 0 < (fast - slow).norm() < 0.02 * slow.norm()


def test_an_image_is_judged_alone_and_in_any_layout():
    model = network()
    x = images(model, 70)
    eight = quantize(model, x)
    together = eight(x)
    assert torch.allclose(torch.cat([eight(x[:1]), eight(x[1:])]), together, atol=1e-6)
    assert torch.equal(eight(x.contiguous(memory_format=torch.channels_last)), together)


def test_leaves_the_network_as_it_was():
    model = network(dropout=0.5).train()
    x = images(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, x)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_refusals(monkeypatch):
    model = network()
    with pytest.raises(ValueError, match=r"takes images of \[N, 3, 32, 32\], not"):
        quantize(model, images(model))(torch.zeros(1, 3, 30, 30))
    with torch.no_grad():
        model.conv3.weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(UsageError, match="what conv4 receives is not finite"):
        quantize(model, images(model))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UsageError, match="needs an x86 processor with VNNI"):
        quantize(network(), images(model))


def test_evaluation_in_8_bits(finished, call, tmp_path):
    exact = alexnet.evaluate(finished)
    code, out, _ = call("evaluate", finished.path, "--precision", "int8", "--out", tmp_path)
    rounded = alexnet.evaluate(finished, precision="int8")
    assert code == 0
    assert f"{rounded.top1:.2%}" in out
    assert (tmp_path / "test-int8.json").exists()
    assert rounded.count == exact.count
    assert abs(rounded.top1 - exact.top1) <= 0.02
    assert 0 < abs(rounded.loss - exact.loss) < 0.05
