"""Networks: the published tables, counts and shapes, torchvision's results, ablation fields and too-small inputs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from alexnet import build_model, list_models
from alexnet.errors import UsageError
from alexnet.models.ablations import resolve
from alexnet.models.describe import describe
from alexnet.models.summary import smallest_input, trace
from alexnet.models.variants import VARIANTS
from alexnet.models.weights import rename
from alexnet.speed.steps import as_published

PUBLISHED = [
    ("paper", {}, 60_965_224, 724_406_816),
    ("paper", {"groups": 1}, 62_378_344, 1_135_256_096),
    ("torchvision", {}, 61_100_840, 714_188_480),
    ("net145", {}, 60_965_224, 724_406_816),
    ("net145-half", {}, 59_798_312, 391_514_384),
    ("net147", {}, 60_965_224, 686_891_552),
    ("net148", {}, 60_965_224, 724_406_816),
    ("net150", {}, 60_714_408, 724_323_872),
    ("owt", {}, 61_100_840, 714_188_480),
    ("convnet-18pct", {}, 89_578, 12_298_240),
    ("convnet-19pct", {}, 89_578, 12_298_240),
    ("convnet-13pct", {}, 1_116_490, 18_517_248),
    ("convnet-11pct", {}, 2_112_970, 19_512_576),
]
PAPER_LAYERS = [
    "pad1", "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2",
    "conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5",
    "flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8",
]  # fmt: skip
SMALL = {"width": 0.125, "num_classes": 7}


def names(variant: str, **fields) -> list[str]:
    return [layer.name for layer in trace(resolve(variant, **fields))]


@pytest.fixture(scope="module")
def paper() -> nn.Module:
    torch.manual_seed(0)
    return build_model("paper")


@pytest.mark.parametrize(("name", "fields", "parameters", "macs"), PUBLISHED)
def test_published_counts(name, fields, parameters, macs):
    described = describe(name, **fields)
    assert described["parameters"] == parameters
    assert described["macs"] == macs
    assert sum(row["macs"] for row in described["layers"]) == macs


def test_paper_layers_neurons_and_shapes(paper):
    described = describe("paper")
    by_name = {row["name"]: row for row in described["layers"]}
    assert list(by_name) == PAPER_LAYERS == [name for name, _ in paper.named_children()]
    assert described["neurons"] == 659_272
    shapes = [by_name[n]["output"] for n in ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc8")]
    assert shapes == [
        [96, 55, 55], [256, 27, 27], [384, 13, 13], [384, 13, 13], [256, 13, 13], [256, 6, 6], [4096], [1000],
    ]  # fmt: skip
    counts = [by_name[n]["parameters"] for n in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")]
    assert counts == [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]


def test_paper_network_computes_the_traced_shapes(paper):
    """Real modules against the arithmetic: shapes, parameters, and FLOPs as torch counts them (two per MAC)."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
        for name, module in paper.named_children()
    ]
    with torch.inference_mode():
        paper.eval()(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    layers = trace(resolve("paper"))
    assert seen["conv1"] == (96, 55, 55)
    assert seen == {layer.name: layer.out_shape for layer in layers}
    for layer in layers:
        assert layer.parameters == sum(p.numel() for p in paper.get_submodule(layer.name).parameters()), layer.name
    # With torch's own LRN: where ours is a convolution, its products are none of the network's.
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        as_published(paper)(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * sum(layer.macs for layer in layers)


@pytest.mark.parametrize("size", [127, pytest.param(224, marks=pytest.mark.slow)])
def test_torchvision_forward_and_gradients(size):
    """Strict load of torchvision's own state dict through the converter, then the same logits and gradients."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(dropout=0.0)
    ours = build_model("torchvision", dropout=0.0, input_size=size)
    ours.load_state_dict(rename(theirs.state_dict(), Path("torchvision")), strict=True)
    x = torch.randn(2, 3, size, size)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net.train()(i) for net, i in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    for out in outputs:
        F.cross_entropy(out, torch.tensor([3, 700])).backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-8)
    expected = rename({n: p.grad for n, p in theirs.named_parameters()}, Path("torchvision"))
    assert len(expected) == 16
    for name, parameter in ours.named_parameters():
        assert expected[name].abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7, msg=name)


def test_padding_of_the_paper_is_zeros_to_the_right_and_bottom():
    """224 is 227 with three zero pixels after the edge (the original's 1 + ceil((224 - 11) / 4) modules)."""
    torch.manual_seed(0)
    # He's weights: with the paper's the biases drown the picture.
    at224, at227 = (build_model("paper", init="he", input_size=s, **SMALL).eval() for s in (224, 227))
    assert "pad1" not in names("paper", input_size=227)
    at227.load_state_dict(at224.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(at224(x), at227(F.pad(x, (0, 3, 0, 3))))
        assert not torch.allclose(at224(x), at227(F.pad(x, (3, 0, 3, 0))), rtol=1e-3)


def test_norm_relu_and_dropout_positions():
    layers = names("paper")
    assert [n for n in layers if n.startswith("norm")] == ["norm1", "norm2"]
    assert layers[-1] == "fc8"
    assert layers[layers.index("drop6") - 1] == "relu6"
    assert layers[layers.index("drop7") - 1] == "relu7"
    theirs = names("torchvision")
    assert theirs[-8:] == ["flatten", "drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"]
    assert not [n for n in theirs if n.startswith("norm")]
    assert names("bvlc") == [n for n in PAPER_LAYERS if n != "pad1"]
    assert names("caffenet")[:8] == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]
    assert [n for n in names("owt") if n.startswith("norm")] == ["norm1", "norm2"]


def test_dropout_acts_in_training_alone():
    model = build_model("paper", input_size=67, **SMALL)
    x = torch.randn(2, 3, 67, 67)
    assert model.drop6.p == model.drop7.p == 0.5
    model.eval()
    assert torch.equal(model(x), model(x))
    seen = []
    model.drop6.register_forward_hook(lambda _, before, after: seen.append((before[0], after)))
    model.train()(x)
    before, after = seen[0]
    assert ((after == 0) | torch.isclose(after, 2 * before)).all()
    assert 0.3 < (after == 0).float().mean() < 0.7


@pytest.mark.parametrize("scheme", ["text", "code", "caffe"])
def test_published_initialisation(scheme):
    """Standard deviations and biases of the sources, written out here again."""
    std = {"conv": 0.01, "fc": 0.01}
    expected = {f"conv{i}": (std["conv"], float(i in (2, 4, 5))) for i in range(1, 6)}
    expected |= {"fc6": (0.01, 1.0), "fc7": (0.01, 1.0), "fc8": (0.01, 0.0)}
    if scheme == "code":
        expected |= {n: (0.03, expected[n][1]) for n in ("conv3", "conv4", "conv5")}
    if scheme == "caffe":
        expected = {n: (s, 0.1 * b) for n, (s, b) in expected.items()}
        expected |= {"fc6": (0.005, 0.1), "fc7": (0.005, 0.1)}
    torch.manual_seed(0)
    model = build_model("paper", init=scheme, width=0.5, num_classes=100)
    for name, (deviation, bias) in expected.items():
        layer = model.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03), name
        assert abs(layer.weight.mean().item()) < 0.05 * deviation, name
        assert (layer.bias == bias).all(), name


@pytest.mark.parametrize(("init", "head"), [("he", 1.0), ("modern", 0.01)])
@pytest.mark.parametrize(("activation", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3)])
def test_he_s_normal_with_and_without_a_head_near_zero(activation, gain, init, head):
    torch.manual_seed(0)
    model = build_model("paper", init=init, width=0.5, activation=activation, num_classes=100)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            expected = (head if name == "fc8" else gain) / fan_in**0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.03), name
            assert (layer.bias == 0).all()


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("classes", [5, 1000])
def test_modern_starts_at_the_loss_of_a_guess(name, classes):
    """ln K on inputs of the network's own size, in training with dropout; with all of He's head it is far from that."""
    x, labels = torch.randn(16, 3, *[VARIANTS[name].input_size] * 2), torch.arange(16) % classes
    losses = {}
    for init in ("modern", "he"):
        torch.manual_seed(0)
        model = build_model(name, init=init, width=0.25, num_classes=classes)
        with torch.no_grad():
            losses[init] = F.cross_entropy(model(x), labels).item()
        assert list(model.children())[-1].weight.all()  # gradients reach the layers before it
    assert losses["modern"] == pytest.approx(math.log(classes), abs=0.05)
    assert losses["he"] > math.log(classes) + 0.06


def test_caffenet_starts_as_its_published_file():
    """models/bvlc_reference_caffenet/train_val.prototxt: fc6 and fc7 .005 with bias 1; everything else the paper's."""
    torch.manual_seed(0)
    own, text = (build_model("caffenet", width=0.5, num_classes=100, **f) for f in ({}, {"init": "text"}))
    for name in [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]:
        hidden, positive = name in ("fc6", "fc7"), name in ("conv2", "conv4", "conv5", "fc6", "fc7")
        assert own.get_submodule(name).weight.std().item() == pytest.approx(0.005 if hidden else 0.01, rel=0.03), name
        assert text.get_submodule(name).weight.std().item() == pytest.approx(0.01, rel=0.03), name
        assert (own.get_submodule(name).bias == float(positive)).all(), name


def test_torch_initialisation_is_the_layers_default():
    """Uniform within 1 / sqrt(fan in), biases too, as torchvision's network has it."""
    torch.manual_seed(0)
    model = build_model("torchvision", width=0.5, num_classes=100)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            for values in (layer.weight, layer.bias):
                assert 0.9 * bound < values.abs().max() <= bound, name
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name


def test_default_initialisations_and_seed():
    defaults = {name: variant.init for name, variant in VARIANTS.items()}
    assert defaults["paper"] == defaults["owt-padded"] == defaults["caffenet"] == "text"
    assert defaults["net145"] == defaults["owt"] == "code"
    assert (defaults["bvlc"], defaults["torchvision"]) == ("caffe", "torch")
    nets = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        nets.append(build_model("cifar", width=0.125).conv1.weight)
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


ABLATIONS = [
    {}, {"lrn": "off"}, {"lrn": "code"}, {"lrn": "formula"}, {"overlap": False}, {"activation": "tanh"},
    {"groups": 1}, {"groups": 2}, {"init": "text"}, {"init": "code"}, {"init": "caffe"}, {"init": "modern"},
    {"init": "he"}, {"init": "torch"}, {"in_channels": 1}, {"dropout": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
@pytest.mark.parametrize("variant", list_models())
def test_every_variant_trains_with_every_ablation(variant, fields):
    table = resolve(variant, **fields)
    size = table.input_size if table.input_size <= 64 else 67
    torch.manual_seed(0)
    model = build_model(variant, input_size=size, **SMALL, **fields)
    x = torch.randn(2, table.in_channels, size, size)
    logits = model(x)
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 6])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


def test_ablation_fields_change_what_they_name():
    built = {
        "code": build_model("cifar", width=0.125),
        "formula": build_model("cifar", width=0.125, lrn="formula"),
        "bvlc": build_model("bvlc", width=0.125),
    }
    norms = {name: (m.norm1.size, m.norm1.alpha, m.norm1.beta, m.norm1.k) for name, m in built.items()}
    assert norms["code"] == (5, 1e-4, 0.75, 2.0)
    assert norms["formula"] == (5, pytest.approx(5e-4), 0.75, 2.0)
    assert norms["bvlc"] == (5, 1e-4, 0.75, 1.0)
    assert not [n for n in names("cifar", lrn="off") if n.startswith("norm")]
    plain = build_model("cifar", width=0.125, overlap=False)
    assert (plain.pool1.kernel_size, plain.pool1.stride) == (2, 2)
    assert (built["code"].pool1.kernel_size, built["code"].pool1.stride) == (3, 2)
    tanh = build_model("cifar", width=0.125, activation="tanh")
    assert isinstance(tanh.tanh1, nn.Tanh)
    assert isinstance(tanh.tanh6, nn.Tanh)
    assert not [m for m in tanh.modules() if isinstance(m, nn.ReLU)]
    for groups in (1, 2):
        model = build_model("owt", width=0.125, groups=groups)
        assert [model.get_submodule(f"conv{i}").groups for i in range(1, 6)] == [1, groups, 1, groups, groups]


def test_width_scales_to_multiples_of_eight():
    assert [c.width for c in resolve("paper", width=0.5).convs] == [48, 128, 192, 192, 128]
    assert [row.width for row in resolve("paper", width=0.5).hidden] == [2048, 2048]
    tiny = resolve("paper", width=0.01)
    assert [c.width for c in tiny.convs] == [8] * 5
    assert all(row.width % 8 == 0 and row.width > 0 for row in tiny.hidden)


@pytest.mark.parametrize("fields", [{}, {"overlap": False}], ids=str)
@pytest.mark.parametrize("variant", list_models())
def test_smallest_input_works_and_one_less_does_not(variant, fields):
    smallest = smallest_input(resolve(variant, **fields))
    model = build_model(variant, input_size=smallest, **SMALL, **fields).eval()
    assert model(torch.zeros(1, 3, smallest, smallest)).shape == (1, 7)
    if smallest == 1:
        return
    with pytest.raises(UsageError, match=rf"{smallest - 1}x{smallest - 1} is too small.*\b{smallest}x{smallest}\b"):
        build_model(variant, input_size=smallest - 1, **SMALL, **fields)


@pytest.mark.parametrize("variant", list_models())
def test_every_larger_input_works(variant):
    table = resolve(variant)
    smallest = smallest_input(table)
    for size in range(smallest, smallest + 40):
        layers = trace(resolve(variant, input_size=size))
        assert all(min(layer.out_shape) >= 1 for layer in layers)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("papper", {}, "Did you mean 'paper'"),
        ("paper", {"drop_out": 0.1}, "'dropout'"),
        ("paper", {"lrn": "on"}, "off, code, formula"),
        ("paper", {"activation": "gelu"}, "relu, tanh"),
        ("paper", {"groups": 3}, "groups = 3"),
        ("paper", {"dropout": 1.0}, "dropout = 1.0"),
        ("paper", {"dropout": -0.1}, "dropout = -0.1"),
        ("paper", {"num_classes": 0}, "num_classes = 0"),
        ("paper", {"width": 0.0}, "width = 0.0"),
        ("paper", {"width": float("nan")}, "width = nan"),
        ("paper", {"width": float("inf")}, "width = inf"),
    ],
)
def test_unusable_names_and_values(name, fields, said):
    with pytest.raises(UsageError, match=said):
        resolve(name, **fields)


def test_owt_is_that_of_cuda_convnet2():
    """What the ports of it leave out: zeros beyond the image, LRN before the first ReLU, output biases of -7."""
    model = build_model("owt", width=0.05)
    names = [name for name, _ in model.named_children()]
    assert names[:6] == ["pad1", "conv1", "norm1", "pool1", "relu1", "conv2"]
    assert model.fc8.bias.eq(-7).all()
    assert [model.get_submodule(f"conv{n}").bias.unique().tolist() for n in range(1, 6)] == [[0], [1], [0], [1], [1]]
