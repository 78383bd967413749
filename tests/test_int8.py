"""Inference in 8 bits, beside torch's own simulation of it."""

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import alexnet
from alexnet.compute import Compute
from alexnet.data.sources import load_dataset
from alexnet.errors import UsageError
from alexnet.inference import evaluation
from alexnet.models import native, onednn
from alexnet.models.int8 import _Fold, _MaxPool, computes_int8, quantize
from alexnet.models.lrn import LocalResponseNorm, cpu, fused
from alexnet.models.network import AlexNet, build_model
from alexnet.models.table import Conv, Linear, Norm, Pool
from alexnet.models.variants import VARIANTS
from conftest import needs_int8
from test_tables import CIFAR18, NET145, ONE_HIDDEN, THREE_HIDDEN

pytestmark = needs_int8


def network(name="cifar", **fields):
    torch.manual_seed(0)
    small = {"width": 0.125, "num_classes": 10} if isinstance(name, str) else {}
    return build_model(name, **small | {"init": "he"} | fields).eval()


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


OWN = ("convnet-13pct", "convnet-11pct", "net150")  # they have layers that are not torch's
CASES = [(name, {}) for name in VARIANTS if name not in OWN] + [
    ("cifar", {"activation": "tanh"}),
    ("cifar", {"lrn": "off"}),
    ("cifar", {"lrn": "off", "overlap": False}),
    ("cifar", {"groups": 1, "in_channels": 1}),
    ("paper", {"lrn": "off", "input_size": 99, "in_channels": 4}),
    ("paper", {"activation": "tanh", "input_size": 101}),
    ("torchvision", {"input_size": 131}),  # its last average is more than a name
    *((table, {}) for table in (NET145, CIFAR18, THREE_HIDDEN, ONE_HIDDEN)),
    (replace(NET145, convs=tuple(replace(row, then=(*row.then, "relu")) for row in NET145.convs)), {}),
]


@pytest.mark.parametrize(("name", "fields"), CASES, ids=lambda given: getattr(given, "about", str(given)))
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
    ours = cpu.rounded(x, unit, size, 0.1, beta, 1.0)
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


GEOMETRIES = st.tuples(
    st.sampled_from([1, 2, 3]),  # groups
    st.sampled_from([4, 8, 12, 24]),  # channels in of a group
    st.sampled_from([3, 8, 24]),  # and out
    st.sampled_from([1, 3, 5]),  # kernel
    st.sampled_from([0, 1, 2]),  # padding
    st.sampled_from([1, 2]),  # stride
)


@given(GEOMETRIES, st.sampled_from([0, 7, 128, 255]), st.booleans(), st.sampled_from(["bytes", "float32"]))
@example((2, 24, 24, 3, 1, 1), 128, False, "float32")  # where oneDNN's own padding goes wrong, with AMX
@settings(max_examples=60, deadline=None, derandomize=True)
def test_products_are_exact(geometry, zero, relu, kind):
    """oneDNN's sums, and the plain ones, against torch's convolution of integers in float64."""
    groups, into, out, kernel, padding, stride = geometry
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2, groups * into, 7, 7), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (groups * out, into, kernel, kernel), dtype=torch.int8)
    scales, bias = torch.rand(groups * out) / 100 + 1e-3, torch.randn(groups * out)
    to = onednn.Grid(2.0, 100) if kind == "bytes" else torch.float32
    weights = (weight, scales, bias)
    product = onednn.Product(weights, onednn.Geometry(stride, padding, groups), onednn.Grid(0.02, zero), relu, to)
    inputs, kernels = 0.02 * (x.double() - zero), scales.view(-1, 1, 1, 1) * weight.double()
    real = torch.conv2d(inputs, kernels, bias.double(), stride, padding, 1, groups)
    real = real.relu() if relu else real
    fast = product(x)
    with patch.object(onednn, "operators", lambda: None):
        slow = product(x)
    for ours in (fast, slow):
        if kind == "bytes":
            assert ours.dtype == torch.uint8
            assert (ours.double() - (real / 2 + 100).clamp(0, 255)).abs().max() <= 0.5 + 1e-3
        else:
            torch.testing.assert_close(ours.double(), real, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("table", ["cifar", NET145, CIFAR18], ids=lambda table: getattr(table, "about", table))
def test_without_torch_s_private_names(monkeypatch, table):
    model = network(table)
    x = images(model)
    fast = quantize(model, x)
    expected = fast(x)
    monkeypatch.setattr(onednn, "OPERATORS", ("no_such_operator",))
    slow = quantize(model, x)(x)
    torch.testing.assert_close(slow, expected, rtol=1e-4, atol=2e-2 * expected.abs().max().item())
    torch.testing.assert_close(fast(x), slow)  # one that was made before
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    assert computes_int8(torch.device("cpu"))
    torch.testing.assert_close(quantize(model, x)(x), slow)


@pytest.mark.parametrize("table", ["cifar", NET145], ids=lambda table: getattr(table, "about", table))
def test_copies_and_files(table, tmp_path):
    model = network(table)
    x = images(model)
    eight = quantize(model, x)
    fresh = pickle.loads(pickle.dumps(eight))(x)  # before its weights were arranged
    expected = eight(x)
    assert torch.equal(fresh, expected)
    torch.save(eight, tmp_path / "eight.pt")
    for other in (copy.copy(eight), copy.deepcopy(eight), torch.load(tmp_path / "eight.pt", weights_only=False)):
        assert torch.equal(other(x), expected)
    code = (
        "import sys, torch;"
        "load = lambda name: torch.load(f'{sys.argv[1]}/{name}.pt', weights_only=False);"
        "assert torch.equal(load('eight')(load('x')), load('y'))"
    )
    torch.save(x, tmp_path / "x.pt")
    torch.save(expected, tmp_path / "y.pt")
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    weights = sum(m.weight.numel() for m in model if isinstance(m, nn.Conv2d | nn.Linear))
    held = sum(buffer.numel() for buffer in eight.buffers() if buffer.dtype == torch.int8)
    assert weights <= held < 1.5 * weights  # a folded kernel is padded to whole squares
    assert not any(parameter.requires_grad for parameter in eight.parameters())


def test_arrangements_are_few():
    model = network()
    eight = quantize(model, images(model))
    for count in range(1, 15):
        eight(images(model, count))
    assert {len(m._arranged) for m in eight if isinstance(m, onednn.Product)} == {1, 8}  # fully connected, convolution


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("relu3", nn.GELU()),
        ("relu3", Shifted()),
        ("conv3", nn.Conv2d(32, 48, 3, padding=2, dilation=2)),
        ("conv3", nn.Conv2d(32, 48, 3, padding=1, padding_mode="circular")),
        ("conv3", nn.Conv2d(32, 48, (3, 1), padding=(1, 0))),
        ("pool1", nn.MaxPool2d(3, 2, dilation=1, padding=1)),
        ("pool1", nn.MaxPool2d(3, (2, 2))),
        ("norm2", nn.BatchNorm2d(32)),
    ],
    ids=str,
)
def test_unknown_layers_are_refused(name, module):
    model = network()
    setattr(model, name, module)
    with pytest.raises(UsageError, match=f"does not know the layer {name}, {type(module).__name__}"):
        quantize(model.eval(), images(model))


def test_a_border_on_another_side_is_refused():
    model = build_model("paper", width=0.125, num_classes=5)
    model.pad1 = nn.ZeroPad2d(3)
    with pytest.raises(UsageError, match="does not know the layer pad1, ZeroPad2d"):
        quantize(model.eval(), torch.zeros(2, 3, 224, 224))


@pytest.mark.parametrize(
    ("name", "layer"), [("convnet-13pct", "local3, LocalConv2d"), ("net150", "fc6, GroupedLinear")]
)
def test_layers_of_our_own_are_refused(name, layer):
    model = build_model(name, width=0.125, init="he").eval()
    with pytest.raises(UsageError, match=f"does not know the layer {layer}.*: evaluate it in bf16 or fp32") as refused:
        quantize(model, torch.randn(2, 3, *[model.variant.input_size] * 2))
    assert "\n" not in str(refused.value)


def test_ceil_pooling_of_integers():
    for side in range(2, 12):
        for size, stride in [(3, 2), (2, 2), (2, 3), (1, 4), (3, 3), (3, 1)]:
            for ceil in (True, False):
                if side >= size or ceil:
                    pool = nn.MaxPool2d(size, stride, ceil_mode=ceil)
                    x = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
                    try:
                        theirs = pool(x.float())
                    except RuntimeError:
                        continue
                    assert torch.equal(_MaxPool(pool)(x).float(), theirs)


def test_the_fast_normalisation_takes_what_is_not_negative():
    def kinds(table):
        model = network(table)
        return [type(step).__name__ for step in quantize(model, images(model))]

    assert kinds("cifar").count("_RoundedNorm") == 2
    linear = replace(VARIANTS["cifar"], convs=(Conv(16, 5, then=(Norm(), "relu")), Conv(16, 3, then=("relu", Norm()))))
    assert kinds(linear).count("_RoundedNorm") == 1
    assert kinds(NET145).count("_RoundedNorm") == 0  # before its ReLU, and before the normalisation in maps


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


def test_hooks_stay_with_the_network():
    class Keep:
        def __init__(self):
            self.seen = []

        def see(self, module, inputs, output):
            self.seen.append(output)

    model, keep = network(), Keep()
    x = images(model)
    for name in ("norm1", "pool5", "flatten", "relu7"):
        model.get_submodule(name).register_forward_hook(keep.see)
    model(x)  # what is kept has gradients, and cannot be copied
    eight = quantize(model, x)
    assert len(keep.seen) == 8  # the network itself saw the images once more
    eight(x)
    assert len(keep.seen) == 8
    model(x)
    assert len(keep.seen) == 12


def test_a_replica_has_arrangements_of_its_own():
    """Its weights may be in another format."""
    model = network()
    x = images(model)
    eight = quantize(model, x)
    wanted = eight(x)
    replica = Compute(torch.device("cpu"), torch.float32).replica(eight)
    assert torch.equal(replica(x), wanted)
    products = [layer for layer in (*eight.modules(), *replica.modules()) if isinstance(layer, onednn.Product)]
    assert len({id(layer._arranged) for layer in products}) == len(products) > 8


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
    (written,) = tmp_path.glob("test-*.json")
    assert "int8" in written.name
    assert json.loads(written.read_text())["top1"] == rounded.top1
    assert rounded.count == exact.count
    assert abs(rounded.top1 - exact.top1) <= 0.02
    assert 0 < abs(rounded.loss - exact.loss) < 0.05


@needs_int8
def test_scales_come_from_training_images(finished, monkeypatch):
    seen, real = [], evaluation.typical_images
    monkeypatch.setattr(evaluation, "typical_images", lambda split, *rest: seen.append(split) or real(split, *rest))
    evaluation.evaluate(finished, "test", precision="int8")
    assert np.array_equal(seen[0].sources, load_dataset(finished.config.data).train.sources)
