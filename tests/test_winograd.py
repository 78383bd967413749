"""Convolutions by Winograd's products: torch's results but for rounding, torch's own where somebody looks closely."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.inference.forward import answering
from alexnet.models import native, winograd
from alexnet.models.ablations import resolve
from alexnet.models.arranged import arrange
from alexnet.models.fast import use_kernels
from alexnet.models.int8 import knows_layers
from alexnet.models.network import build_model
from alexnet.models.summary import trace
from alexnet.models.winograd import Conv2d, ShortProduct, multiplications
from alexnet.training.learner import Learner

NHWC = torch.channels_last
pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")


@pytest.fixture
def products(monkeypatch):
    """Gets every product that is computed, forward and backward."""
    seen = []
    for name in ("convolve", "gradients"):
        real = getattr(ShortProduct, name)

        def spy(self, *arguments, name=name, real=real):
            seen.append((name, self))
            return real(self, *arguments)

        monkeypatch.setattr(ShortProduct, name, spy)
    return seen


def images(n, c, side, requires_grad=True):
    return torch.randn(n, c, side, side).to(memory_format=NHWC).requires_grad_(requires_grad)


def layer(*arguments, **named):
    conv = nn.Conv2d(*arguments, **named).to(memory_format=NHWC)
    use_kernels(conv)
    assert type(conv) is Conv2d
    return conv


def away(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def check(conv, x):
    """A layer and its gradients beside torch's own in float64."""
    exact = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        groups=conv.groups,
        bias=conv.bias is not None,
    ).double()
    exact.load_state_dict(conv.state_dict())
    wide = x.detach().double().requires_grad_(x.requires_grad)
    y, wanted = conv(x), exact(wide)
    assert away(y.detach(), wanted.detach()) < 5e-5
    assert y.shape == wanted.shape
    g = torch.randn(y.shape)
    y.backward(g)
    wanted.backward(g.double())
    pairs = [(x, wide), *zip(conv.parameters(), exact.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            assert away(ours.grad, theirs.grad) < 5e-5


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(2, 7),
    spare=st.integers(0, 12),
    padding=st.integers(0, 3),
    groups=st.integers(1, 3),
    ins=st.integers(32, 50),
    outs=st.integers(32, 50),
    n=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_values_and_gradients_are_torchs(kernel, spare, padding, groups, ins, outs, n, bias, seed):
    torch.manual_seed(seed)
    side = max(kernel - 2 * padding, 2) + spare
    check(
        layer(ins * groups, outs * groups, kernel, padding=padding, groups=groups, bias=bias),
        images(n, ins * groups, side),
    )


@pytest.mark.parametrize(
    ("conv", "side", "size"),
    [
        (lambda: layer(96, 256, 5, padding=2, groups=2), 15, 4),  # of cifar: conv2
        (lambda: layer(256, 384, 3, padding=1), 7, 4),  # conv3
        (lambda: layer(96, 256, 5, padding=2, groups=2), 27, 4),  # of the paper
        (lambda: layer(256, 384, 3, padding=1), 13, 5),
        (lambda: layer(128, 192, 3, padding=1), 6, 6),  # of photographs of 112 pixels
    ],
)
def test_published_shapes_take_the_fewest_multiplications(conv, side, size, products):
    torch.manual_seed(0)
    made = conv()
    check(made, images(33, made.in_channels, side))
    assert [name for name, _ in products] == ["convolve", "gradients"]
    product = products[0][1]
    assert product.size == size
    counts = {m: (-(-product.out // m) * (m + product.kernel - 1)) ** 2 for m in range(2, 10 - product.kernel)}
    assert counts[size] == min(counts.values()) < product.out**2 * product.kernel**2 / 2


def test_only_gradients_that_are_wanted():
    torch.manual_seed(0)
    conv = layer(32, 40, 3, padding=1)
    check(conv, images(32, 32, 8, requires_grad=False))  # the first layer's images have none
    conv.weight.requires_grad_(False)
    conv.zero_grad()
    x = images(32, 32, 8)
    conv(x).sum().backward()
    assert conv.weight.grad is None
    assert conv.bias.grad is not None
    assert x.grad is not None


def test_repetitions_change_nothing_and_threads_next_to_nothing():
    torch.manual_seed(0)
    conv, x = layer(48, 64, 5, padding=2), images(50, 48, 15)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (2, 2, 1):
            torch.set_num_threads(count)
            conv.zero_grad()
            x.grad = None
            y = conv(x)
            y.square().sum().backward()
            results.append((y.detach(), x.grad, conv.weight.grad))
    finally:
        torch.set_num_threads(threads)
    for first, again, alone in zip(*results, strict=True):
        assert torch.equal(first, again)
        assert away(alone, first.double()) < 1e-6  # torch's products of matrices may depend on the number of threads


@pytest.mark.parametrize("sides", [(15, 9), (9, 15)])
def test_arranged_layers_take_images_of_several_sizes(sides, products):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(48, 64, 5, padding=2), nn.ReLU()).to(memory_format=NHWC).eval()
    arranged = copy.deepcopy(model)
    arrange(arranged)
    with torch.inference_mode():
        for side in (*sides, *sides):
            x = images(40, 48, side, requires_grad=False)
            torch.testing.assert_close(arranged(x), model(x), rtol=0, atol=1e-4)
    assert len({product.size for _, product in products}) == 2


def test_a_chunk_of_images_is_as_all_of_them(monkeypatch):
    torch.manual_seed(0)
    conv, x = layer(48, 64, 3, padding=1), images(40, 48, 8)
    whole = conv(x)
    monkeypatch.setattr(winograd, "_ROWS", 8)
    torch.testing.assert_close(conv(x), whole, rtol=0, atol=1e-5)


OWN = {  # where torch's own operator does the work
    "stride": lambda: (layer(32, 32, 3, stride=2), images(40, 32, 9)),
    "dilation": lambda: (layer(32, 32, 3, dilation=2), images(40, 32, 9)),
    "reflected": lambda: (layer(32, 32, 3, padding=1, padding_mode="reflect"), images(40, 32, 9)),
    "padding by name": lambda: (layer(32, 32, 3, padding="same"), images(40, 32, 9)),
    "uneven padding": lambda: (layer(32, 32, 3, padding=(1, 0)), images(40, 32, 9)),
    "oblong kernel": lambda: (layer(32, 32, (3, 5)), images(40, 32, 9)),
    "oblong images": lambda: (layer(32, 32, 3), torch.randn(40, 32, 9, 12).to(memory_format=NHWC)),
    "one weight": lambda: (layer(32, 32, 1), images(40, 32, 9)),
    "large kernel": lambda: (layer(32, 32, 8), images(40, 32, 15)),
    "few channels": lambda: (layer(31, 32, 3), images(40, 31, 9)),
    "few in a group": lambda: (layer(64, 32, 3, groups=2), images(40, 64, 9)),
    "few images": lambda: (layer(32, 32, 3), images(2, 32, 9)),
    "default layout": lambda: (layer(32, 32, 3), torch.randn(40, 32, 9, 9)),
    "float64": lambda: (layer(32, 32, 3).double(), images(40, 32, 9).double()),
    "bf16": lambda: (layer(32, 32, 3).bfloat16(), images(40, 32, 9).bfloat16()),
    "one image without a batch": lambda: (layer(32, 32, 3), torch.randn(32, 9, 9)),
}


@pytest.mark.parametrize("case", OWN)
def test_what_is_left_to_torch(case, products):
    conv, x = OWN[case]()
    plain = copy.deepcopy(conv)
    plain.__class__ = nn.Conv2d
    assert torch.equal(conv(x), plain(x))
    assert not products


def changed(conv, weight=None, bias=None):
    """A layer with other weights than it was built for."""
    if weight is not None:
        conv.weight = nn.Parameter(weight)
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return conv


UNUSUAL = {
    "strided bias": lambda: changed(layer(32, 32, 3, padding=1), bias=torch.randn(64)[::2]),
    "larger weights": lambda: changed(layer(32, 32, 3, padding=1), weight=torch.randn(32, 32, 5, 5)),
    "computed weights": lambda: nn.utils.parametrizations.weight_norm(layer(32, 32, 3, padding=1)),
    "pruned weights": lambda: prune.random_structured(layer(32, 32, 3, padding=1), "weight", 0.5, dim=0),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_weights_are_left_to_torch(case, products):
    torch.manual_seed(0)
    conv, x = UNUSUAL[case](), images(40, 32, 8)
    wanted = F.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), wanted, rtol=0, atol=1e-5)
    assert not products


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_format_does_not_matter(dtype, products):
    torch.manual_seed(0)
    conv, x = layer(32, 40, 3, padding=1), images(40, 32, 8)
    torch.set_default_dtype(dtype)
    try:
        y = conv(x)
        y.backward(torch.ones_like(y))
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float32
    assert away(y.detach(), F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1).detach()) < 5e-5
    assert len(products) == 2


def test_products_in_less_than_float32_are_not_ours(products):
    conv, x = layer(32, 32, 3), images(40, 32, 9)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        conv(x)
    finally:
        torch.set_float32_matmul_precision(before)
    assert not products


@pytest.mark.parametrize("shape", ["expanded", "default layout"])
def test_gradients_of_any_layout(shape, products):
    torch.manual_seed(0)
    conv, x = layer(32, 40, 3, padding=1), images(40, 32, 8)
    g = torch.randn(40, 40, 1, 1).expand(40, 40, 8, 8) if shape == "expanded" else torch.randn(40, 40, 8, 8)
    y = conv(x)
    found = torch.autograd.grad(y, [x, conv.weight, conv.bias], g)
    how = [40], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True] * 3
    exact = torch.ops.aten.convolution_backward(g.double(), x.double(), conv.weight.double(), *how)
    for ours, theirs in zip(found, exact, strict=True):
        assert away(ours, theirs) < 5e-5
    assert [name for name, _ in products] == ["convolve", "gradients"]


def test_many_gradients_at_once_and_saved_ones(products):
    """torch's own does what no kernel can: batches of gradients, and images that somebody saved in another format."""
    torch.manual_seed(0)
    conv, x = layer(32, 32, 3, padding=1), images(40, 32, 8)
    y = conv(x)
    basis = torch.randn(2, *y.shape)
    (many,) = torch.autograd.grad(y, x, basis, is_grads_batched=True, retain_graph=True)
    (first,) = torch.autograd.grad(y, x, basis[0])
    torch.testing.assert_close(many[0], first, rtol=0, atol=1e-4)
    assert [name for name, _ in products] == ["convolve", "gradients"]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.contiguous().float()):
        y = conv(x)
    (again,) = torch.autograd.grad(y, x, basis[0])
    torch.testing.assert_close(again, first, rtol=0, atol=1e-5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t):
        y = conv(x)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        torch.autograd.grad(y, x, basis[0])


def test_changed_weights_are_noticed():
    conv, x = layer(32, 32, 3, padding=1), images(40, 32, 8)
    y = conv(x)
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_errors_are_torchs(products):
    conv = layer(32, 32, 3)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size can't be greater"):
        layer(32, 32, 5)(images(64, 32, 2))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 32 channels, but got 33"):
        conv(images(40, 33, 9))
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size can't be greater"):
        conv(images(40, 32, 2))
    assert not products


def test_under_autocast_it_is_torchs(products):
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(32, 32, 3)(images(40, 32, 9)).dtype == torch.bfloat16
    assert not products


def test_derivatives_of_derivatives(products):
    """What regularises gradients goes through torch's own."""
    torch.manual_seed(0)
    conv, x = layer(32, 32, 3, padding=1), images(8, 32, 8)
    plain = copy.deepcopy(conv)
    plain.__class__ = nn.Conv2d
    found = []
    for module in (conv, plain):
        module.zero_grad()
        (gradient,) = torch.autograd.grad(module(x).tanh().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        found.append(module.weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4 * found[1].abs().max().item())
    assert [name for name, _ in products] == ["convolve", "gradients"]  # these of the second pass alone


def test_what_looks_at_operators_sees_torchs(products):
    conv, x = layer(32, 32, 3, padding=1), images(40, 32, 8, requires_grad=False)
    with FlopCounterMode(display=False) as counter:
        conv(x)
    assert counter.get_total_flops() == 2 * 40 * 64 * 32 * 32 * 9
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(conv(dual)).tangent
    torch.testing.assert_close(tangent, F.conv2d(torch.ones_like(x), conv.weight, padding=1), rtol=1e-4, atol=1e-4)
    wide = conv.weight.detach(), torch.ones_like(conv.weight)
    with torch.no_grad(), forward_ad.dual_level():
        y = torch.func.functional_call(conv, {"weight": forward_ad.make_dual(*wide)}, (x,))
        tangent = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(tangent, F.conv2d(x, wide[1], padding=1), rtol=1e-4, atol=1e-3)
    torch.func.vmap(conv)(torch.randn(2, 40, 32, 8, 8))
    assert "conv2d" in torch.export.export(conv, (x,)).graph_module.code
    assert torch.fx.symbolic_trace(nn.Sequential(conv)).graph.nodes
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    torch.jit.trace(conv, x)
    # Only the check of what jit.trace has recorded calls it plainly.
    assert [name for name, _ in products] == ["convolve"]


def test_gradients_may_be_recomputed(products):
    torch.manual_seed(0)
    conv, x = layer(32, 32, 3, padding=1), images(40, 32, 8)
    checkpoint(conv, x, use_reentrant=False).square().sum().backward()
    first, x.grad = x.grad, None
    conv(x).square().sum().backward()
    assert torch.equal(x.grad, first)
    assert [name for name, _ in products] == ["convolve", "convolve", "gradients", "convolve", "gradients"]


def test_networks_train_and_answer_with_it(products):
    """Three steps of a network, and its answers afterwards, are what torch's own convolutions give."""
    networks = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = build_model("cifar", width=0.75, init="modern", dropout=0.0).to(memory_format=NHWC)
        if ours:
            use_kernels(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
        for _ in range(3):
            loss = F.cross_entropy(model(images(16, 3, 32, requires_grad=False)), torch.arange(16) % 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        networks.append(model)
    assert {name for name, _ in products} == {"convolve", "gradients"}
    assert {product.kernel for _, product in products} == {3, 5}
    for (key, a), b in zip(networks[0].state_dict().items(), networks[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=key)
    products.clear()
    compute, x = resolve_compute("cpu", "fp32"), images(24, 3, 32, requires_grad=False)
    ask = answering(networks[0].eval(), compute)
    with torch.inference_mode():
        torch.testing.assert_close(ask(x), networks[1].eval()(x), rtol=1e-4, atol=1e-4)
        few = len(products)
        assert few == 4  # conv2 to conv5
        ask(x[:1])
    assert len(products) == few  # one image goes through arranged weights


FP32, BF16 = (resolve_compute("cpu", precision) for precision in ("fp32", "bf16"))


def test_counted_multiplications_are_those_of_the_products():
    layers = {row.name: row for row in trace(resolve("cifar"))}

    def left(name, count=128, compute=FP32):
        return multiplications([layers[name]], count, compute)

    assert left("conv1") == left("fc6") == 1  # few channels; no convolution
    assert left("conv2") == (4 * 8 / (15 * 5)) ** 2
    assert left("conv3") == (2 * 6 / (7 * 3)) ** 2
    assert left("conv3", 7) == left("conv3", 128, BF16) == 1  # too few tiles, 28; another format
    assert left("conv3", 8) < 1
    assert 0.3 < multiplications(layers.values(), 128, FP32) < 0.5


def test_learner_and_twins_have_it():
    """Also a network for 8 bits and a copy know the modules."""
    model = build_model("cifar", width=0.75).to(memory_format=NHWC)
    use_kernels(model)
    assert knows_layers(model)
    x = images(16, 3, 32, requires_grad=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.conv2) is Conv2d
        assert torch.equal(twin.eval()(x), model.eval()(x))
    config = override(TrainConfig(), {"model.variant": "cifar", "model.width": 0.75})
    learner = Learner(config, build_model(config.model.variant, width=0.75), 10, FP32, World())
    assert [type(m) for m in learner.model if isinstance(m, nn.Conv2d)] == [Conv2d] * 5
