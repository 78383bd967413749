"""What `alexnet train` costs beside a bare loop of the same network, batch and optimiser on one fixed batch.

    uv run python benchmarks/loop.py

Resident data: small images on the device, with crop, flip and logging, and with a 375th of the checkpoints at the end
of the epoch, because an epoch of CIFAR-10 has 375 steps. Prepared data: the paper's network on photographs that threads
decode on the cores that train, without checkpoints: there are ten minutes between two (whole.py measures one). Each
run's first step is left out, and of photographs the last ones, for which nothing is left to decode. The sides take
turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch
from common import Row, in_turn, prepared_photos, show

import alexnet
from alexnet.compute import configure_process, resolve_compute
from alexnet.config import DataConfig, ModelConfig, TrainConfig
from alexnet.data.batches import Steps
from alexnet.data.loading import open_split
from alexnet.data.sources import SOURCES, Source, load_dataset
from alexnet.data.splits import Published, Split
from alexnet.data.streamed import AHEAD
from alexnet.models.network import build_model
from alexnet.speed.steps import batch, seconds, training_step
from alexnet.training.progress import Reporter

EPOCH_STEPS = 375  # 48,000 images of CIFAR-10 in batches of 128
SMALL = DataConfig(source="random", val_fraction=0.0, pad=4, flip=True)


def random_images(count: int) -> Published:
    """A training split of `count` random 32x32 images and a small test split."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        return Split(rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10, np.arange(n))

    return Published(tuple(str(i) for i in range(10)), {"train": split(count), "test": split(10)})


def bare(config: TrainConfig, size: int, steps: int) -> Callable[[], float]:
    """Measures seconds a step on a fixed, already normalised batch."""
    compute = resolve_compute(config.device, config.precision)
    model = build_model(config.model.variant, num_classes=10, input_size=size, width=config.model.width or 1.0)
    images, labels = batch(model.variant, config.batch_size, compute.device)
    step = training_step(compute.place(model), compute, images.contiguous(memory_format=torch.channels_last), labels)
    return lambda: seconds(step, steps, compute.device)


def loop(config: TrainConfig, steps: int, more: int = 0) -> tuple[float, float]:
    """Seconds a step of `alexnet.train` in one epoch of 1 + steps + more, the first and those `more` left out, and from
    the last step to the end of the epoch."""
    stamps: list[float] = []

    class Stamps(Reporter):
        def step(self, epoch_step: int, images: int, seconds: float) -> None:
            super().step(epoch_step, images, seconds)
            stamps.append(time.perf_counter())

        def epoch(self, row: dict[str, Any]) -> None:
            stamps.append(time.perf_counter())
            super().epoch(row)

    with tempfile.TemporaryDirectory() as folder:
        alexnet.train(config, Path(folder) / "run", reporter=Stamps(quiet=True))
    assert len(stamps) == steps + more + 2
    return (stamps[steps] - stamps[0]) / steps, stamps[-1] - stamps[-2]


@contextmanager
def random_source(count: int) -> Any:
    """A data source "random" of `count` training images."""
    SOURCES["random"] = Source("random images", lambda _: random_images(count))
    try:
        yield
    finally:
        del SOURCES["random"]


def augmentation(config: TrainConfig, steps: int) -> float:
    """Seconds a batch of crop, flip and normalisation take."""
    device = resolve_compute(config.device, config.precision).device
    split = open_split(load_dataset(config.data).train, device, config.data)
    batches = split.training_batches(Steps(0, 0, config.batch_size))
    next(batches)
    return seconds(lambda: next(batches), steps, device)


def measure(device: str = "auto", toy: bool = False, rounds: int = 3) -> list[Row]:
    """Rows of the table."""
    size, steps, photo_steps, rounds = (4, 3, 2, 1) if toy else (128, 30, 6, rounds)
    fixed: dict[str, Any] = {"epochs": 1, "device": device, "batch_size": size, "log_every": 10}
    width = 0.125 if toy else None
    rows = []
    with random_source(size * (steps + 1)):
        net = ModelConfig(variant="cifar", width=width)
        config = TrainConfig(data=SMALL, model=net, **fixed)
        alone = bare(config, 32, steps)

        def with_checkpoints() -> float:
            step, end = loop(config, steps)
            return step + end / EPOCH_STEPS

        whole, step, ratio = in_turn(with_checkpoints, alone, rounds)
        detail = f"{whole * 1e3:.0f} against {step * 1e3:.0f} ms a step, cifar net"
        goal = None if toy else 1.05
        rows.append(
            Row("`alexnet train`, resident data, against the bare step", ratio, "{:.3f}x", goal, True, detail, True)
        )
        seconds_, step, ratio = in_turn(lambda: augmentation(config, steps // 2), alone, 1)
        detail = f"{seconds_ * 1e3:.1f} ms of {step * 1e3:.0f} ms: crop, flip, normalisation of {size} images"
        goal = None if toy else 0.05
        rows.append(Row("augmentation of small images, of the step", ratio, "{:.1%}", goal, True, detail))
    with prepared_photos(size * (photo_steps + 1 + AHEAD)) as data:  # so that each timed step finds one to decode
        model = replace(net, variant="cifar" if toy else "paper")
        crop = 32 if toy else 224
        for workers in (1, 2):
            settings = replace(data, workers=workers, crop=crop)
            config = TrainConfig(data=settings, model=model, **fixed)
            alone = bare(config, crop, photo_steps)
            ours, step, ratio = in_turn(lambda c=config: loop(c, photo_steps, AHEAD)[0], alone, min(2, rounds))  # type: ignore[misc]
            detail = f"{ours * 1e3:.0f} against {step * 1e3:.0f} ms a step, {model.variant} net"
            what = f"`alexnet train`, prepared photographs, {workers} decoding thread(s), against the bare step"
            rows.append(Row(what, ratio, "{:.3f}x", None if toy else 1.05, True, detail, workers == 2))
    return rows


def main(device: str = "auto", toy: bool = False, rounds: int = 3) -> None:
    """Print the rows."""
    configure_process()
    show(measure(device, toy, rounds))


if __name__ == "__main__":
    cyclopts.run(main)
