"""A library's manners: a call answers, and leaves the process and the caller's network as they were."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import alexnet
from alexnet.inference.trained import restore
from conftest import TINY, assert_same_run, assert_same_tensors, figures, needs_int8

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def process():
    """What belongs to the whole process, and so to nobody's library."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kind, numbers, *rest = np.random.get_state()
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": (kind, numbers.tolist(), *rest),
        "Python's random state": random.getstate(),
        "cudnn": (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark),
        "products": (matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "warnings": list(warnings.filters),
        "signal handlers": [signal.getsignal(number) for number in SIGNALS],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


def state_of(model: nn.Module):
    """All of a network that another user of it could notice, its weights' numbers aside."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "tensors": {
            name: (t.data_ptr(), t.device, t.dtype, t.stride(), t.requires_grad, t.grad) for name, t in tensors.items()
        },
        "modules": {
            name: (id(m), m.training, getattr(m, "inplace", None), list(m._forward_hooks), list(m._forward_pre_hooks))
            for name, m in model.named_modules()
        },
    }


def numbers_of(model: nn.Module):
    return {name: value.clone() for name, value in model.state_dict().items()}


def differences(before, after):
    return [name for name in before if before[name] != after[name]]


@pytest.fixture
def mallopt(monkeypatch):
    """The names that are looked up in C libraries, as far as they are mallopt's."""
    asked = []
    original = ctypes.CDLL.__getattr__

    def look_up(library, name):
        if name == "mallopt":
            asked.append(name)
        return original(library, name)

    monkeypatch.setattr(ctypes.CDLL, "__getattr__", look_up)
    return asked


@pytest.fixture
def user(finished):
    """A process with settings of its own, and a network on its way through somebody's training."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32, torch.get_num_threads()
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = True, False, True
    torch.set_num_threads(2)
    model = restore(finished.best)[0].train()
    model.conv1.requires_grad_(False)
    model.drop6.eval()
    model.relu2.inplace = not model.relu2.inplace
    model.conv2.register_forward_hook(lambda *_: None)
    model.fc7.register_forward_pre_hook(lambda *_: None)
    yield model
    cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = before[:3]
    torch.set_num_threads(before[3])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def digits(model, count=6):
    size = model.variant.input_size
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))


CALLS = {
    "predict": lambda run, model, pictures: alexnet.predict(run, [pictures], device="cpu"),
    "predict in ten views": lambda run, model, pictures: alexnet.predict(run, [pictures], views=10, device="cpu"),
    "evaluate": lambda run, model, pictures: alexnet.evaluate(run),
    "evaluate in bf16": lambda run, model, pictures: alexnet.evaluate(run, precision="bf16"),
    "evaluate a network": lambda run, model, pictures: alexnet.evaluate(model, config=TINY),
    "features": lambda run, model, pictures: alexnet.extract_features(run, [pictures], ["relu2"], device="cpu"),
    "features of a network": lambda run, model, pictures: alexnet.extract_features(
        model, digits(model), ["conv1", "relu1", "fc7"], device="cpu"
    ),
    "compare": lambda run, model, pictures: alexnet.compare(TINY.data, [run.path, run.best], device="cpu"),
    "a mistake": lambda run, model, pictures: alexnet.evaluate(model, "tset", config=TINY),
    "train": lambda run, model, pictures: alexnet.train(
        alexnet.config.override(TINY, {"epochs": 1}), pictures.parent / "run", reporter=quiet()
    ),
}


def quiet():
    from alexnet.training.progress import Reporter

    return Reporter(quiet=True)


def assert_left_alone(call, model, mallopt):
    before, own, numbers = process(), state_of(model), numbers_of(model)
    call()
    assert differences(before, process()) == []
    assert differences(own, state_of(model)) == []
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, numbers[name])] == []
    assert mallopt == []


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_changes_nothing(finished, user, pictures, mallopt, name):
    def call():
        try:
            CALLS[name](finished, user, pictures)
        except alexnet.AlexNetError:
            assert name == "a mistake"

    assert_left_alone(call, user, mallopt)


@needs_int8
def test_8_bits_change_nothing(finished, user, mallopt):
    def call():
        alexnet.quantize(user, digits(user))(digits(user))
        alexnet.evaluate(user, config=TINY, precision="int8")

    assert_left_alone(call, user, mallopt)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_programs_default_numbers_change_no_result(finished, tmp_path, no_figures, dtype):
    mixed = {"cutmix": 1.0, "mixup": 0.4, "ema": 0.9, "start": ("whiten", "lsuv")}
    config = alexnet.config.override(TINY, {"epochs": 1, "precision": "fp32", **mixed})
    plain = alexnet.train(config, tmp_path / "plain", reporter=quiet())
    torch.set_default_dtype(dtype)
    try:
        found = alexnet.evaluate(finished, precision="fp32")
        run = alexnet.train(config, tmp_path / "run", reporter=quiet())
        weights = run.model().state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.loss == alexnet.evaluate(finished, precision="fp32").loss
    assert all(torch.equal(weight, weights[name]) for name, weight in plain.model().state_dict().items())


def test_loaded_weights_are_all_that_changes(finished, user, mallopt):
    with torch.no_grad():
        for parameter in user.parameters():
            parameter.zero_()
    before, own = process(), state_of(user)
    alexnet.load_weights(user, finished.best)
    assert differences(before, process()) == []
    assert differences(own, state_of(user)) == []
    assert all(bool(parameter.any()) for parameter in user.parameters())
    assert mallopt == []


def test_a_file_that_does_not_fit_changes_no_weights(user, tmp_path):
    state = user.state_dict()
    shifted = {**state, "conv1.weight": state["conv1.weight"] + 1, "conv3.weight": torch.zeros(7, 3)}
    torch.save(shifted, tmp_path / "w.pth")
    numbers = numbers_of(user)
    with pytest.raises(alexnet.AlexNetError, match=r"conv3\.weight"):
        alexnet.load_weights(user, tmp_path / "w.pth")
    assert [name for name, value in user.state_dict().items() if not torch.equal(value, numbers[name])] == []


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing():
    """Nor does it import torch."""
    run_python(
        "import ctypes, os, random, signal, sys, warnings\n"
        "def state():\n"
        "    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "    return dict(os.environ), os.getcwd(), random.getstate(), list(warnings.filters), handlers, sys.path[:]\n"
        "before, opened = state(), []\n"
        "sys.addaudithook(lambda event, _: event == 'ctypes.dlopen' and opened.append(event))\n"
        "import alexnet\n"
        "dir(alexnet), alexnet.__version__\n"
        "assert state() == before and not opened\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )


def test_importing_everything_changes_neither_torch_nor_warnings():
    run_python(
        "import os, random, signal, sys, warnings\n"
        "import numpy, torch, PIL.Image, PIL.ImageFile, rich.progress\n"  # which draws from `random`
        "def state():\n"
        "    c, m = torch.backends.cudnn, torch.backends.cuda.matmul\n"
        "    flags = c.allow_tf32, c.deterministic, c.benchmark, m.allow_tf32, torch.get_num_threads()\n"
        "    pillow = PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES\n"
        "    seeds = torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate()\n"
        "    return flags, pillow, seeds, list(warnings.filters), signal.getsignal(signal.SIGINT), dict(os.environ)\n"
        "before = state()\n"
        "import alexnet\n"
        "for name in alexnet.__all__: getattr(alexnet, name)\n"
        "after = state()\n"
        "assert [b == a for b, a in zip(before, after)] == [True] * 6, [b == a for b, a in zip(before, after)]\n"
    )


# --- the same bits whatever the number of threads

ANSWERS = """
import hashlib, json
import torch
import alexnet
from alexnet.inference.trained import restore
from alexnet.runs.folder import load_run
run = load_run({run!r})
model, _ = restore(run.best)
size = model.variant.input_size
images = torch.rand(6, 1, size, size, generator=torch.Generator().manual_seed(0))
for threads in (1, 2):
    torch.set_num_threads(threads)
    features = alexnet.extract_features(model, images, ["conv1", "pool2", "fc8"], device="cpu")
    results = alexnet.evaluate(run), alexnet.evaluate(run, "val", views=10), alexnet.evaluate(model, config=run.config)
    assert {{result.measured["arithmetic"]["threads"] for result in results}} == {{threads}}
    print(json.dumps({{
        "features": {{name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in features.items()}},
        "predictions": [p.probabilities for p in alexnet.predict(run, [{pictures!r}], device="cpu")],
        "results": [{{k: v for k, v in result.to_dict().items() if k != "measured"}} for result in results],
    }}))
"""


def test_answers_have_the_same_bits_with_one_thread_and_two(finished, pictures):
    one, two = run_python(ANSWERS.format(run=str(finished.path), pictures=str(pictures))).splitlines()
    assert one == two
    assert '"predictions": [[' in one


TRAINING = """
import torch
assert torch.get_num_threads() == 2
import alexnet
from alexnet.config import override
from alexnet.runs.folder import load_config
from alexnet.training.progress import Reporter
from pathlib import Path
config = load_config(Path({config!r}))
for folder, epochs in (("whole", 2), ("again", 2), ("halves", 1), ("halves", 2)):
    alexnet.train(override(config, {{"epochs": epochs}}), Path({out!r}) / folder, reporter=Reporter(quiet=True))
"""


@pytest.mark.slow
def test_training_on_two_threads_repeats_and_goes_on_to_the_bit(finished, tmp_path):
    run_python(TRAINING.format(config=str(finished.path / "config.yaml"), out=str(tmp_path)), OMP_NUM_THREADS="2")
    whole, again, halves = (alexnet.load_run(tmp_path / name) for name in ("whole", "again", "halves"))
    assert_same_run(whole, again)
    assert_same_tensors(whole.last, halves.last)
    assert_same_tensors(whole.best, halves.best)
    assert figures(whole.test) == figures(halves.test)
