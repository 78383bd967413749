"""Seconds of training until CIFAR-10's test accuracy reaches 79.6 % (the peers' best) and 90 %, data on the device.

    uv run python benchmarks/cifar.py --root DIR [--epochs N]

The clock counts training steps alone: no loading, no evaluation, and the compiler's time (the first step's excess)
apart. The test split only says when; nothing is chosen by it. Accuracies of all epochs are printed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cyclopts
from common import Row, show
from loop import SMALL, random_source

import alexnet
from alexnet.compute import configure_process
from alexnet.inference.evaluation import evaluate
from alexnet.training.progress import Reporter

TARGETS = (0.796, 0.90)


class Clock(Reporter):
    """Notes the time of every step, and the test accuracy and seconds of training after every epoch."""

    def __init__(self, last: Path) -> None:
        super().__init__(quiet=True)
        self.last = last
        self.stamps: list[float] = []
        self.epochs: list[tuple[float, float]] = []

    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self.stamps = [time.perf_counter()]

    def step(self, epoch_step: int, images: int, seconds: float) -> None:
        super().step(epoch_step, images, seconds)
        self.stamps.append(time.perf_counter())

    def epoch(self, row: dict[str, Any]) -> None:
        super().epoch(row)
        self.epochs.append((row["seconds"], evaluate(self.last, "test").top1))
        print(f"epoch {len(self.epochs)}: {row['seconds']:.1f} s, test {self.epochs[-1][1]:.2%}", flush=True)


def measure(
    root: str = "data", device: str = "auto", toy: bool = False, epochs: int = 30, compile: bool = True
) -> list[Row]:
    """Rows of the table, one a target; a target that is not reached has none."""
    with random_source(64), tempfile.TemporaryDirectory() as folder:
        config = alexnet.recipe("cifar10", epochs=2 if toy else epochs, device=device, compile=compile and not toy)
        data = SMALL if toy else replace(config.data, root=root, val_fraction=0.0)
        config = replace(config, data=data, batch_size=16 if toy else config.batch_size)
        if toy:
            small, slow = replace(config.model, width=0.125), replace(config.optim, lr=1e-4)
            config = replace(config, model=small, optim=slow)
        clock = Clock(Path(folder) / "run" / "last.safetensors")
        alexnet.train(config, Path(folder) / "run", reporter=clock)
    steps = [after - before for before, after in pairwise(clock.stamps)]
    compiling = max(0.0, steps[0] - statistics.median(steps)) if config.compile else 0.0
    rows = []
    for target in (0.0,) if toy else TARGETS:
        reached = next((s for s, accuracy in clock.epochs if accuracy >= target), None)
        if reached is not None:
            detail = f"of {epochs} epochs; best {max(a for _, a in clock.epochs):.2%}"
            rows.append(
                Row(f"CIFAR-10: seconds to {target:.1%} test accuracy", reached - compiling, "{:.1f} s", detail=detail)
            )
    return rows


def main(root: str = "data", device: str = "auto", toy: bool = False, epochs: int = 30, compile: bool = True) -> None:
    """Print the rows."""
    configure_process()
    show(measure(root, device, toy, epochs, compile))


if __name__ == "__main__":
    cyclopts.run(main)
