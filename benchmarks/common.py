"""What the benchmarks share: rows of the table, the machine's name, photographs of their own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from alexnet.compute import bf16_unit, processor_name
from alexnet.config import DataConfig
from alexnet.data.packing import prepare


@dataclass(frozen=True)
class Row:
    """One measured number; with a goal it is met at or beyond it."""

    what: str
    value: float
    form: str = "{:.2f}x"
    goal: float | None = None
    below: bool = False
    """The goal is a most, not a least."""
    detail: str = ""
    headline: bool = False
    """Shown in the project's README too."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached, if there is one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.below else self.value >= self.goal


def show(rows: list[Row]) -> None:
    """Print rows."""
    for row in rows:
        print(f"{row.what}: {row.form.format(row.value)} {row.detail}")


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Medians of two measurements that take turns, and of their ratio ours / theirs; the first round only warms up."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    middle = statistics.median
    return middle(a for a, _ in pairs), middle(b for _, b in pairs), middle(a / b for a, b in pairs)


def machine(device: torch.device) -> str:
    """Processor or GPU, threads and torch's version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = processor_name()
    kind = torch.backends.cpu.get_cpu_capability()
    bf16 = f" with {unit}" if (unit := bf16_unit(device)) else ""
    return f"{name} ({kind}{bf16}), {torch.get_num_threads()} threads, torch {torch.__version__}"


@contextmanager
def prepared_photos(count: int) -> Iterator[DataConfig]:
    """`count` random but smooth pictures of 500x375 in ten classes, prepared for the time of the context."""
    rng = np.random.default_rng(0)
    data = DataConfig(source="folder", crop=224, resize=256, flip=True, val_fraction=0, test_fraction=0)
    with TemporaryDirectory() as work:
        for number in range(count + min(10, count)):
            split, name = ("train", str(number)) if number < count else ("test", "one")
            folder = Path(work) / "photos" / split / f"class{number % count % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=92)
        prepare(replace(data, root=f"{work}/photos"), Path(work) / "prepared")
        yield replace(data, root=f"{work}/prepared")
