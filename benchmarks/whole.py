"""A run of `alexnet train` as a process: start to the first step, time of a checkpoint, peak memory.

uv run python benchmarks/whole.py
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cyclopts
import torch
from common import Row, prepared_photos, show

from alexnet.compute import configure_process, resolve_compute
from alexnet.compute.distributed import World
from alexnet.config import TrainConfig
from alexnet.models.network import build_model
from alexnet.runs.checkpoint import save_checkpoint
from alexnet.training.learner import Learner


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds from the command to its first logged step, and the process's peak memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "alexnet", "train", *arguments, "--epochs", "1", "--log-every", "1"]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--run", str(log.parent)], stdout=subprocess.DEVNULL)
        first, peak = 0.0, 0.0
        while process.poll() is None:
            if not first and log.exists() and log.stat().st_size:
                first = time.perf_counter() - start
            peak = max(peak, memory(process.pid))
            time.sleep(0.01)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed")
    return first, peak


def memory(process: int) -> float:
    """Most bytes that a running process has had in memory; a child's own account would begin with its parent's."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0.0


def checkpoint_seconds(variant: str, width: float, device: str) -> tuple[float, float]:
    """Seconds to collect, write and sync a complete checkpoint, and its size in bytes."""
    compute = resolve_compute(device, "auto")
    model = build_model(variant, width=width)
    compute.place(model)
    learner = Learner(TrainConfig(), model, 1, compute, World())
    size = model.variant.input_size
    images = torch.randn(2, 3, size, size, device=compute.device)
    learner.apply_step(learner.train_step(images, torch.zeros(2, dtype=torch.int64, device=compute.device), 2), 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        start = time.perf_counter()
        save_checkpoint(path, learner.checkpoint({}))
        return time.perf_counter() - start, path.stat().st_size


def measure(device: str = "auto", toy: bool = False, rounds: int = 3) -> list[Row]:
    """Rows of the table."""
    rounds = 1 if toy else rounds
    rows = []
    place = ["--device", device]
    small = [run(["digits", *place]) for _ in range(rounds)]
    first, peak = (statistics.median(values) for values in zip(*small, strict=True))
    rows.append(
        Row(
            "start of `alexnet train digits` to its first step",
            first,
            "{:.1f} s",
            detail=f"peak memory {peak / 2**20:,.0f} MiB",
        )
    )
    variant, width, count = ("cifar", 0.125, 4) if toy else ("paper", 1.0, 128)
    with prepared_photos(2 * count) as data:
        arguments = ["folder", "--data.root", data.root, "--model.variant", variant, "--batch-size", str(count), *place]
        arguments += ["--data.val-fraction", "0", "--data.crop", "32" if toy else "224", "--model.width", str(width)]
        photos = [run(arguments) for _ in range(rounds)]
    first, peak = (statistics.median(values) for values in zip(*photos, strict=True))
    what = f"start of training the {variant} net on prepared photographs to its first step"
    rows.append(Row(what, first, "{:.1f} s", detail=f"with that step of {count} images"))
    rows.append(Row(f"peak memory of training the {variant} net, batches of {count}", peak / 2**30, "{:.2f} GiB"))
    times, sizes = zip(*(checkpoint_seconds(variant, width, device) for _ in range(rounds)), strict=True)
    detail = f"{sizes[0] / 2**20:,.0f} MiB: weights and momentum; checksummed and synced"
    rows.append(Row(f"a complete checkpoint of the {variant} net", statistics.median(times), "{:.2f} s", detail=detail))
    return rows


def main(device: str = "auto", toy: bool = False, rounds: int = 3) -> None:
    """Print the rows."""
    configure_process()
    show(measure(device, toy, rounds))


if __name__ == "__main__":
    cyclopts.run(main)
