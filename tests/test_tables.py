"""The grammar of tables: networks of one's own against plain torch modules, and initial weights by role."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import build_model
from alexnet.errors import UsageError
from alexnet.models.ablations import resolve
from alexnet.models.summary import smallest_input, trace
from alexnet.models.table import Conv, Dropout, Init, Linear, Norm, Pool, Start, Variant
from alexnet.models.variants import PAPER, TORCHVISION, VARIANTS

SMALL = {"width": 0.125, "num_classes": 7}
OUTPUT = Linear(5, then=(), positive_bias=False)
COLUMNS = Norm(columns=2)
MAP = Norm(alpha=1e-3, k=1.0, over="map")

# The order of the released net 145 (layers-145.cfg), two columns side by side, at a small width.
NET145 = Variant(
    "net 145",
    (
        Conv(16, 11, stride=4, ceil=True, then=(COLUMNS, Pool(), "relu")),
        Conv(32, 5, padding=2, groups=2, then=("relu", COLUMNS, MAP, Pool()), positive_bias=True),
        Conv(24, 3, padding=1),
        Conv(24, 3, padding=1, groups=2, positive_bias=True),
        Conv(16, 3, padding=1, groups=2, then=(Pool(), "relu"), positive_bias=True),
    ),
    hidden=(Linear(32), Linear(24)),
    output=OUTPUT,
    input_size=64,
    init="code",
)
# cuda-convnet's layers-18pct.cfg: four learned layers, no hidden one, pooling that runs past the edge.
CIFAR18 = Variant(
    "18 %",
    (
        Conv(8, 5, padding=2, then=(Pool(ceil=True), "relu", Norm(3, 5e-5, k=1.0)), start=Start(1e-4)),
        Conv(8, 5, padding=2, then=("relu", Pool(ceil=True, average=True), Norm(3, 5e-5, k=1.0)), start=Start(0.01)),
        Conv(16, 5, padding=2, then=("relu", Pool(ceil=True, average=True)), start=Start(0.01)),
    ),
    hidden=(),
    output=replace(OUTPUT, start=Start(0.01)),
    input_size=24,
)
THREE_HIDDEN = Variant(
    "three hidden layers",
    (Conv(8, 5, stride=2, then=(Norm(k=1.0), "relu", Pool(2))), Conv(12, 3, then=("tanh", Norm(), Norm(3), Pool()))),
    hidden=(
        Linear(16, before=(Dropout(0.25),), then=("tanh",)),
        Linear(12, then=("relu",), positive_bias=False),
        Linear(8, then=("relu", Dropout(0.0))),
    ),
    output=replace(OUTPUT, start=Start(0.01, bias=-7.0)),
    in_channels=2,
    input_size=28,
)
ONE_HIDDEN = Variant(
    "one hidden layer", (Conv(8, 3), Conv(8, 5, then=("relu", Pool()))), (Linear(16),), OUTPUT, 17, adaptive_pool=2
)


class Columnwise(nn.Module):
    """torch's own normalisation, each half of the channels on its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.local_response_norm(half, 5, 1e-4, 0.75, 2.0) for half in x.chunk(2, 1)], 1)


class Mapwise(nn.Module):
    """cuda-convnet's rnorm: 25 pixels of one map, whatever lies beyond the edge counted as zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2, count_include_pad=True)) ** -0.75


REFERENCES = {
    NET145: (
        "pad1 conv1 norm1 pool1 relu1 conv2 relu2 norm2 norm2b pool2 conv3 relu3 conv4 relu4 conv5 pool5 relu5 "
        "flatten fc6 relu6 drop6 fc7 relu7 drop7 fc8",
        [
            nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 16, 11, 4), Columnwise(), nn.MaxPool2d(3, 2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, 1, 2, groups=2), nn.ReLU(), Columnwise(), Mapwise(), nn.MaxPool2d(3, 2),
            nn.Conv2d(32, 24, 3, 1, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 1, 1, groups=2), nn.ReLU(),
            nn.Conv2d(24, 16, 3, 1, 1, groups=2), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5),
        ],
    ),
    CIFAR18: (
        "conv1 pool1 relu1 norm1 conv2 relu2 pool2 norm2 conv3 relu3 pool3 flatten fc4",
        [
            nn.Conv2d(3, 8, 5, 1, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(), nn.LocalResponseNorm(3, 5e-5),
            nn.Conv2d(8, 8, 5, 1, 2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(3, 5e-5),
            nn.Conv2d(8, 16, 5, 1, 2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(144, 5),
        ],
    ),
    THREE_HIDDEN: (
        "conv1 norm1 relu1 pool1 conv2 tanh2 norm2 norm2b pool2 flatten "
        "drop3 fc3 tanh3 fc4 relu4 fc5 relu5 drop5 fc6",
        [
            nn.Conv2d(2, 8, 5, 2), nn.LocalResponseNorm(5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3), nn.Tanh(), nn.LocalResponseNorm(5, k=2.0), nn.LocalResponseNorm(3, k=2.0),
            nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout(0.25), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12),
            nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 5),
        ],
    ),
    ONE_HIDDEN: (
        "conv1 relu1 conv2 relu2 pool2 avgpool flatten fc3 relu3 drop3 fc4",
        [
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
        ],
    ),
}  # fmt: skip
TABLES = list(REFERENCES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.about)
def test_a_table_is_the_network_that_torch_has_for_it(table):
    names, modules = REFERENCES[table]
    torch.manual_seed(0)
    model, theirs = build_model(table, init="modern").double().eval(), nn.Sequential(*modules).double().eval()
    assert [name for name, _ in model.named_children()] == names.split()
    for ours, other in zip(model.children(), theirs, strict=True):
        ours.load_state_dict(other.state_dict())
    x = 100 * torch.randn(3, table.in_channels, table.input_size, table.input_size, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(i) for net, i in zip((model, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)
    for out in outputs:
        out.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-7, atol=1e-14)
    layers = trace(table)
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in theirs.parameters())
    for layer, module in zip(layers, theirs, strict=True):
        x = module(x)
        assert tuple(x.shape[1:]) == layer.out_shape, layer.name


@pytest.mark.parametrize("scheme", get_args(Init))
@pytest.mark.parametrize("table", [*TABLES, TORCHVISION], ids=lambda table: table.about)
def test_every_table_starts_by_every_scheme(table, scheme):
    torch.manual_seed(0)
    model = build_model(table, init=scheme)
    positive = {"text": 1.0, "code": 1.0, "caffe": 0.1}.get(scheme)
    rows = (*table.convs, *table.hidden, table.output)
    layers = [module for module in model.children() if isinstance(module, nn.Conv2d | nn.Linear)]
    for row, module in zip(rows, layers, strict=True):
        if positive is not None:
            assert (module.bias == (positive if row.positive_bias else 0.0)).all()
        elif scheme == "torch":
            assert 0 < module.bias.abs().max() <= module.weight[0].numel() ** -0.5
        else:
            assert not module.bias.any()
    F.cross_entropy(model(torch.randn(2, *trace(table)[0].in_shape)), torch.tensor([0, 4])).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_standard_deviations_go_by_role():
    wide = (Linear(600), Linear(500), Linear(400))
    table = replace(NET145, convs=(Conv(64, 3), Conv(64, 5), Conv(96, 3), Conv(96, 1)), hidden=wide, input_size=16)
    for scheme, expected in {
        "text": [0.01] * 8,
        "code": [0.01, 0.01, 0.03, 0.03, 0.01, 0.01, 0.01, 0.01],
        "caffe": [0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005, 0.01],
    }.items():
        torch.manual_seed(0)
        layers = [m for m in build_model(table, init=scheme) if isinstance(m, nn.Conv2d | nn.Linear)]
        assert [layer.weight.std().item() for layer in layers] == pytest.approx(expected, rel=0.06)


def test_a_row_s_own_start_holds_until_a_scheme_is_asked_for():
    torch.manual_seed(0)
    own, asked = build_model(CIFAR18), build_model(CIFAR18, init="code")
    assert own.conv1.weight.std().item() == pytest.approx(1e-4, rel=0.1)
    assert asked.conv1.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (build_model(THREE_HIDDEN).fc6.bias == -7).all()
    assert (build_model(THREE_HIDDEN).fc5.bias == 1).all()


OLD_STARTS = {  # by name, as they were written before rows had roles
    "text": {"conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.01, 0), "conv4": (0.01, 1), "conv5": (0.01, 1),
             "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0)},
    "code": {"conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1),
             "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0)},
    "caffe": {"conv1": (0.01, 0), "conv2": (0.01, 0.1), "conv3": (0.01, 0), "conv4": (0.01, 0.1), "conv5": (0.01, 0.1),
              "fc6": (0.005, 0.1), "fc7": (0.005, 0.1), "fc8": (0.01, 0)},
}  # fmt: skip


@pytest.mark.parametrize("scheme", get_args(Init))
@pytest.mark.parametrize("name", ["paper", "owt-padded", "torchvision", "bvlc", "caffenet", "cifar", "cifar-resized"])
def test_seeds_of_old_give_the_weights_of_old(name, scheme):
    """The same numbers drawn in the same order: torch's own start of every layer first, then the scheme's."""
    torch.manual_seed(3)
    model = build_model(name, init=scheme, **SMALL)
    after = torch.rand(2)
    torch.manual_seed(3)
    expected = {}
    for layer in trace(resolve(name, **SMALL)):
        if layer.kind == "conv":
            expected[layer.name] = nn.Conv2d(
                layer.in_shape[0], layer.out_shape[0], layer.kernel, layer.stride, layer.padding, groups=layer.groups
            )
        elif layer.kind == "linear":
            expected[layer.name] = nn.Linear(*layer.in_shape, *layer.out_shape)
    for key, layer in expected.items():
        if scheme == "torch":
            layer.reset_parameters()
        elif scheme in ("he", "modern"):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if key == "fc8" else "relu")
            nn.init.zeros_(layer.bias)
            if scheme == "modern" and key == "fc8":  # new: the numbers of old, a hundredth as large
                layer.weight.data.mul_(0.01)
        else:
            std, bias = OLD_STARTS[scheme][key]
            nn.init.normal_(layer.weight, std=std)
            nn.init.constant_(layer.bias, bias)
    assert torch.equal(torch.rand(2), after)
    for key, layer in expected.items():
        assert torch.equal(model.get_submodule(key).weight, layer.weight), key
        assert torch.equal(model.get_submodule(key).bias, layer.bias), key


PAPER_END = (
    "conv3 384x13x13 885120 relu3 384x13x13 0 conv4 384x13x13 663936 relu4 384x13x13 0 conv5 256x13x13 442624 "
    "relu5 256x13x13 0 pool5 256x6x6 0 flatten 9216 0 fc6 4096 37752832 relu6 4096 0 drop6 4096 0 "
    "fc7 4096 16781312 relu7 4096 0 drop7 4096 0 fc8 1000 4097000"
)
LAYERS = {
    "paper": (
        "pad1 3x227x227 0 conv1 96x55x55 34944 relu1 96x55x55 0 norm1 96x55x55 0 pool1 96x27x27 0 "
        "conv2 256x27x27 307456 relu2 256x27x27 0 norm2 256x27x27 0 pool2 256x13x13 0 " + PAPER_END
    ),
    "bvlc": (
        "conv1 96x55x55 34944 relu1 96x55x55 0 norm1 96x55x55 0 pool1 96x27x27 0 "
        "conv2 256x27x27 307456 relu2 256x27x27 0 norm2 256x27x27 0 pool2 256x13x13 0 " + PAPER_END
    ),
    "caffenet": (
        "conv1 96x55x55 34944 relu1 96x55x55 0 pool1 96x27x27 0 norm1 96x27x27 0 "
        "conv2 256x27x27 307456 relu2 256x27x27 0 pool2 256x13x13 0 norm2 256x13x13 0 " + PAPER_END
    ),
    "owt-padded": (
        "conv1 64x55x55 23296 relu1 64x55x55 0 norm1 64x55x55 0 pool1 64x27x27 0 "
        "conv2 192x27x27 307392 relu2 192x27x27 0 norm2 192x27x27 0 pool2 192x13x13 0 conv3 384x13x13 663936 "
        "relu3 384x13x13 0 conv4 256x13x13 884992 relu4 256x13x13 0 conv5 256x13x13 590080 relu5 256x13x13 0 "
        "pool5 256x6x6 0 flatten 9216 0 fc6 4096 37752832 relu6 4096 0 drop6 4096 0 "
        "fc7 4096 16781312 relu7 4096 0 drop7 4096 0 fc8 1000 4097000"
    ),
    "owt": (
        "pad1 3x227x227 0 conv1 64x55x55 23296 norm1 64x55x55 0 pool1 64x27x27 0 relu1 64x27x27 0 "
        "conv2 192x27x27 307392 relu2 192x27x27 0 norm2 192x27x27 0 pool2 192x13x13 0 conv3 384x13x13 663936 "
        "relu3 384x13x13 0 conv4 256x13x13 884992 relu4 256x13x13 0 conv5 256x13x13 590080 pool5 256x6x6 0 "
        "relu5 256x6x6 0 flatten 9216 0 fc6 4096 37752832 relu6 4096 0 drop6 4096 0 "
        "fc7 4096 16781312 relu7 4096 0 drop7 4096 0 fc8 1000 4097000"
    ),
    "torchvision": (
        "conv1 64x55x55 23296 relu1 64x55x55 0 pool1 64x27x27 0 conv2 192x27x27 307392 relu2 192x27x27 0 "
        "pool2 192x13x13 0 conv3 384x13x13 663936 relu3 384x13x13 0 conv4 256x13x13 884992 relu4 256x13x13 0 "
        "conv5 256x13x13 590080 relu5 256x13x13 0 pool5 256x6x6 0 avgpool 256x6x6 0 flatten 9216 0 "
        "drop6 9216 0 fc6 4096 37752832 relu6 4096 0 drop7 4096 0 fc7 4096 16781312 relu7 4096 0 fc8 1000 4097000"
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_published_networks_layer_by_layer(name):
    layers = trace(VARIANTS[name])
    found = [f"{layer.name} {'x'.join(map(str, layer.out_shape))} {layer.parameters}" for layer in layers]
    assert " ".join(found) == LAYERS[name]


def test_ablations_change_tables():
    assert resolve("paper") == PAPER
    assert resolve("paper", lrn="code", overlap=True, groups=2, activation="relu", dropout=0.5, width=1.0) == PAPER
    assert resolve("owt-padded", lrn="off").convs == TORCHVISION.convs
    assert resolve("torchvision", lrn="code").convs == VARIANTS["owt-padded"].convs  # the paper's places (section 3.5)
    assert resolve("torchvision", dropout_before=False).hidden == PAPER.hidden
    assert resolve("paper", dropout_before=True).hidden == TORCHVISION.hidden
    assert resolve("bvlc", norm_after_pool=True).convs == VARIANTS["caffenet"].convs
    assert resolve("caffenet", norm_after_pool=False).convs == VARIANTS["bvlc"].convs
    assert resolve("paper", lrn_k=1.0).convs == VARIANTS["bvlc"].convs
    assert resolve("paper", activation="tanh", lrn="off").convs[0].then == ("tanh", Pool())
    assert resolve("paper", hidden=(64,)).hidden == (Linear(64),)
    assert resolve(NET145, lrn="off").convs[1].then == ("relu", Pool())
    assert resolve(NET145, lrn="formula").convs[1].then == ("relu", replace(COLUMNS, alpha=5e-4), MAP, Pool())
    assert resolve(NET145, lrn_k=1.5).convs[1].then[1:3] == (replace(COLUMNS, k=1.5), MAP)
    assert resolve(NET145, groups=1).convs[0].then[0] == Norm()
    assert resolve(NET145, groups=1).convs[1].groups == 1
    assert resolve(NET145, overlap=False).convs[0].then[1] == Pool(2)
    assert resolve(NET145, num_classes=3).num_classes == 3


@pytest.mark.parametrize("scheme", ["text", "code", "modern"])
def test_positive_biases_are_those_of_the_rows_that_ask_for_them(scheme: str):
    model = build_model("cifar", width=0.125, init=scheme, positive_bias=0.5)
    biases = {name: set(layer.bias.tolist()) for name, layer in model.named_children() if hasattr(layer, "bias")}
    expected = {name: {0.5} for name in ("conv2", "conv4", "conv5", "fc6", "fc7")}
    assert biases == {"conv1": {0.0}, "conv3": {0.0}, "fc8": {0.0}, **expected}


@pytest.mark.parametrize("name", ["net145", "caffenet"])
def test_positive_biases_of_rows_with_weights_of_their_own(name: str):
    model = build_model(name, width=0.0625, positive_bias=0.5)
    assert {set(model.get_submodule(layer).bias.tolist()) == {0.5} for layer in ("conv2", "fc6", "fc7")} == {True}
    assert set(model.fc8.bias.tolist()) == {0.0}


def test_widths_of_single_layers():
    table = resolve("convnet-11pct", widths=("local3=24", "conv1=16"))
    assert [row.width for row in table.convs] == [16, 64, 24, 32]
    assert resolve("cifar", width=0.25, widths=["fc7=40"]).hidden[1].width == 40, "after the whole width"
    assert resolve("convnet-11pct", widths=("local3=32",), lrn="off").convs == VARIANTS["convnet-13pct"].convs


@pytest.mark.parametrize(("layer", "expected"), [("conv2", 6), ("conv3", 6), ("conv5", 6)])
def test_without_a_layer_the_rest_keeps_its_size(layer: str, expected: int):
    whole, rest = resolve("paper"), resolve("paper", without=layer)
    assert len(rest.convs) == len(whole.convs) - 1
    last = [trace(table)[[layer.kind for layer in trace(table)].index("flatten")].in_shape for table in (whole, rest)]
    assert last[0][1:] == last[1][1:] == (expected, expected)
    build_model(replace(rest, input_size=224), width=0.0625)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"without": "conv1"}, "Known: conv2, conv3, conv4, conv5"),
        ({"widths": ("fc8=10",)}, "unknown layer 'fc8'"),
        ({"widths": ("conv2",)}, 'write a layer and its width as in "conv3=64"'),
        ({"widths": ("conv2=0",)}, 'write a layer and its width as in "conv3=64"'),
        ({"positive_bias": "one"}, "it takes a number or nothing"),
    ],
)
def test_layers_that_cannot_be_changed(change: dict, said: str):
    with pytest.raises(UsageError, match=re.escape(said)):
        resolve("cifar", **change)


def test_ceil_counts_the_places_of_a_padded_convolution():
    """1 + ceil((2p + size - kernel) / stride), as in the original code; torch's own shapes for ceil pooling."""
    for size in range(5, 24):
        for padding in (0, 1, 2):
            conv = Conv(8, 5, stride=3, padding=padding, ceil=True, then=())
            table = replace(ONE_HIDDEN, convs=(conv,), input_size=size, adaptive_pool=None)
            (shape,) = (layer.out_shape for layer in trace(table) if layer.name == "conv1")
            assert shape[1] == 1 + -((2 * padding + size - 5) // -3)
            if shape[1] > 1:
                for pool in (Pool(size, stride, ceil=True) for size, stride in [(3, 2), (2, 2), (2, 3), (1, 4)]):
                    pooled = replace(table, convs=(replace(conv, then=(pool,)),))
                    places = next(layer for layer in trace(pooled) if layer.name == "pool1").out_shape
                    theirs = F.max_pool2d(torch.zeros(shape), pool.size, pool.stride, ceil_mode=True)
                    assert places == tuple(theirs.shape)


def test_smallest_input_of_a_ceil_table():
    smallest = smallest_input(CIFAR18)
    model = build_model(CIFAR18, input_size=smallest)
    assert model(torch.zeros(1, 3, smallest, smallest)).shape == (1, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"convs": (Conv(9, 3, then=(COLUMNS,)),)}, "norm1: 2 columns do not divide 9 channels"),
        ({"convs": (Conv(9, 3, groups=3), Conv(8, 3, groups=3))}, "conv2: 3 groups do not divide 9 -> 8"),
        ({"hidden": (Linear(8, then=("relu", Norm())),)}, r"layer 6 of the table: Norm\(.* needs maps"),
        ({"hidden": (Linear(8, before=(Pool(),)),)}, r"layer 6 of the table: Pool\(.* needs maps"),
        ({"hidden": (Linear(8, then=("rellu",)),)}, "layer 6 of the table: 'rellu' is no relu, tanh"),
    ],
)
def test_tables_that_cannot_be_built(change, said):
    with pytest.raises(UsageError, match=said):
        build_model(replace(NET145, **change))


def test_a_layer_goes_with_its_normalisation():
    assert resolve("paper", without="conv2").convs[0].then == (*VARIANTS["paper"].convs[0].then, Pool())
