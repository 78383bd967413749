"""Networks as public code runs them, in a process of its own: what we set up for speed must not speed up these.

Float32, torch's default layout, optimiser and memory allocator. The process answers each line of its input, a request
as JSON, with a line of seconds a step.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import nn

from alexnet.compute import Compute
from alexnet.errors import UsageError
from alexnet.models.network import build_model
from alexnet.speed.steps import (
    Step,
    as_published,
    baseline_inference_step,
    baseline_training_step,
    batch,
    seconds,
    training_step,
)


@dataclass(frozen=True)
class Request:
    """What to measure: `steps` steps of `count` images."""

    network: str
    """A name of `alexnet list models`; "torchvision" is torchvision's own network where it is installed."""
    training: bool
    count: int
    steps: int
    device: str
    tuned: bool = False
    """Training with autocast, channels_last and torch.compile: torchvision's reference script with its options."""


class Baseline:
    """The other process; use it as a context."""

    def __enter__(self) -> Baseline:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "alexnet.speed.baseline"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is ours; this process ends when nobody asks any more
        )
        return self

    def seconds(self, request: Request) -> float:
        """Seconds a step. Raises UsageError if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(asdict(request)), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise UsageError(
                "the process that measures the baseline has ended. Its error stands above; where there is none it may "
                "have had too little memory: try a smaller --batch-size."
            )
        return float(answer)

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def has_torchvision() -> bool:
    """Whether torchvision's own network can be measured."""
    return find_spec("torchvision") is not None


@lru_cache(maxsize=16)
def _step(network: str, training: bool, count: int, device: str, tuned: bool) -> Step:
    place = torch.device(device)
    model = build_model(network)
    images, labels = batch(model.variant, count, place)
    baseline = (_torchvision() if network == "torchvision" and has_torchvision() else as_published(model)).to(place)
    if tuned:
        baseline = baseline.to(memory_format=torch.channels_last)
        compute = Compute(place, torch.bfloat16)
        rows = images.contiguous(memory_format=torch.channels_last)
        return training_step(baseline, compute, rows, labels, compiled=True)
    return baseline_training_step(baseline, images, labels) if training else baseline_inference_step(baseline, images)


def _torchvision() -> nn.Module:
    from torchvision.models import alexnet

    network: nn.Module = alexnet()
    return network


def _answer(line: str) -> float:
    request = json.loads(line)
    steps = request.pop("steps")
    return seconds(_step(**request), steps, torch.device(request["device"]))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer
        for line in sys.stdin:
            os.write(sys.stdout.fileno(), f"{_answer(line)}\n".encode())
