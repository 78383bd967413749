"""What the training loop costs beside a bare loop of the same network, batch and optimiser.

    uv run python benchmarks/loop.py

Both sides take the same number of steps of the cifar network on random images, in turn; the bare side feeds one fixed,
already normalised batch. Reported are the median seconds a step of each round and the median ratio over the rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from torch.nn import functional as F

import alexnet
from alexnet.config import DataConfig
from alexnet.data.sources import SOURCES, Source
from alexnet.data.splits import Published, Split
from alexnet.optim import build_optimizer
from alexnet.precision import choose_precision
from alexnet.progress import Reporter


def random_images(count: int) -> Published:
    """A training split of `count` random 32x32 images and a small test split."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        return Split(rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10, np.arange(n))

    return Published(tuple(str(i) for i in range(10)), {"train": split(count), "test": split(100)})


def bare_seconds(config: alexnet.TrainConfig, steps: int) -> float:
    """Seconds of `steps` steps, the first one excluded."""
    precision = choose_precision(config.device, config.precision)
    model = alexnet.build_model(config.model.variant)
    precision.place(model)
    optimizer = build_optimizer(config.optim, model)
    images = torch.randn(config.batch_size, 3, 32, 32, device=precision.device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, 10, (config.batch_size,), device=precision.device)
    start = 0.0
    for step in range(steps + 1):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    return time.perf_counter() - start


def loop_seconds(config: alexnet.TrainConfig, steps: int) -> float:
    """Seconds that `alexnet.train` counts for the same steps: data, step, logging; the first step excluded."""
    stamps: list[float] = []

    class Stamps(Reporter):
        def step(self, epoch_step: int, images: int) -> None:
            super().step(epoch_step, images)
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        alexnet.train(config, Path(folder) / "run", reporter=Stamps(quiet=True))
    return stamps[steps] - stamps[0]


def main(steps: int = 20, rounds: int = 5, batch_size: Annotated[int, cyclopts.Parameter()] = 128) -> None:
    """Print the ratio; `rounds` pairs of `steps` steps each."""
    count = batch_size * (steps + 1)
    SOURCES["random"] = Source("random images", lambda _: random_images(count))
    config = alexnet.recipe(
        "cifar10",
        epochs=1,
        batch_size=batch_size,
        data=DataConfig(source="random", val_fraction=0.0, pad=4, flip=True),
        log_every=10,
    )
    ratios = []
    for _ in range(rounds):
        bare, loop = bare_seconds(config, steps), loop_seconds(config, steps)
        ratios.append(loop / bare)
        print(f"bare {bare / steps * 1000:.1f} ms a step, loop {loop / steps * 1000:.1f} ms, ratio {loop / bare:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} over {rounds} pairs (goal: at most 1.05)")


if __name__ == "__main__":
    cyclopts.run(main)
