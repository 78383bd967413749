"""Speed of this checkout beside another one's: the same measurements in two processes that take turns.

What memory a process happens to get moves its speed by up to 3 % for as long as it lives, so that several pairs of
processes are measured.

git worktree add ../old REVISION && (cd ../old && uv sync)
uv run python benchmarks/revisions.py --old ../old/.venv/bin/python --pairs 4 --processes 4
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cyclopts
import torch

CASES = [  # network, what, format, images, steps a turn
    *((net, "training", form, 128, 1) for net in ("paper", "torchvision", "cifar") for form in ("fp32", "bf16")),
    *((net, "inference", form, 64, 4) for net in ("paper", "torchvision", "cifar") for form in ("bf16", "int8")),
    *((net, "inference", form, 1, 40) for net in ("paper", "torchvision", "cifar") for form in ("bf16", "int8")),
    ("norm1", "normalisation", "fp32", 32, 20),
    ("norm2", "normalisation", "fp32", 32, 20),
]
# glibc's thread cache keeps the few bytes that aligning a tensor cuts off its block, so that the block is too short for
# the next tensor and another is begun: the normalisation's two results then lie in 2 to 33 blocks in turn, by chance.
HEAP = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
PAUSE = 0.3  # seconds, for the threads of the other process to go to sleep


def step_of(network: str, what: str, form: str, count: int) -> Callable[[], object]:
    """One step to be timed. Names of earlier revisions are known too."""
    from alexnet.models.int8 import quantize
    from alexnet.models.lrn import LocalResponseNorm
    from alexnet.models.network import build_model
    from alexnet.speed.steps import batch, inference_step, training_step

    try:
        from alexnet.compute import resolve_compute
    except ImportError:
        from alexnet.precision import choose_precision as resolve_compute  # type: ignore[import-not-found,no-redef]
    with suppress(ImportError):  # where resolving did it too
        from alexnet.compute import configure_process

        configure_process()
    torch.manual_seed(0)
    compute = resolve_compute("cpu", "fp32" if form == "int8" else form)
    if what == "normalisation":
        shape = {"norm1": (96, 55, 55), "norm2": (256, 27, 27)}[network]
        x = torch.randn(count, *shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        layer, g = LocalResponseNorm(), torch.ones_like(x)
        return lambda: torch.autograd.grad(layer(x), x, g)
    model = build_model(network)
    compute.place(model)
    images, labels = batch(model.variant, count, compute.device)
    images = images.contiguous(memory_format=torch.channels_last)
    if what == "training":
        return training_step(model, compute, images, labels)
    return inference_step(quantize(model, images) if form == "int8" else model.eval(), compute, images)


def answer() -> None:
    """Seconds a step for every case that is asked for on standard input."""
    steps: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        *case, turns = json.loads(line)
        key = json.dumps(case)
        if key not in steps:
            steps.clear()
            steps[key] = step_of(*case)
            steps[key]()
        start = time.perf_counter()
        for _ in range(turns):
            steps[key]()
        print((time.perf_counter() - start) / turns, flush=True)


class Revision:
    """A process of one revision's Python that answers."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).resolve()), "--answer"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | HEAP
        )

    def seconds(self, case: tuple[Any, ...]) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        time.sleep(PAUSE)
        print(json.dumps(case), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def compare(old: str, *, pairs: int = 4, processes: int = 4, only: str = "") -> None:
    """Measure every case in turn and print speed new / old: median, quartiles and extremes over the pairs.

    Parameters
    ----------
    old
        Python of the other revision's environment.
    pairs
        Turns of each that count in a pair of processes; one before them warms up.
    processes
        Pairs of processes.
    only
        Cases whose name holds this.
    """
    names = {case: f"{case[0]}: {case[1]} of {case[3]}, {case[2]}" for case in CASES}
    taken: dict[tuple[Any, ...], list[tuple[float, float]]] = {c: [] for c, name in names.items() if only in name}
    for _ in range(processes):
        new, other = Revision(sys.executable), Revision(old)
        for case, times in taken.items():
            for turn in range(pairs + 1):  # who goes first is a little slower, so that they take turns in that, too
                order = (new, other)[:: -1 if turn % 2 else 1]
                seconds = {id(revision): revision.seconds(case) for revision in order}
                if turn:
                    times.append((seconds[id(new)], seconds[id(other)]))
        new.end()
        other.end()
    print("| case | new / old | quartiles | extremes | images/s new, old |\n|---|---:|---:|---:|---:|")
    for case, times in taken.items():
        ratios = sorted(b / a for a, b in times)
        low, middle, high = statistics.quantiles(ratios, n=4)
        rates = [case[3] / statistics.median(side) for side in zip(*times, strict=True)]
        print(
            f"| {names[case]} | {middle:.3f} | {low:.3f}-{high:.3f} | {ratios[0]:.3f}-{ratios[-1]:.3f} "
            f"| {rates[0]:,.1f}, {rates[1]:,.1f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer()
    else:
        cyclopts.run(compare)
