"""What this package imports and leaves alone, in one process of its own: pytest and other tests import nearly all there
is, and have filters of warnings too."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from alexnet.config import DataConfig
from alexnet.data.sources import load_dataset

# In an order in which nothing is imported by an earlier part that a later one must not import.
PARTS = """
import json, sys, warnings
sys.modules["sklearn"] = sys.modules["scipy"] = None  # an import of them fails
import numpy, torch, PIL.Image, simplejpeg  # which may do as they like with the filters

def compilers():
    return [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]

told, before = {}, list(warnings.filters)
from alexnet.data.decode import decode
import alexnet.data.images
decode(sys.stdin.buffer.read())
told["the same filters"] = list(warnings.filters) == before

from alexnet.models.network import blank_model, build_model
import alexnet.models.int8
build_model("cifar", width=0.125)
blank_model("paper")
told["compilers to build"] = compilers()

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import DataConfig, OptimConfig, TrainConfig
from alexnet.training.learner import Learner
for name in ("paper-sgd", "adamw"):
    model = build_model("cifar", width=0.0625)
    config = TrainConfig(optim=OptimConfig(name=name), ema=0.9)
    learner = Learner(config, model, 1, resolve_compute("cpu", "bf16"), World())
    learner.apply_step(learner.train_step(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), 2), 2)
told["compilers to learn"] = compilers()

import alexnet.data.folders, alexnet.data.imagenet, alexnet.data.packing, alexnet.training.loop
from alexnet.data.sources import load_dataset
told["digits"] = load_dataset(DataConfig()).fingerprint
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    palette = io.BytesIO()  # of which Pillow warns
    Image.effect_noise((30, 20), 60).convert("P").save(palette, "PNG", transparency=bytes([0, 90, 255, 7]))
    done = subprocess.run([sys.executable, "-c", PARTS], input=palette.getvalue(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_importing_and_decoding_leave_the_programs_warnings_alone(told):
    """A library changes no filters."""
    assert told["the same filters"]


def test_importing_and_building_needs_no_compiler(told):
    assert told["compilers to build"] == []


def test_a_step_does_not_import_torchs_compiler(told):
    """Which takes seconds."""
    assert told["compilers to learn"] == []


def test_neither_scikit_learn_nor_scipy_is_needed(told):
    assert told["digits"] == load_dataset(DataConfig()).fingerprint
