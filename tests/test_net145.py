"""The formulas of the released network, written out again in float64 from cuda-convnet's sources, against ours."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alexnet import build_model
from alexnet.config import OptimConfig
from alexnet.models.ablations import resolve
from alexnet.models.local import GroupedLinear
from alexnet.models.lrn import local_response_norm, map_response_norm
from alexnet.models.summary import trace
from alexnet.models.table import Conv, Linear, Pool
from alexnet.training.optim import Optimizer

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def cross_map_norm(a, size, scale, power, k):
    """cmrnorm (conv_util.cu, kFCNorm): scale / size a term, windows clipped at the ends of one column's channels."""
    out = np.empty_like(a)
    for f in range(a.shape[1]):
        window = a[:, max(0, f - size // 2) : min(a.shape[1], f - size // 2 + size)]
        out[:, f] = a[:, f] * (k + scale / size * (window**2).sum(1)) ** -power
    return out


def within_map_norm(a, size, scale, power):
    """rnorm (conv_util.cu): scale / size^2 a term, pixels of one map, windows clipped at the border, k = 1."""
    out = np.empty_like(a)
    for y in range(a.shape[2]):
        for x in range(a.shape[3]):
            top, left = y - size // 2, x - size // 2
            window = a[:, :, max(0, top) : top + size, max(0, left) : left + size]
            out[:, :, y, x] = a[:, :, y, x] * (1 + scale / size**2 * (window**2).sum((2, 3))) ** -power
    return out


def convolve(a, weight, bias, stride, padding):
    """1 + ceil((2p + size - k) / s) places (layer.py:1004); what lies outside counts as zero."""
    n, _, side, _ = a.shape
    k = weight.shape[2]
    places = 1 + ceil((2 * padding + side - k) / stride)
    out = np.empty((n, len(weight), places, places))
    canvas = np.zeros((n, a.shape[1], side + 2 * padding + stride, side + 2 * padding + stride))
    canvas[:, :, padding : padding + side, padding : padding + side] = a
    for y in range(places):
        for x in range(places):
            window = canvas[:, :, y * stride : y * stride + k, x * stride : x * stride + k]
            out[:, :, y, x] = np.tensordot(window, weight, ([1, 2, 3], [1, 2, 3])) + bias
    return out


def pool(a, size, stride, reduce):
    """ceil((size - z) / s) + 1 places (layer.py:1164), windows clipped at the edge; an average is that of what is
    inside (conv_util.cuh:166)."""
    places = ceil((a.shape[2] - size) / stride) + 1
    out = np.empty((*a.shape[:2], places, places))
    for y in range(places):
        for x in range(places):
            window = a[:, :, y * stride : y * stride + size, x * stride : x * stride + size]
            out[:, :, y, x] = reduce(window, (2, 3))
    return out


def relu(a):
    return np.maximum(a, 0)


@pytest.fixture
def maps():
    return 100 * torch.randn(2, 12, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("columns", [1, 2])
def test_normalisation_over_the_channels_of_a_column(maps, columns):
    parts = np.split(maps.numpy(), columns, 1)
    expected = np.concatenate([cross_map_norm(part, 5, 1e-4, 0.75, 2.0) for part in parts], 1)
    found = local_response_norm(maps, 5, 1e-4, 0.75, 2.0, columns)
    torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)


@pytest.mark.parametrize(("size", "scale"), [(5, 1e-3), (3, 5e-5)])
def test_normalisation_within_maps(maps, size, scale):
    found = map_response_norm(maps, size, scale, 0.75, 1.0)
    torch.testing.assert_close(found, torch.from_numpy(within_map_norm(maps.numpy(), size, scale, 0.75)), **EXACT)


@pytest.mark.parametrize("side", range(11, 20))
def test_convolution_runs_over_zeros_to_the_right_and_bottom(side):
    torch.manual_seed(side)
    table = resolve("net145", input_size=side, in_channels=2, num_classes=3)
    first = Conv(8, 11, stride=4, ceil=True, then=())
    model = build_model(table, hidden=(), convs=(first,)).double()
    x = torch.randn(2, 2, side, side, dtype=torch.float64)
    found = model[: [name for name, _ in model.named_children()].index("conv1") + 1](x)
    weight, bias = (p.detach().numpy() for p in model.conv1.parameters())
    torch.testing.assert_close(found, torch.from_numpy(convolve(x.numpy(), weight, bias, 4, 0)), **EXACT)


@pytest.mark.parametrize("side", [55, 32, 24, 16, 12, 13, 8, 5, 4])
@pytest.mark.parametrize("row", [Pool(3, ceil=True), Pool(3, ceil=True, average=True), Pool(2, ceil=True)], ids=str)
def test_pooling_is_cut_at_the_edge(side, row):
    conv = Conv(2, 1, then=(row,))
    model = build_model(resolve("net145", convs=(conv,), hidden=(), input_size=side, in_channels=2, num_classes=3))
    a = torch.randn(2, 2, side, side, dtype=torch.float64)
    expected = pool(a.numpy(), row.size, row.stride, np.mean if row.average else np.max)
    torch.testing.assert_close(model.pool1(a), torch.from_numpy(expected), **EXACT)
    channels_last = model.pool1(a.to(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, torch.from_numpy(expected), **EXACT)


def test_maps_of_cifar():
    sides = {
        name: [layer.out_shape[1] for layer in trace(resolve(name)) if layer.kind in ("conv", "pool", "local")]
        for name in ("convnet-18pct", "convnet-19pct", "convnet-13pct", "convnet-11pct")
    }
    assert sides["convnet-18pct"] == sides["convnet-19pct"] == [32, 16, 16, 8, 8, 4]
    assert sides["convnet-13pct"] == sides["convnet-11pct"] == [24, 12, 12, 6, 6, 6]
    apart = [x.out_shape[1] for x in trace(resolve("convnet-13pct", overlap=False)) if x.kind == "pool"]
    assert apart == [12, 6]  # equal sizes: an ablation of overlap changes nothing else
    sides = [layer.out_shape[1] for layer in trace(resolve("net147")) if layer.kind in ("conv", "pool")]
    assert sides == [55, 28, 26, 13, 13, 13, 11, 6]


def reference_forward(weights, images, column):
    """Net 145 with the two columns computed apart, as on two GPUs: conv3, fc6, fc7 and fc8 see both."""

    def own(name, c, crossing=False):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        half = len(weight) // 2
        return weight[c * half : (c + 1) * half], bias[c * half : (c + 1) * half]

    def norm(a):
        return cross_map_norm(a, 5, 1e-4, 0.75, 2.0)

    both = [pool(norm(convolve(images, *own("conv1", c), 4, 0)), 3, 2, np.max) for c in column]
    both = [relu(convolve(relu(both[c]), *own("conv2", c), 1, 2)) for c in column]
    both = [pool(within_map_norm(norm(a), 5, 1e-3, 0.75), 3, 2, np.max) for a in both]
    together = np.concatenate(both, 1)
    both = [relu(convolve(together, *own("conv3", c), 1, 1)) for c in column]
    both = [relu(convolve(both[c], *own("conv4", c), 1, 1)) for c in column]
    both = [relu(pool(convolve(both[c], *own("conv5", c), 1, 1), 3, 2, np.max)) for c in column]
    features = np.concatenate([a.reshape(len(a), -1) for a in both], 1)
    for name in ("fc6", "fc7"):
        parts = [relu(features @ weight.T + bias) for weight, bias in (own(name, c) for c in column)]
        features = np.concatenate(parts, 1)
    return features @ weights["fc8.weight"].T + weights["fc8.bias"]


def test_net145_is_two_columns():
    torch.manual_seed(0)
    model = build_model("net145", width=0.17, num_classes=5, input_size=80, init="he").double().eval()
    images = 50 * torch.randn(2, 3, 80, 80, dtype=torch.float64)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    expected = reference_forward(weights, images.numpy(), (0, 1))
    torch.testing.assert_close(model(images).detach(), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_net150_s_columns_meet_in_the_last_layer_alone():
    torch.manual_seed(0)
    model = build_model("net150", width=0.1, num_classes=5, input_size=67, init="he").eval()
    features = model[: [name for name, _ in model.named_children()].index("drop7")]
    x = torch.randn(2, 3, 67, 67, requires_grad=True)
    before = features(x).detach()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("fc8"):
                half = len(parameter) // 2
                parameter[half:].mul_(1.5)  # the second column's
    after = features(x).detach()
    half = before.shape[1] // 2
    assert torch.equal(before[:, :half], after[:, :half])
    assert not torch.allclose(before[:, half:], after[:, half:], rtol=1e-2)


def test_fully_connected_in_groups():
    torch.manual_seed(0)
    layer, conv = GroupedLinear(12, 8, 2), nn.Conv2d(12, 8, 1, groups=2)
    conv.load_state_dict({"weight": layer.weight[..., None, None], "bias": layer.bias})
    x = torch.randn(3, 12)
    torch.testing.assert_close(layer(x), conv(x[..., None, None]).flatten(1))


def test_dropout_that_scales_is_dropout_that_does_not():
    """50 steps of momentum: unscaled masks and whole weights against scaled ones and half the weights, at a quarter of
    the rate and four times the decay (weights.cu: inc <- .9 inc + eps g - wc eps w)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    rows = (Linear(12), Linear(10, start=resolve("net145").hidden[1].start))
    table = resolve("net145", convs=(Conv(4, 3),), hidden=rows, input_size=6, num_classes=4)
    model = build_model(table).double()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in ("fc3.weight", "fc4.weight"):
        weights[name] *= 2
    plain = {name: w.requires_grad_() for name, w in weights.items()}
    velocity = {name: torch.zeros_like(w) for name, w in plain.items()}
    config = OptimConfig(
        name="paper-sgd", lr=0.05, momentum=0.9, weight_decay=5e-3, decay_biases=False,
        rules=("fc3.weights rate=0.25x decay=4x", "fc4.weights rate=0.25x decay=4x"),
    )  # fmt: skip
    optimizer = Optimizer(config, model)

    def reference(x, masks):
        x = F.relu(F.conv2d(x, plain["conv1.weight"], plain["conv1.bias"])).flatten(1)
        for number, mask in zip((2, 3), masks, strict=True):
            x = F.relu(F.linear(x, plain[f"fc{number}.weight"], plain[f"fc{number}.bias"])) * mask
        return F.linear(x, plain["fc4.weight"], plain["fc4.bias"])

    for step in range(50):
        rate = 0.05 if step < 25 else 0.005
        optimizer.set_lr(rate, epoch=1)
        x, labels = draw(8, 3, 6, 6), torch.randint(0, 4, (8,), generator=generator)
        masks = [(torch.rand(8, width, generator=generator) < 0.5).double() for width in (12, 10)]
        scaled = {"drop2": 2 * masks[0], "drop3": 2 * masks[1]}
        out = x
        for name, module in model.named_children():
            out = out * scaled[name] if name in scaled else module(out)
        optimizer.zero_grad()
        F.cross_entropy(out, labels).backward()
        optimizer.step()
        loss = F.cross_entropy(reference(x, masks), labels)
        gradients = torch.autograd.grad(loss, list(plain.values()))
        with torch.no_grad():
            for (name, w), gradient in zip(plain.items(), gradients, strict=True):
                decay = 0.0 if name.endswith("bias") else 5e-3
                velocity[name].mul_(0.9).sub_(rate * (gradient + decay * w))
                w.add_(velocity[name])
    for name, parameter in model.named_parameters():
        factor = 0.5 if name in ("fc3.weight", "fc4.weight") else 1.0
        torch.testing.assert_close(parameter, factor * plain[name], **EXACT)
    x = draw(8, 3, 6, 6)
    torch.testing.assert_close(model.eval()(x), reference(x, (0.5, 0.5)), **EXACT)


def test_initial_weights_of_the_layer_file():
    torch.manual_seed(0)
    model = build_model("net145", width=0.5, num_classes=200)
    expected = {
        "conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1),
        "fc6": (0.01, 1), "fc7": (0.005, 1), "fc8": (0.005, 0),
    }  # fmt: skip
    for name, (std, bias) in expected.items():
        layer = model.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03), name
        assert (layer.bias == bias).all(), name


@pytest.mark.parametrize("number", ["18", "19", "13", "11"])
def test_initial_weights_of_the_networks_of_cifar(number):
    torch.manual_seed(0)
    model = build_model(f"convnet-{number}pct")
    layers = [module for module in model.children() if list(module.parameters())]
    local = number in ("13", "11")
    stds = [1e-4, 0.01, 0.04, 0.04, 0.01] if local else [1e-4, 0.01, 0.01, 0.01]
    for layer, std in zip(layers, stds, strict=True):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()


def test_update_over_a_change_of_rate():
    """v <- .9 v - .0005 eps w - eps g; w <- w + v (section 5; weights.cu): the velocity keeps what it was learnt at."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    optimizer = Optimizer(OptimConfig(name="paper-sgd", lr=0.1, momentum=0.9, weight_decay=5e-4), layer)
    w, v = layer.weight.detach().clone().numpy(), np.zeros((2, 3))
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.01, 0.001, 0.1]):
        gradient = np.sin(w + step)
        v = 0.9 * v - 5e-4 * rate * w - rate * gradient
        w = w + v
        optimizer.set_lr(rate, epoch=1)
        layer.weight.grad = torch.sin(layer.weight.detach() + step)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), torch.from_numpy(w), **EXACT)
