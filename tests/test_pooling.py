"""Pooling by the kernel in C: every bit is torch's, and torch's own operators run wherever somebody looks closely."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from alexnet.models import native, pooling
from alexnet.models.fast import use_kernels
from alexnet.models.int8 import quantize
from alexnet.models.network import build_model
from alexnet.models.pooling import AvgPool2d, MaxPool2d
from conftest import needs_int8

F32, BF16 = torch.float32, torch.bfloat16
NHWC = torch.channels_last
INF, NAN = float("inf"), float("nan")
TWINS = {MaxPool2d: nn.MaxPool2d, AvgPool2d: nn.AvgPool2d}
VALUES = {  # what images are made of
    "normal": lambda shape: torch.randn(shape),
    "after relu": lambda shape: torch.randn(shape).clamp_min(0),
    "few": lambda shape: torch.randint(-1, 2, shape).float(),
    "signs of zero": lambda shape: torch.tensor([0.0, -0.0])[torch.randint(0, 2, shape)],
    "not finite": lambda shape: torch.tensor([1.0, -INF, INF, NAN, 0.0])[torch.randint(0, 5, shape)],
    "all lowest": lambda shape: torch.full(shape, -INF),
    "tiny and huge": lambda shape: torch.randn(shape) * 10.0 ** torch.randint(-44, 39, shape),
}
pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")
both_pools = pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])
both_dtypes = pytest.mark.parametrize("dtype", [F32, BF16], ids=str)


@pytest.fixture
def launches(monkeypatch):
    """Gets what the kernel in C is launched for."""
    kinds, real = [], pooling._Window.launch

    def launch(window, kind, *rest):
        kinds.append(kind)
        real(window, kind, *rest)

    monkeypatch.setattr(pooling._Window, "launch", launch)
    return kinds


def expected_launches(pool, gradient=True):
    if pool is AvgPool2d:
        return ["average_gradient"] * gradient
    return ["max", "max_gradient"] if gradient else ["max"]


def sample(*shape, dtype=F32, values="normal"):
    return VALUES[values](shape).to(dtype).to(memory_format=NHWC)


def results(layer, x, g=None):
    """Output and input gradient."""
    x = x.detach().requires_grad_()
    y = layer(x)
    g = torch.linspace(-1, 2, y.numel()).view(y.shape).to(y) if g is None else g
    return y.detach(), *torch.autograd.grad(y, x, g)


def assert_same(ours, theirs):
    """Every bit; only what a NaN's bits are is left to the processor."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.stride() == b.stride()
        bits = torch.int16 if a.dtype == BF16 else torch.int32
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(0.0).view(bits), b.nan_to_num(0.0).view(bits))


def check(pool, x, *window, g=None, **options):
    """As torch's own."""
    assert_same(results(pool(*window, **options), x, g), results(TWINS[pool](*window, **options), x, g))
    with torch.no_grad():
        assert_same([pool(*window, **options)(x)], [TWINS[pool](*window, **options)(x)])


# Every bit


@settings(deadline=None, max_examples=200)
@given(
    pool=st.sampled_from([MaxPool2d, AvgPool2d]),
    shape=st.tuples(
        st.integers(1, 3),
        st.integers(1, 9) | st.sampled_from([16, 31, 32, 33, 48, 63, 64, 96, 100]),
        st.integers(1, 14),
        st.integers(1, 14),
    ),
    size=st.sampled_from([1, 2, 2, 3, 3, 3, 4, 5]),
    stride=st.integers(1, 4),
    ceil=st.booleans(),
    dtype=st.sampled_from([F32, BF16]),
    values=st.sampled_from([*VALUES]),
    of_gradient=st.sampled_from([*VALUES]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_equals_torch(pool, shape, size, stride, ceil, dtype, values, of_gradient, threads, seed):
    torch.manual_seed(seed)
    x = sample(*shape, dtype=dtype, values=values)
    if size > min(shape[2:]):
        return
    g = VALUES[of_gradient](TWINS[pool](size, stride, ceil_mode=ceil)(x).shape).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        check(pool, x, size, stride, ceil_mode=ceil, g=g)
    finally:
        torch.set_num_threads(before)


@both_pools
@both_dtypes
@pytest.mark.parametrize(("size", "ceil"), [(3, False), (3, True), (2, True)])
@pytest.mark.parametrize("shape", [(8, 32, 32, 32), (1, 96, 55, 55), (2, 1000, 13, 13), (3, 3, 24, 25)], ids=str)
def test_the_tables_windows(shape, size, ceil, dtype, pool, launches):
    torch.manual_seed(0)
    for values in VALUES:
        x = sample(*shape, dtype=dtype, values=values)
        launches.clear()
        results(pool(size, 2, ceil_mode=ceil), x)
        assert launches == expected_launches(pool)
        check(pool, x, size, 2, ceil_mode=ceil)


@both_pools
@both_dtypes
def test_sums_are_rounded_after_every_addition(pool, dtype):
    """1 and then four times 2^-9 in bf16: together they would change the sum, one by one they do not."""
    x = torch.zeros(1, 4, 9, 9, dtype=dtype).to(memory_format=NHWC)
    x[..., 4, 4] = 1
    g = torch.full((1, 4, 7, 7), 2**-9, dtype=dtype)
    g[..., 2, 2] = 1
    check(pool, x, 3, 1, g=g)


@both_pools
@both_dtypes
def test_threads_and_batches_change_no_bit(pool, dtype):
    torch.manual_seed(0)
    x, before = sample(5, 40, 27, 27, dtype=dtype, values="few"), torch.get_num_threads()
    layer = pool(3, 2)
    g = torch.randn(layer(x).shape).to(dtype)
    expected = results(layer, x, g)
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            assert_same(results(layer, x, g), expected)
            assert_same(results(layer, x[1:3], g[1:3]), [part[1:3] for part in expected])
    finally:
        torch.set_num_threads(before)


@both_pools
def test_gradients_of_any_layout(pool, launches):
    x = sample(2, 7, 9, 8)
    wide = torch.randn(2, 7, 4, 3, 2)
    for g in (wide[..., 0], wide[:1, :1, :1, :1, 0].expand(2, 7, 4, 3), wide[..., 1].to(memory_format=NHWC)):
        check(pool, x, 3, 2, g=g)
    assert launches


# Where the kernel is used


@both_pools
def test_without_gradients(pool, launches):
    x, layer = sample(2, 8, 7, 7), pool(3, 2)
    expected = TWINS[pool](3, 2)(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_same([layer(x)], [expected])
    assert_same([layer(x)], [expected])  # nothing here wants a gradient
    assert launches == expected_launches(pool, gradient=False) * 3
    with torch.inference_mode():
        assert_same([layer(x.clone())], [expected])


OTHERS = {
    "the default layout": lambda x: x.contiguous(),
    "one channel": lambda x: x[:, :1].contiguous(memory_format=NHWC),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "not dense": lambda x: x[:, :, ::2],
    "part of the channels": lambda x: x[:, 1:5],
    "no batch": lambda x: x[0],
}


@both_pools
@pytest.mark.parametrize("other", OTHERS)
def test_other_tensors_are_torchs(other, pool, launches):
    x = OTHERS[other](sample(2, 8, 14, 7))
    ours, theirs = (results(kind(3, 2), x) for kind in (pool, TWINS[pool]))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    assert not launches


@pytest.mark.parametrize(
    "layer",
    [
        MaxPool2d(3, 2, padding=1),
        MaxPool2d(3, 2, dilation=2),
        MaxPool2d((3, 2)),
        MaxPool2d(3, (2, 1)),
        AvgPool2d(3, 2, padding=1),
        AvgPool2d(3, 2, padding=1, count_include_pad=False),
        AvgPool2d(3, 2, divisor_override=5),
        AvgPool2d((2, 3)),
    ],
    ids=str,
)
def test_other_windows_are_torchs(layer, launches):
    x = sample(2, 8, 9, 9)
    assert_same(results(layer, x), results(TWINS[type(layer)](**settings_of(layer)), x))
    assert not launches


def settings_of(layer):
    names = ["kernel_size", "stride", "padding", "ceil_mode"]
    names += ["dilation"] if isinstance(layer, nn.MaxPool2d) else ["count_include_pad", "divisor_override"]
    return {name: getattr(layer, name) for name in names}


def test_positions_and_errors_are_torchs(launches):
    x = sample(2, 8, 9, 9)
    for a, b in zip(*(pool(3, 2, return_indices=True)(x) for pool in (MaxPool2d, nn.MaxPool2d)), strict=True):
        assert torch.equal(a, b)
    for pool in (MaxPool2d, AvgPool2d):
        with pytest.raises(RuntimeError, match="too small"):
            pool(10)(x)
    assert MaxPool2d(3, 2)(x[:0]).shape == (0, 8, 4, 4)
    assert not launches


@both_pools
def test_without_a_compiler_it_is_torchs(pool, launches, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    check(pool, sample(2, 8, 9, 9), 3, 2)
    assert not launches


@both_pools
@both_dtypes
def test_autocast_changes_nothing(pool, dtype, launches):
    with torch.autocast("cpu", BF16):
        check(pool, sample(2, 8, 9, 9, dtype=dtype), 3, 2)
    assert launches


# As a part of torch


@both_pools
def test_second_derivative(pool, launches):
    x, v = sample(2, 5, 7, 8), sample(2, 5, 7, 8)

    def second(layer):
        leaf = x.clone().requires_grad_()
        g = torch.linspace(-1, 2, 2 * 5 * 9).view(2, 5, 3, 3).requires_grad_()
        (first,) = torch.autograd.grad(layer(leaf), leaf, g, create_graph=True)
        (of_g,) = torch.autograd.grad((first.square() * v).sum(), g, create_graph=True)
        return first.detach(), of_g.detach(), *torch.autograd.grad(of_g.square().sum(), g)

    ours, theirs = second(pool(3, 2, ceil_mode=False)), second(TWINS[pool](3, 2))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert launches == expected_launches(pool)[:-1]  # forward alone
    exact = x[:1, :2, :4, :4].double().requires_grad_()
    assert torch.autograd.gradgradcheck(pool(2), exact)


@both_pools
def test_many_gradients_at_once(pool):
    x = sample(2, 5, 7, 8).requires_grad_()
    upstream = torch.randn(3, 2, 5, 3, 3)
    ours, theirs = (
        torch.autograd.grad(kind(3, 2)(x), x, upstream, is_grads_batched=True)[0] for kind in (pool, TWINS[pool])
    )
    assert torch.equal(ours, theirs)


@both_pools
def test_transformations_of_functions(pool, launches):
    x = sample(3, 5, 7, 8)
    for transform in (
        lambda layer: torch.func.grad(lambda x: layer(x).square().sum())(x),
        lambda layer: torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).square().sum()))(x),
        lambda layer: torch.func.vmap(layer)(torch.stack([x, -x])),
        lambda layer: torch.func.jvp(layer, (x,), (x.sin(),))[1],
        lambda layer: torch.func.jacrev(layer)(x[:1, :2]),
        lambda layer: torch.autograd.functional.hessian(lambda x: layer(x).pow(3).sum(), x[:1, :1, :3, :3]),
    ):
        assert torch.equal(transform(pool(3, 2)), transform(TWINS[pool](3, 2)))
    with forward_ad.dual_level():
        tangents = [
            forward_ad.unpack_dual(kind(3, 2)(forward_ad.make_dual(x, x.cos()))).tangent for kind in (pool, TWINS[pool])
        ]
        assert torch.equal(*tangents)
    assert not launches


@pytest.mark.parametrize("hooks", ["none", "saved elsewhere", "computed again"])
@both_pools
def test_saved_tensors(hooks, pool):
    layer = nn.Sequential(nn.Conv2d(3, 6, 1), pool(3, 2)).to(memory_format=NHWC)
    twin = nn.Sequential(layer[0], TWINS[pool](3, 2))
    x = sample(2, 3, 9, 9)
    gradients = []
    for network in (layer, twin):
        x = x.detach().requires_grad_()
        if hooks == "saved elsewhere":
            with torch.autograd.graph.save_on_cpu():
                y = network(x)
        else:
            y = checkpoint(network, x, use_reentrant=False) if hooks == "computed again" else network(x)
        gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_a_maximum_keeps_two_bytes_for_each_window():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        MaxPool2d(3, 2)(sample(2, 8, 9, 9).requires_grad_())
        AvgPool2d(3, 2)(sample(2, 8, 9, 9).requires_grad_())
    assert [(t.shape, t.element_size()) for t in kept] == [((2, 8, 4, 4), 2)]


class Calls(TorchFunctionMode):
    """Counts calls of torch's functions for pooling."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += "pool" in getattr(func, "__name__", "")
        return func(*args, **(kwargs or {}))


@both_pools
def test_whoever_watches_sees_torchs_operator(pool, launches):
    x, layer = sample(2, 8, 9, 9).requires_grad_(), pool(3, 2)
    with Calls() as calls:
        layer(x)
    assert calls.count
    with FlopCounterMode(display=False):
        layer(x)
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: layer(x) * 1)(x.detach())
    assert "pool2d" in traced.code
    assert "pool2d" in torch.fx.symbolic_trace(nn.Sequential(layer)).code
    assert "pool2d" in torch.export.export(layer, (x.detach(),)).graph_module.code
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), TWINS[pool](3, 2)(x))
    assert not launches


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@both_pools
def test_recorded_by_torchscript(pool, launches):
    program = torch.jit.trace(pool(3, 2), (sample(2, 8, 9, 9),), check_trace=False)
    assert "pool2d" in program.code
    assert not launches


# In a network


def test_only_what_is_exactly_torchs_is_taken():
    class Own(nn.MaxPool2d):
        pass

    inner = nn.MaxPool2d(3, 2)
    inner.register_forward_hook(lambda *_: None)
    model = nn.Sequential(inner, Own(2), nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), nn.AdaptiveAvgPool2d(1))
    said = repr(model)
    use_kernels(model)
    assert [type(m) for m in (model[0], model[1], model[2][0])] == [MaxPool2d, Own, AvgPool2d]
    assert repr(model) == said
    assert model[0] is inner
    assert inner._forward_hooks
    use_kernels(model)
    assert type(inner) is MaxPool2d


def trained(name, kernels, layout=NHWC):
    torch.manual_seed(0)
    model = build_model(name, width=0.25, init="he", dropout=0.0).to(memory_format=layout)
    if kernels:
        use_kernels(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    side = model.variant.input_size
    for _ in range(3):
        images = torch.randn(6, 3, side, side).to(memory_format=layout)
        with torch.autocast("cpu", BF16):
            loss = F.cross_entropy(model(images), torch.arange(6) % model.variant.num_classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["convnet-19pct", "convnet-13pct", "cifar"])
def test_training_gives_the_same_network(name, launches):
    ours, theirs = trained(name, True), trained(name, False)
    assert {"max", "max_gradient"} <= {*launches}
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@needs_int8
def test_copies_and_int8():
    model = trained("cifar", True).eval()
    theirs = trained("cifar", False).eval()
    images = torch.randn(4, 3, 32, 32).to(memory_format=NHWC)  # too few for other convolutions than torch's
    assert model.state_dict().keys() == theirs.state_dict().keys()
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.pool1) is MaxPool2d
        assert torch.equal(twin(images), theirs(images))
    assert torch.equal(quantize(model, images)(images), quantize(theirs, images)(images))


def test_a_network_as_it_is_built_has_torchs_modules():
    """Tools go by the exact class."""
    assert {type(m) for m in build_model("convnet-19pct") if "pool" in type(m).__name__.lower()} == {
        nn.MaxPool2d,
        nn.AvgPool2d,
    }
