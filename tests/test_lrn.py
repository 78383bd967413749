"""Local response normalisation: every form of it against torch's own in float64, and which form is used when."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel

from alexnet.models import native, tracing
from alexnet.models.lrn import (
    LocalResponseNorm,
    MapResponseNorm,
    banded,
    cpu,
    derivatives,
    fused,
    local_response_norm,
    missing_kernel,
)

CASES = [  # size, alpha, beta, k, columns
    (5, 1e-4, 0.75, 2.0),
    (5, 0.5, 0.75, 1.0),
    (1, 0.3, 0.5, 1.0),
    (2, 0.3, 0.75, 1.0),
    (3, 0.3, 0.6, 1.5),
    (4, 0.5, 0.75, 2.0),
    (6, 0.7, 1.0, 1.0),
    (7, 0.2, 0.5, 2.0),
    (8, 0.9, 0.75, 1.0),
    (9, 1.0, 1.0, 2.0),
    (3, 0.6, 0.75, 1.0, 7),
]
STRONG = CASES[1]  # the paper's window, far from the identity
SHAPES = [
    (2, 1, 3, 2),
    (2, 2, 3, 2),
    (2, 3, 3, 2),
    (2, 16, 5, 5),
    (3, 96, 1, 1),
    (1, 257, 7, 7),
    (1, 96, 55, 55),  # the first layer: 18 whole tiles of the kernel in C, and a part of one
    (1, 1, 130, 130),  # one channel: the widest tiles
    (1, 1100, 5, 5),  # so many that tiles are narrowest
]
WIDE, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# Relative errors. Of each element: half a unit in the last of 8 or 11 bits. Of the largest, or of the largest of the
# two terms that a gradient is the difference of: of sums and powers.
ROUNDING = {WIDE: 0, F32: 0, BF16: 2**-8, F16: 2**-11}
ARITHMETIC = {WIDE: 1e-13, F32: 1e-6, BF16: 1e-6, F16: 1e-6}

QUICKLY = ["-O0", *native.FLAGS[1:]]  # to be compiled soon

in_c = pytest.mark.skipif(native.library() is None, reason="no C compiler")
both_layouts = pytest.mark.parametrize("layout", [NCHW, NHWC], ids=["nchw", "nhwc"])


def forms(*dtypes):
    """With every form that there is on a CPU for these dtypes."""
    pairs = [pytest.param("native", dtype, marks=in_c) for dtype in dtypes if dtype in (F32, BF16)]
    return pytest.mark.parametrize(
        ("form", "dtype"), pairs + [("banded", dtype) for dtype in dtypes], indirect=["form"]
    )


@pytest.fixture
def form(request, monkeypatch):
    """The form in use: "native", the kernel in C, or "banded", torch's own operations."""
    if request.param == "banded":
        monkeypatch.setattr(fused, "DTYPES", {})
    return request.param


@pytest.fixture
def launches(monkeypatch):
    """Gets "forward" or "backward" whenever the kernel in C is launched."""
    names, real = [], cpu.launch

    def launch(x, g, *rest):
        names.append("forward" if g is None else "backward")
        real(x, g, *rest)

    monkeypatch.setattr(cpu, "launch", launch)
    return names


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache for compiled kernels, looked at anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._found.cache_clear()
    monkeypatch.setattr(fused, "_missing", {})
    yield tmp_path / "cache" / "alexnet"
    native._found.cache_clear()


def sample(*shape, dtype=WIDE, layout=NCHW, scale=3.0):
    generator = torch.Generator().manual_seed(sum(shape))
    x = scale * torch.randn(shape, dtype=WIDE, generator=generator)
    return x.to(dtype).to(memory_format=layout).requires_grad_()


def torchs(x, size, alpha, beta, k, columns=1):
    """Torch's own, a column at a time."""
    return torch.cat([nn.LocalResponseNorm(size, alpha, beta, k)(column) for column in x.chunk(columns, 1)], 1)


def reference(x, g, constants):
    """Output and input gradient of torch's own in float64."""
    exact = x.detach().double().requires_grad_()
    y = torchs(exact, *constants)
    return y.detach(), *torch.autograd.grad(y, exact, g.double())


def close(result, exact, rounding=None, arithmetic=None, term=0.0):
    rounding = ROUNDING[result.dtype] if rounding is None else rounding
    arithmetic = ARITHMETIC[result.dtype] if arithmetic is None else arithmetic
    smallest = 2**-25 if result.dtype == F16 else 0  # half the distance of subnormal numbers
    error = (result.detach().cpu().double() - exact).abs() - rounding * exact.abs() - smallest
    largest = max(exact.abs().max(), term)
    assert (error <= arithmetic * largest).all(), f"{error.max() / largest:.2g}"


def check(x, constants=STRONG):
    """Output and input gradient of ours within their bounds; returns the output."""
    y = LocalResponseNorm(*constants)(x)
    g = torch.linspace(-1, 2, y.numel()).view(y.shape).to(y)
    (gradient,) = torch.autograd.grad(y, x, g)
    assert y.dtype == gradient.dtype == x.dtype
    assert y.shape == gradient.shape == x.shape
    exact_y, exact_gradient = reference(x.cpu(), g.cpu(), constants)
    close(y, exact_y)
    close(gradient, exact_gradient, term=(g * y / x).abs().max().item())
    return y


# Values and gradients


@both_layouts
@forms(WIDE, F32, BF16, F16)
@pytest.mark.parametrize("constants", CASES, ids=str)
def test_equals_torch_for_every_window_and_power(constants, form, dtype, layout):
    check(sample(2, 7, 3, 5, dtype=dtype, layout=layout), constants)


@both_layouts
@forms(WIDE, F32, BF16, F16)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch_for_every_shape(shape, form, dtype, layout):
    x = sample(*shape, dtype=dtype, layout=layout)
    assert check(x).is_contiguous(memory_format=layout)


@in_c
@settings(deadline=None, max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    size=st.integers(1, 9),
    alpha=st.floats(1e-5, 2),
    beta=st.just(0.75) | st.floats(0.25, 1.5),
    k=st.floats(0.5, 3),
    scale=st.sampled_from([1e-3, 1, 30]),
    dtype=st.sampled_from([F32, BF16]),
    layout=st.sampled_from([NCHW, NHWC]),
)
def test_the_kernel_in_c_equals_torch(shape, size, alpha, beta, k, scale, dtype, layout):
    check(sample(*shape, dtype=dtype, layout=layout, scale=scale), (size, alpha, beta, k))


@forms(F32, BF16, F16)
def test_squares_beyond_float16(form, dtype):
    x = sample(2, 16, 5, 5, dtype=dtype, scale=300)
    assert x.abs().max() > 256  # its square is beyond 65504
    check(x)


@forms(F32, BF16)
def test_ties_round_to_even(form, dtype):
    """1.5 x, exact: with an odd number of 8 bits before it, half of the results lie between two of bf16."""
    x = torch.cat([torch.arange(128, 256), -torch.arange(128, 256)]).view(1, 8, 4, 8).to(dtype).requires_grad_()
    y = LocalResponseNorm(alpha=0.0, beta=1.0, k=2 / 3)(x)
    assert torch.equal(y, (1.5 * x.float()).to(dtype))
    assert torch.equal(torch.autograd.grad(y, x, x)[0], y)


@forms(F32)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e25], ids=str)
def test_what_is_not_finite(value, form, dtype):
    """As in torch; a convolution spreads it over the channels of its own pixel, to no other pixel."""
    x = torch.linspace(-1, 1, 24).view(1, 12, 1, 2)
    x[0, 5, 0, 0] = value
    results = []
    for layer in (LocalResponseNorm(*STRONG), nn.LocalResponseNorm(*STRONG)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    for ours, torchs in zip(*results, strict=True):
        if form == "banded":
            assert ours[torchs.isnan()].isnan().all()
            ours, torchs = ours[..., 1], torchs[..., 1]
        torch.testing.assert_close(ours, torchs, equal_nan=True)


@in_c
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 4, 4)], ids=str)
def test_nothing(shape):
    nothing_from(torch.empty(shape, requires_grad=True))


def test_no_images_in_float64():
    nothing_from(torch.empty(0, 3, 4, 4, dtype=WIDE, requires_grad=True))


def nothing_from(x):
    y = LocalResponseNorm()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.shape == gradient.shape == x.shape


def test_by_hand():
    """One pixel, three channels, the paper's formula with sums written out."""
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    y = LocalResponseNorm(size=3, alpha=3.0, beta=0.75, k=2.0)(x).flatten()  # alpha / n = 1
    torch.testing.assert_close(y, torch.tensor([1 / (2 + 5) ** 0.75, 2 / (2 + 14) ** 0.75, 3 / (2 + 13) ** 0.75]))


@pytest.mark.parametrize("constants", CASES, ids=str)
def test_derivatives_by_differences(constants):
    layer, channels = LocalResponseNorm(*constants), 7 if len(constants) == 5 else 3
    assert torch.autograd.gradcheck(layer, sample(2, channels, 3, 2), eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(layer, sample(1, channels, 2, 2), atol=1e-6)


@both_layouts
@forms(F32, BF16, WIDE)
@pytest.mark.parametrize("constants", CASES, ids=str)
def test_second_derivative(constants, form, dtype, layout):
    x, upstream, direction = (sample(2, 7, 3, n, dtype=dtype, layout=layout)[..., :5] for n in (5, 6, 7))

    def second(layer, dtype):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, upstream)]
        (first,) = torch.autograd.grad(layer(leaves[0], *constants), *leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, direction.to(dtype))

    ours = second(local_response_norm, dtype)
    for result, exact in zip(ours, second(torchs, WIDE), strict=True):
        close(result, exact, arithmetic={WIDE: 1e-12, F32: 2e-6, BF16: 0.02}[dtype])


# Columns, and windows within a map


def by_hand(x, size, alpha, beta, k, columns):
    """One channel at a time, in float64."""
    x, y = x.detach().double(), torch.empty(x.shape, dtype=WIDE)
    width = x.shape[1] // columns
    for channel in range(x.shape[1]):
        first = channel // width * width
        window = range(max(first, channel - size // 2), min(first + width, channel + (size - 1) // 2 + 1))
        y[:, channel] = x[:, channel] * (k + alpha / size * sum(x[:, j] ** 2 for j in window)) ** -beta
    return y


@both_layouts
@forms(WIDE, F32, BF16)
@pytest.mark.parametrize(("size", "columns"), [(5, 1), (5, 2), (4, 2), (3, 3), (5, 6), (9, 2), (5, 12)])
def test_windows_stay_in_their_column(size, columns, form, dtype, layout):
    constants = (size, 0.5, 0.75, 1.0, columns)
    x = sample(3, 12, 3, 5, dtype=dtype, layout=layout)
    close(check(x, constants), by_hand(x, *constants))


def test_the_two_columns_of_the_original_code_differ_at_their_border():
    x = sample(2, 96, 3, 3, dtype=F32).detach()
    one, two = (LocalResponseNorm(5, 0.5, 0.75, 1.0, columns=columns)(x) for columns in (1, 2))
    assert ((one - two).abs().amax((0, 2, 3)) > 0).nonzero().flatten().tolist() == [46, 47, 48, 49]


@pytest.mark.parametrize("columns", [0, -1, 2, 3])
def test_columns_that_do_not_divide_the_channels(columns):
    with pytest.raises(ValueError, match=f"columns={columns} does not divide 7 channels"):
        LocalResponseNorm(columns=columns)(torch.ones(1, 7, 2, 2))


def by_hand_within_maps(x, size, alpha, beta, k):
    x, y = x.detach().double(), torch.empty(x.shape, dtype=WIDE)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            top, left = max(0, row - size // 2), max(0, column - size // 2)
            window = x[:, :, top : row - size // 2 + size, left : column - size // 2 + size]
            scale = k + alpha / size**2 * window.square().sum((2, 3))
            y[:, :, row, column] = x[:, :, row, column] * scale**-beta
    return y


@both_layouts
@pytest.mark.parametrize("dtype", [WIDE, F32, BF16, F16], ids=str)
@pytest.mark.parametrize(
    "constants", [(5, 1e-3, 0.75, 1.0), (5, 2.0, 0.75, 1.0), (4, 0.7, 0.5, 2.0), (1, 3.0, 1.0, 2.0)]
)
def test_within_a_map(constants, dtype, layout):
    x = sample(2, 3, 7, 6, dtype=dtype, layout=layout)
    with torch.autocast("cpu", BF16):
        y = MapResponseNorm(*constants)(x)
    assert y.dtype == dtype
    close(y, by_hand_within_maps(x, *constants))


def test_within_a_map_squares_beyond_float16_and_derivatives():
    x = sample(1, 2, 6, 6, dtype=F16, scale=300)
    assert x.abs().max() > 256
    close(MapResponseNorm(5, 0.5)(x), by_hand_within_maps(x, 5, 0.5, 0.75, 1.0))
    assert torch.autograd.gradcheck(MapResponseNorm(4, 0.5), sample(1, 2, 4, 3), atol=1e-6)


def test_within_a_map_names_its_constants():
    assert repr(MapResponseNorm()) == "MapResponseNorm(5, alpha=0.001, beta=0.75, k=1.0)"
    assert repr(LocalResponseNorm(columns=2)).endswith("k=2.0, columns=2)")


# Transformations of functions


def weighed(y):
    return (y * (torch.arange(y.numel()) % 7 - 3).view(y.shape)).sum()


def loss(x):
    return weighed(local_response_norm(x, *STRONG))


def exact_loss(x):
    return weighed(torchs(x, *STRONG))


@both_layouts
@forms(WIDE, F32, BF16)
def test_gradients_of_each_sample(form, dtype, layout, launches):
    x = torch.stack([sample(2, 7, 3, n, dtype=dtype, layout=layout).detach()[..., :5] for n in (5, 6, 7)])
    launches.clear()
    together = torch.func.vmap(torch.func.grad(loss))(x)
    assert launches == (["forward", "backward"] if form == "native" else [])  # and not one sample after the other
    for one, gradient in zip(x, together, strict=True):
        exact = torch.func.grad(exact_loss)(one.double())
        close(gradient, exact, term=6)
    aside = torch.func.vmap(torch.func.grad(loss), in_dims=2, out_dims=1)(x.movedim(0, 2))
    torch.testing.assert_close(aside.movedim(1, 0), together)


@forms(WIDE, F32)
def test_jacobians_and_second_derivatives_of_functions(form, dtype):
    x, v = sample(1, 5, 2, 1, dtype=dtype).detach(), sample(1, 5, 2, 2, dtype=dtype).detach()[..., :1]
    accuracy = 1e-12 if dtype == WIDE else 1e-5
    ours = torch.func.jacrev(lambda x: local_response_norm(x, *STRONG))(x)
    exact = torch.autograd.functional.jacobian(lambda x: torchs(x, *STRONG), x.double())
    close(ours, exact, arithmetic=accuracy)
    hessian = torch.func.jacrev(torch.func.grad(loss))(x)
    close(hessian, torch.autograd.functional.hessian(exact_loss, x.double()), arithmetic=accuracy)
    _, pull = torch.func.vjp(lambda x: local_response_norm(x, *STRONG), x)
    close(pull(v)[0], reference(x, v, STRONG)[1], arithmetic=accuracy, term=6)
    third = torch.func.grad(lambda x: (torch.func.grad(lambda x: (torch.func.grad(loss)(x) * v).sum())(x) * v).sum())
    leaf = x.double().requires_grad_()
    (first,) = torch.autograd.grad(exact_loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * v.double()).sum(), leaf, create_graph=True)
    close(third(x), torch.autograd.grad((second * v.double()).sum(), leaf)[0], arithmetic=accuracy)


@forms(WIDE, F32)
def test_many_gradients_at_once(form, dtype):
    x = sample(2, 7, 3, 5, dtype=dtype)
    upstream = torch.stack([sample(2, 7, 3, n, dtype=dtype).detach()[..., :5] for n in (5, 6)])
    (together,) = torch.autograd.grad(local_response_norm(x, *STRONG), x, upstream, is_grads_batched=True)
    for g, gradient in zip(upstream, together, strict=True):
        close(gradient, reference(x, g, STRONG)[1], term=9)


# The kernels for a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@both_layouts
@pytest.mark.parametrize("dtype", [F32, BF16, F16, WIDE], ids=str)
def test_on_a_gpu(dtype, layout):
    for shape, constants in [*((s, STRONG) for s in SHAPES), *(((2, 7, 3, 5), c) for c in CASES)]:
        check(sample(*shape, dtype=dtype, layout=layout).detach().cuda().requires_grad_(), constants)


NEW_PROCESS = """
import sys, torch
from alexnet.models.lrn import LocalResponseNorm
LocalResponseNorm()(torch.ones(1, 8, 3, 3, requires_grad=True)).sum().backward()
compiler = "torch._dynamo" in sys.modules
results = []
for x, g, constants in torch.load(sys.argv[1]):
    from alexnet.models.lrn.gpu import Geometry, launch
    seen = Geometry.of(x, *constants[4:] or [1])
    results.append((torch.empty_like(x), torch.empty_like(x)))
    launch(x, None, results[-1][0], seen, *constants[:4])
    launch(x, g, results[-1][1], seen, *constants[:4])
torch.save((compiler, results), sys.argv[1])
"""


@pytest.fixture(scope="module")
def new_process(tmp_path_factory):
    """What a process says of its first call; inputs of the kernels for a GPU, and results in Triton's interpreter."""
    kinds = [((2, 7, 5, 3), F32, constants) for constants in CASES]  # one in every other layout
    kinds += [((2, 7, 11, 9), dtype, STRONG) for dtype in (F32, F32, BF16, BF16, F16, F16)]  # more than a block
    kinds += [((2, 12, 5, 3), F32, (*STRONG, columns)) for columns in (2, 2, 3, 3)]
    kinds += [((1, 257, 3, 3), F32, STRONG), ((3, 96, 1, 1), F32, STRONG), ((2, 1, 3, 2), F32, CASES[-2])]
    cases = [
        (*(sample(*shape, dtype=dtype, layout=(NCHW, NHWC)[i % 2], scale=s).detach() for s in (3, -1)), constants)
        for i, (shape, dtype, constants) in enumerate(kinds)
    ]
    cases = cases if find_spec("triton") else []
    file = tmp_path_factory.mktemp("process") / "tensors"
    torch.save(cases, file)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", NEW_PROCESS, str(file)], check=True, timeout=120, env=environment)
    compiler, results = torch.load(file)
    return compiler, list(zip(cases, results, strict=True))


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
def test_the_kernels_for_a_gpu_in_tritons_interpreter(new_process):
    for case, results in new_process[1]:
        rounding = 2**-7 if case[0].dtype == BF16 else None  # the interpreter cuts bf16 off rather than rounds
        for result, exact in zip(results, reference(*case), strict=True):
            close(result, exact, rounding)


# Which form


@in_c
@both_layouts
@pytest.mark.parametrize(("dtype", "by"), [(F32, "native"), (BF16, "native"), (WIDE, "banded"), (F16, "banded")])
def test_which_form_is_used(dtype, by, layout, launches):
    check(sample(2, 7, 3, 5, dtype=dtype, layout=layout))
    assert launches == (["forward", "backward"] if by == "native" else [])


@in_c
def test_compiled_once_into_the_users_cache(cache, monkeypatch):
    commands, run = [], subprocess.run
    monkeypatch.setattr(native.subprocess, "run", lambda command, **o: commands.append(command) or run(command, **o))
    monkeypatch.setattr(native, "FLAGS", QUICKLY)
    assert native.library()
    native._found.cache_clear()
    assert native.library()
    assert len(commands) == 1
    assert [native.library()._name] == [str(file) for file in cache.iterdir()]
    check(sample(2, 7, 3, 5, dtype=F32))


def test_threads_on_a_mac_are_those_of_torchs_own_runtime(monkeypatch, tmp_path):
    monkeypatch.setattr(native.sys, "platform", "darwin")
    monkeypatch.setattr(native.torch, "__file__", str(tmp_path / "__init__.py"))
    assert native._extras() == [["-march=native"], ["-march=native"], [], []]
    (tmp_path / "lib").mkdir()
    runtime = tmp_path / "lib" / "libomp.dylib"
    runtime.touch()
    assert native._openmp() == ["-Xpreprocessor", "-fopenmp", str(runtime), f"-Wl,-rpath,{runtime.parent}"]


def test_windows_has_no_kernels(cache, monkeypatch):
    monkeypatch.setattr(native.os, "name", "nt")
    assert native.library() is None
    assert "WSL" in str(native.missing())


@pytest.fixture
def copied(monkeypatch):
    """In place of the compiler: its work of earlier, copied. Gets every command."""
    commands, made = [], native.library()._name
    monkeypatch.setattr(
        native.subprocess, "run", lambda c, **_: commands.append(c) or shutil.copy(made, c[c.index("-o") + 1])
    )
    return commands


@in_c
def test_another_processor_compiler_or_home_has_its_own(copied, cache, monkeypatch, tmp_path):
    assert native.library()
    for name, value in (
        ("_processor", lambda: "another"),
        ("FLAGS", [*native.FLAGS, "-g"]),
        ("_compiler", lambda: ["another"]),
    ):
        monkeypatch.setattr(native, name, value)
        native._found.cache_clear()
        assert native.library()
    assert len(copied) == len(list(cache.iterdir())) == 4
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    native._found.cache_clear()
    assert Path(native.library()._name).parent == tmp_path / ".cache" / "alexnet"


@in_c
def test_what_others_can_write_is_made_anew(copied, cache):
    assert native.library()
    (file,) = cache.iterdir()
    assert not file.stat().st_mode & 0o022
    file.chmod(0o777)
    native._found.cache_clear()
    assert native.library()
    assert len(copied) == 2
    assert not file.stat().st_mode & 0o022


@in_c
@pytest.mark.skipif(sys.platform != "linux" or not native.is_parallel(), reason="other flags there, or no OpenMP")
def test_a_compiler_that_has_got_openmp_since_is_asked_again(cache, monkeypatch):
    """Without it the kernels run on one thread, which is not to last for ever."""
    monkeypatch.setattr(native, "FLAGS", QUICKLY)
    run, refused, sources = subprocess.run, {"-fopenmp"}, []

    def compiler(command, **options):
        sources.append(options["input"])
        if refused & {*command}:
            raise subprocess.CalledProcessError(1, command, stderr=b"cannot find -lomp")
        return run(command, **options)

    monkeypatch.setattr(native.subprocess, "run", compiler)
    assert native.library()
    assert not native.is_parallel()
    native._found.cache_clear()
    assert native.library()  # kept, and the compiler asked with a line whether it knows better
    assert (len(sources), len(sources[-1]) < 100, len(list(cache.iterdir()))) == (3, True, 1)
    refused.clear()
    native._found.cache_clear()
    assert native.library()
    assert native.is_parallel()


@in_c
@pytest.mark.parametrize("content", [b"", b"no library" * 1000], ids=["empty", "text"])
def test_a_broken_file_in_the_cache_is_made_again(content, copied, cache, launches):
    file = native._compiled(native._compiler())
    assert file.parent == cache  # a file that a process has loaded must not be written to
    file.write_bytes(content)
    assert native.library()._name == str(file)
    assert len(copied) == 2
    check(sample(2, 7, 3, 5, dtype=F32))
    assert launches == ["forward", "backward"]


def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler --fast")
    return "no C compiler was found (CC=no-such-compiler --fast)", ", or set CC."


def compiler_that_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")
    return "the C compiler failed (exit code 1)", "set CC to one that works."


def compiler_that_makes_no_library(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "true")
    return "the C kernel could not be kept or loaded ([Errno 2]", "set XDG_CACHE_HOME to a folder of yours."


def unreadable_command(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "cc 'unclosed")
    return "CC=cc 'unclosed is no command", ", or set CC."


def compiler_that_hangs(monkeypatch, tmp_path):
    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(native.subprocess, "run", run)
    return "the C compiler did not end within a minute", "set CC to one that works."


def no_ctypes(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(native, "FLAGS", QUICKLY)
    return "could not be kept or loaded (import of ctypes", "."


def cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "cache").touch()
    return "could not be kept or loaded ([Errno 20]", "set XDG_CACHE_HOME to a folder of yours."


def nobody_s_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # as for a number without a name
    return "could not be kept or loaded (Could not determine home", "set XDG_CACHE_HOME to a folder of yours."


@pytest.mark.parametrize(
    "obstacle",
    [
        no_compiler,
        compiler_that_fails,
        compiler_that_makes_no_library,
        unreadable_command,
        compiler_that_hangs,
        no_ctypes,
        cache_that_cannot_be_written,
        nobody_s_home,
    ],
)
def test_without_a_kernel_the_results_are_the_same(obstacle, cache, launches, monkeypatch, tmp_path):
    reason, mend = obstacle(monkeypatch, tmp_path)
    for dtype in (F32, BF16):
        check(sample(2, 7, 3, 5, dtype=dtype))
    assert native.library() is None
    assert not launches
    assert obstacle is no_ctypes or not cache.is_dir() or not list(cache.iterdir())
    said = str(missing_kernel())
    assert reason in said
    assert said.endswith(mend)
    assert "runs as a convolution, several times slower" in said


@in_c
def test_where_there_is_a_kernel_nothing_is_said():
    assert missing_kernel() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what is said without a GPU")
def test_without_triton_a_gpu_has_its_own_sentence(monkeypatch):
    monkeypatch.setattr(fused, "_missing", {})
    if fused.find_spec("triton"):
        assert missing_kernel("cuda").mend == "give it a C compiler and Python's headers, which it needs"
    monkeypatch.setattr(fused, "_missing", {})
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert str(missing_kernel("cuda")).startswith("Triton is not installed: local response normalisation runs")


@in_c
@pytest.mark.parametrize("unknown", [["-fopenmp"], ["-march=native"], ["-fopenmp", "-march=native"]], ids=" ".join)
def test_flags_that_the_compiler_does_not_know(unknown, cache, launches, monkeypatch, tmp_path):
    """As Apple's, and some for other processors."""
    script = tmp_path / "compiler"
    tests = "".join(f'[ "$flag" = {flag} ] && echo "unknown {flag}" >&2 && exit 1\n' for flag in unknown)
    script.write_text(f'#!/bin/sh\nfor flag; do\n{tests}:\ndone\nexec {shutil.which("cc")} "$@" -O0\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    check(sample(2, 7, 3, 5, dtype=F32))
    assert launches == ["forward", "backward"]
    assert len(list(cache.iterdir())) == 1


@in_c
def test_without_proc(copied, cache, monkeypatch):
    monkeypatch.setattr(native, "cpu_description", dict)
    named = set()
    for name in ("arm", "i386"):
        monkeypatch.setattr(native.platform, "processor", lambda name=name: name)
        named.add(native._processor())
    assert len(named) == 2
    check(sample(2, 7, 3, 5, dtype=F32))
    assert len(copied) == 1


# As a part of torch


@both_layouts
@forms(F32, BF16)
def test_memory_that_is_not_dense(form, dtype, layout):
    views = {
        "channels": lambda x: x[:, 1:6],
        "rows": lambda x: x[:, :, ::2],
        "columns": lambda x: x[..., 1:],
        "expanded": lambda x: x[:1, :1].expand(2, 5, -1, -1),
        "permuted": lambda x: x.permute(3, 2, 0, 1),
        "transposed": lambda x: x.transpose(2, 3),
    }
    for view in views.values():
        x = view(sample(2, 7, 3, 5, dtype=dtype, layout=layout).detach()).requires_grad_()
        check(x)


@both_layouts
@forms(F32, BF16)
def test_gradients_of_any_layout(form, dtype, layout):
    x = sample(2, 7, 3, 5, dtype=dtype, layout=layout)
    y = LocalResponseNorm(*STRONG)(x)
    g = torch.randn(2, 7, 3, 5).to(dtype)
    wide = torch.stack([g, -g], -1)[..., 0]
    column = g[:, :, :1, :1].expand_as(g)
    for one, other in ((g, g.to(memory_format=NHWC)), (g, wide), (column, column.contiguous())):
        a, b = (torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for upstream in (one, other))
        assert torch.equal(a, b) or form == "banded"  # whose convolution may go another way
        for gradient in (a, b):
            close(gradient, reference(x, one, STRONG)[1])


@in_c
@both_layouts
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_threads_and_batches_change_no_bit(dtype, layout):
    x, g = (sample(3, 96, 27, 27, dtype=dtype, layout=layout, scale=scale) for scale in (3, -1))

    def both(x, g):
        y = LocalResponseNorm(*STRONG)(x)
        return torch.stack([y, *torch.autograd.grad(y, x, g)])

    before, expected = torch.get_num_threads(), both(x, g)
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(both(x, g), expected)
            assert torch.equal(both(x[1:2], g[1:2]), expected[:, 1:2])
    finally:
        torch.set_num_threads(before)


@forms(F32, F16)
def test_autocast_changes_nothing(form, dtype):
    with torch.autocast("cpu", BF16):
        check(sample(2, 7, 3, 5, dtype=dtype))


@forms(F32)
def test_input_stays_as_it_is(form, dtype):
    x = sample(2, 8, 3, 2, dtype=dtype)
    before = x.detach().clone()
    LocalResponseNorm()(x).sum().backward()
    assert torch.equal(x, before)


def test_has_no_state_and_names_its_constants():
    layer = LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    assert not layer.state_dict()
    assert repr(layer) == repr(copy.deepcopy(layer)) == "LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2.0)"


@in_c
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.to(memory_format=NHWC), lambda x: x[:, ::2]], ids=["nchw", "nhwc", "sliced"]
)
@pytest.mark.parametrize("columns", [1, 2])
def test_operators_are_what_torch_expects(view, columns):
    x, g = view(sample(2, 6, 3, 4, dtype=F32).detach()), view(torch.ones(2, 6, 3, 4))
    torch.library.opcheck(torch.ops.alexnet.lrn.default, (x, *STRONG, columns))
    torch.library.opcheck(torch.ops.alexnet.lrn_backward.default, (x, g, *STRONG, columns))


@forms(F32, BF16)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_whole_it_is_the_same(backend, form, dtype, launches):
    torch._dynamo.reset()
    layer = LocalResponseNorm(*STRONG)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for n, layout in ((2, NCHW), (3, NCHW), (3, NHWC)):
        x = sample(n, 7, 3, 5, dtype=dtype, layout=layout)
        launches.clear()
        results = [(y := f(x), *torch.autograd.grad(y, x, x.detach())) for f in (compiled, layer)]
        assert launches == (["forward", "backward"] * 2 if form == "native" else [])
        for a, b in zip(*results, strict=True):
            if (backend, form) == ("inductor", "banded"):  # its own code for roots and products, with its own rounding
                torch.testing.assert_close(a, b, rtol=2 ** (-22 if dtype == F32 else -7), atol=1e-6)
            else:
                assert torch.equal(a, b)
            assert a.stride() == b.stride()


@forms(F32, BF16)
def test_compiled_whole_without_gradients(form, dtype, launches):
    torch._dynamo.reset()
    layer, x = LocalResponseNorm(*STRONG, columns=7), sample(2, 7, 3, 5, dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            launches.clear()
            assert torch.equal(compiled(x), layer(x))
            assert launches == (["forward"] * 2 if form == "native" else [])


@forms(F32)
def test_compiled_gradients_of_each_sample(form, dtype):
    torch._dynamo.reset()
    x = torch.stack([sample(2, 7, 3, n, dtype=dtype).detach()[..., :5] for n in (5, 6, 7)])
    gradients = torch.compile(torch.func.vmap(torch.func.grad(loss)), backend="aot_eager", fullgraph=True)(x)
    for one, gradient in zip(x, gradients, strict=True):
        close(gradient, torch.func.grad(exact_loss)(one.double()), term=6)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_exported_it_needs_nothing_of_ours(dtype, strict):
    x = sample(2, 7, 3, 5, dtype=dtype).detach()
    layer = LocalResponseNorm(*STRONG).eval()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict)
    assert "alexnet" not in program.graph_module.code
    for batch in (x, sample(5, 7, 3, 5, dtype=dtype).detach()):
        close(program.module()(batch), reference(batch, batch, STRONG)[0])


def record_with_fx(layer, x):
    traced = torch.fx.symbolic_trace(layer)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_function", "output"]
    return traced


def record_with_jit(layer, x):
    return torch.jit.trace(layer, (x,))


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@pytest.mark.parametrize("record", [record_with_fx, record_with_jit])
@pytest.mark.parametrize("layer", [LocalResponseNorm(*STRONG), LocalResponseNorm(4, 0.5, columns=2), MapResponseNorm()])
def test_recorded_it_can_be_kept(record, layer, tmp_path):
    x = sample(2, 8, 3, 5, dtype=F32).detach()
    program = record(layer, x)
    if record is record_with_jit:
        torch.jit.save(program, tmp_path / "program")
        copies = [torch.jit.load(tmp_path / "program")]
        assert "alexnet" not in copies[0].code
    else:
        copies = [copy.deepcopy(program), pickle.loads(pickle.dumps(program))]
    for kept in (program, *copies):
        close(kept(x), layer(x.double()))


@pytest.fixture
def unmarked(monkeypatch):
    """As on a torch that does not know the mark of a function whose result is constant."""
    for function in (fused.has_kernel, tracing.runs_elsewhere, tracing._transformed):
        monkeypatch.delattr(function, "_dynamo_marked_constant")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@in_c
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_may_not_know_what_is_constant(unmarked, monkeypatch):
    x, layer = sample(2, 7, 3, 5, dtype=F32), LocalResponseNorm(*STRONG)
    expected = layer(x).detach().double()
    close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected)  # the kernel has been looked for
    monkeypatch.setattr(fused, "_missing", {})
    torch._dynamo.reset()
    close(torch.compile(layer, backend="aot_eager")(x), expected)


def test_the_first_call_does_not_import_torchs_compiler(new_process):
    """Which takes seconds, most of the time of a short command."""
    assert not new_process[0]


@forms(F32)
def test_distributed(form, dtype, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        plain = nn.Sequential(nn.Conv2d(3, 8, 1), LocalResponseNorm(*STRONG), nn.Conv2d(8, 2, 1))
        shared = DistributedDataParallel(copy.deepcopy(plain))
        for model in (plain, shared):
            model(sample(2, 3, 4, 4, dtype=dtype)).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for a, b in zip(plain.parameters(), shared.parameters(), strict=True):
        assert a.grad.abs().max() > 0
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("columns", [1, 2])
def test_derivatives_that_are_carried_forward(columns):
    x = sample(2, 4, 3, 2, dtype=F32)
    constants = (5, 0.1, 0.75, 2.0, columns)
    ours, plain = (lambda x, f=f: f(x, *constants) for f in (derivatives.normalise, banded.normalise))
    for transform in (
        lambda f: torch.func.jvp(f, (x,), (x.sin(),))[1],
        lambda f: torch.func.jacfwd(f)(x),
        lambda f: torch.func.hessian(lambda x: f(x).pow(3).sum())(x),
        lambda f: torch.func.jacrev(torch.func.jacfwd(lambda x: f(x).pow(3).sum()))(x),
    ):
        torch.testing.assert_close(transform(ours), transform(plain))
    with forward_ad.dual_level():
        tangents = [forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent for f in (ours, plain)]
        torch.testing.assert_close(*tangents)


def test_shapes_alone():
    """On the meta device, which knows no autocast."""
    layer = LocalResponseNorm(5)
    assert layer(torch.empty(2, 8, 3, 3, device="meta")).shape == (2, 8, 3, 3)
