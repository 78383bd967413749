"""Where and how a network computes: a decision that changes nothing, and replicas that leave their model alone."""

from __future__ import annotations

import copy
import ctypes
import json
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from alexnet import build_model
from alexnet import compute as module
from alexnet.compute import Compute, configure_process, cpu_description, has_feature, resolve_compute, set_in_place
from alexnet.errors import UsageError
from alexnet.inference.forward import answering

CPU = torch.device("cpu")
FP32, BF16 = Compute(CPU, torch.float32), Compute(CPU, torch.bfloat16)


# What a program may have set before it calls us.
USERS = {
    "nothing": "",
    "older, fast": "b.cudnn.allow_tf32 = b.cuda.matmul.allow_tf32 = True",
    "older, exact": "b.cudnn.allow_tf32 = b.cuda.matmul.allow_tf32 = False; b.cudnn.deterministic = True",
    "newer": "b.cuda.matmul.fp32_precision = 'tf32'",
    "newer, for all": "b.fp32_precision = 'tf32'",
}
SETTINGS = """
from alexnet.compute import Compute

def read(owner, name):
    try:
        return getattr(owner, name)
    except RuntimeError:  # older and newer names contradict each other
        return "contradiction"

def state():
    newer = [read(owner, "fp32_precision") for owner in (b, b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn)]
    return newer, read(b.cudnn, "allow_tf32"), read(b.cuda.matmul, "allow_tf32"), b.cudnn.deterministic

before = state()
try:
    with Compute(torch.device("cuda"), torch.float32).settings():
        (_, *newer), *rest = state()
        assert (newer, rest) == (["ieee"] * 3, [False, False, True]), state()
        if end:
            raise end
except KeyboardInterrupt:
    pass
assert state() == before, (before, state())
"""


def flags():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32


@pytest.fixture(params=[(True, False, True), (False, True, False)], ids=["fast", "exact"])
def user_flags(request):
    """Somebody's own settings of torch, for the time of a test."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = request.param
    yield request.param
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = before


@pytest.fixture
def no_library(monkeypatch):
    """Any call of the C library fails."""

    def refuse(*_):
        raise AssertionError("the C library was called")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def network(**fields):
    torch.manual_seed(0)
    return build_model("cifar", width=0.125, num_classes=5, init="he", **fields)


def images(count=3):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# --- the decision


@pytest.mark.usefixtures("user_flags", "no_library")
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_deciding_changes_nothing(precision):
    def state():
        return flags(), torch.get_num_threads(), torch.get_default_dtype(), list(warnings.filters), random.getstate()

    before, drawn, arrays = state(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    compute = resolve_compute("cpu", precision)
    compute.autocast()
    assert state() == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert np.random.get_state()[1].tolist() == arrays


@pytest.mark.parametrize(
    ("features", "dtype", "reason"),
    [
        ((), torch.float32, "fp32: this processor has neither AVX512-BF16 nor AMX"),
        (("avx512_bf16",), torch.bfloat16, "bf16: this processor has AVX512-BF16"),
        (("amx_tile",), torch.bfloat16, "bf16: this processor has AMX"),
        (("avx512_bf16", "amx_tile"), torch.bfloat16, "bf16: this processor has AVX512-BF16 and AMX"),
    ],
)
def test_auto_goes_by_the_processor_and_says_so(monkeypatch, features, dtype, reason):
    monkeypatch.setattr(module, "has_feature", features.__contains__)
    compute = resolve_compute("cpu", "auto")
    assert (compute.device, compute.dtype, compute.reason) == (CPU, dtype, reason)
    for asked, wanted in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        compute = resolve_compute("cpu", asked)
        assert (compute.dtype, compute.reason) == (wanted, f"{asked}: as asked")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(UsageError, match=f"--device {device} "):
        resolve_compute(device)


# --- the settings of torch


# A process for each program, in which it sets what it likes, forked from one that has imported torch.
CHILDREN = """
import json, os, sys, traceback
import torch
import alexnet.compute

codes = []
for program in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        try:
            exec(program, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
ENDS = (None, "KeyboardInterrupt")


@pytest.fixture(scope="module")
def settings_kept():
    """The exit code of the program of each of `USERS` with each of `ENDS`, and what all of them said."""
    programs = {
        (names, end): f"import torch\nb = torch.backends\n{USERS[names]}\nend = {end}\n{SETTINGS}"
        for names in USERS
        for end in ENDS
    }
    line = [sys.executable, "-W", "ignore", "-c", CHILDREN, json.dumps(list(programs.values()))]
    ended = subprocess.run(line, check=True, timeout=60, capture_output=True, text=True)
    return dict(zip(programs, json.loads(ended.stdout), strict=True)), ended.stderr


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("names", USERS)
def test_settings_hold_in_the_block_alone(settings_kept, names, end):
    """Set by somebody under torch's older names, its newer ones, or none; needs no GPU."""
    codes, said = settings_kept
    assert codes[names, end] == 0, said


@pytest.mark.usefixtures("user_flags")
def test_settings_of_threads_that_overlap_hold_for_all_of_them():
    before, gpu = flags(), Compute(torch.device("cuda"), torch.float32)
    first, second = gpu.settings(), gpu.settings()
    first.__enter__()
    exact = flags()
    second.__enter__()
    first.__exit__(None, None, None)
    assert flags() == exact == (False, True, before[2], False)
    second.__exit__(None, None, None)
    assert flags() == before


@pytest.mark.parametrize("compute", [FP32, BF16, Compute(torch.device("cuda"), torch.bfloat16)], ids=str)
def test_elsewhere_settings_change_nothing(compute):
    before = flags()
    with compute.settings():
        assert flags() == before


@pytest.mark.parametrize("compute", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_callers_autocast_changes_neither_answers_nor_training(compute):
    """torch keeps converted weights until the outermost autocast ends: a step must not see those of the one before."""
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    start = layer.weight.detach().clone()

    def answers():
        given = [answering(layer, compute)(x)]
        for _ in range(2):
            with compute.autocast():
                given.append(layer(x).detach().float())
            layer.weight.data += 1
        layer.weight.data.copy_(start)
        return given

    plain = answers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = answers()
    assert [torch.equal(a, b) for a, b in zip(plain, within, strict=True)] == [True] * 3
    assert not torch.equal(plain[1], plain[2])


# --- replicas


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("lrn", ["off", "formula"])
def test_a_replica_gives_the_models_own_bits(training, layout, lrn):
    model = network(lrn=lrn).to(memory_format=layout)
    x = FP32.fit(images())
    with torch.inference_mode():
        # Kernels may round otherwise in another layout: the same layout, the same bits.
        wanted = copy.deepcopy(model).to(memory_format=torch.channels_last).eval()(x)
        model.train(training)
        assert torch.equal(FP32.replica(model)(x), wanted)
        # Sums are added in another order.
        torch.testing.assert_close(answering(model, FP32)(images()), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_layers_whose_weights_are_computed(kind):
    model = network(lrn="off")
    for layer in (model.conv2, model.fc8):
        getattr(nn.utils.parametrizations, kind)(layer)
    model.eval()
    with torch.no_grad():
        wanted = model(images())
    torch.testing.assert_close(answering(model, FP32)(images()), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(images()), wanted)


@pytest.mark.parametrize("compute", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("in_place", [True, False])
def test_the_model_stays_as_it_is(compute, layout, in_place):
    model = network().to(memory_format=layout).train()
    model.conv3.eval()
    model.conv1.requires_grad_(False)
    set_in_place(model, False)
    model.relu2.inplace = True

    def state():
        tensors = [(p.data_ptr(), p.dtype, p.stride(), p.requires_grad) for p in model.parameters()]
        modes = [(m.training, getattr(m, "inplace", None)) for m in model.modules()]
        return tensors, modes

    before, weights = state(), copy.deepcopy(model.state_dict())
    replica = compute.replica(model, in_place)
    with torch.inference_mode():
        replica(compute.fit(images()))
    assert state() == before
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not any(m.training for m in replica.modules())
    assert {m.inplace for m in replica.modules() if isinstance(m, nn.ReLU)} == {in_place}
    assert not set(map(id, replica.modules())) & set(map(id, model.modules()))


def test_weights_are_shared_where_nothing_is_converted():
    model = network().to(memory_format=torch.channels_last)
    shared = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in FP32.replica(model).parameters()} == shared
    assert not {p.data_ptr() for p in BF16.replica(model).parameters()} & shared
    assert {p.dtype for p in BF16.replica(model).parameters()} == {torch.bfloat16}
    with torch.no_grad():  # the weights of now: shared or not, the next replica has the next weights
        model.fc8.bias.add_(7)
    for compute in (FP32, BF16):
        assert torch.equal(compute.replica(model).fc8.bias, compute.fit(model.fc8.bias))


class Watcher:
    """Keeps what a layer gave, without a copy."""

    def __init__(self):
        self.seen = []

    def see(self, _, inputs, output):
        self.seen.append((output, output.clone()))


def test_what_a_hook_sees_is_not_overwritten():
    """Nor does it see a copy of the object that it belongs to."""
    model, watcher = network(), Watcher()
    set_in_place(model, True)
    handle = model.conv1.register_forward_hook(watcher.see)
    forward = answering(model, FP32)
    with torch.inference_mode():
        forward(images())
    ((now, then),) = watcher.seen
    assert torch.equal(now, then)
    assert now.min() < 0  # before the ReLU
    handle.remove()
    with torch.inference_mode():
        forward(images())
    assert len(watcher.seen) == 1
    assert all(m.inplace for m in FP32.replica(model).modules() if isinstance(m, nn.ReLU))


@pytest.mark.parametrize("compute", [FP32, BF16], ids=["fp32", "bf16"])
def test_fit(compute):
    labels, vector, batch = torch.arange(4), torch.randn(5), images()
    assert compute.fit(labels) is labels
    assert compute.fit(vector).dtype == compute.dtype
    fitted = compute.fit(batch)
    assert fitted.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fitted, batch.to(compute.dtype))
    assert compute.fit(fitted) is fitted
    assert batch.is_contiguous()


# --- what the processor has


def test_a_name_that_torch_no_longer_knows(monkeypatch):
    """The operating system's list decides; where there is none the answer is no."""
    monkeypatch.setattr(module, "cpu_description", lambda: {"flags": "fpu avx512_bf16 amx_tile_more"})
    for known in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{known}_supported", raising=False)
    assert has_feature("avx512_bf16")
    assert not has_feature("amx_tile")
    monkeypatch.setattr(module, "cpu_description", dict)
    assert not has_feature("avx512_bf16")


@pytest.mark.parametrize("answer", [True, False])
def test_torch_is_asked_first(monkeypatch, answer):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: answer, raising=False)
    monkeypatch.setattr(module, "cpu_description", lambda: {"flags": "" if answer else "amx_tile"})
    assert has_feature("amx_tile") is answer


def test_without_proc(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert cpu_description() == {}
    assert not has_feature("avx512_bf16")


def test_description_is_of_the_first_processor(monkeypatch, tmp_path):
    text = "processor\t: 0\nmodel name\t: A: B @ 2GHz\nflags\t\t: fpu amx\n\nprocessor\t: 1\nmodel name\t: other\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("builtins.open", lambda _, original=open: original(tmp_path / "cpuinfo"))
    assert cpu_description() == {"processor": "0", "model name": "A: B @ 2GHz", "flags": "fpu amx"}


# --- the process


class Library:
    """A C library that notes how mallopt is called."""

    def __init__(self):
        self.calls = []

    def mallopt(self, *arguments):
        self.calls.append(arguments)


def test_configured_once_by_who_asks_for_it(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library if name is None else None)
    configure_process()
    assert sorted(library.calls) == [(-4, 0), (-1, -1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD in glibc's malloc.h


@pytest.mark.parametrize("error", [TypeError, OSError])
def test_systems_without_mallopt(monkeypatch, error):
    """Windows opens no library without a name; macOS's has no mallopt."""

    def refuse(_):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    configure_process()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    configure_process()


def test_what_the_program_warns_of_is_its_own_matter(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    before = list(warnings.filters)
    configure_process()
    assert warnings.filters == before


def test_seeding_gives_what_manual_seed_gives():
    Compute(torch.device("cpu"), torch.float32).seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
