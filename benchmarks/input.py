"""Images a second into the network: torchvision's ImageFolder and reference transforms beside ours, on one core.

    uv run python benchmarks/input.py PHOTOS

PHOTOS is a folder of photographs (ImageNet's originals, around 500x375, for the published figures). They are repeated
under other names to make training sets of --small and --large images. Each side delivers normalised float batches of
128 to the CPU; the sides take turns, and ratios are medians over the rounds. Memory is the process's own (anonymous)
memory, for a data set of each size, in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cyclopts
import torch

from alexnet.compute import configure_process
from alexnet.config import DataConfig
from alexnet.data.batches import Steps
from alexnet.data.loading import open_split
from alexnet.data.packed import arrow, schema, signed
from alexnet.data.packing import prepare
from alexnet.data.sources import load_dataset

BATCH = 128
PLAIN = DataConfig(source="folder", crop=224, resize=256, flip=True, val_fraction=0, test_fraction=0, workers=1)
RESIZED = replace(PLAIN, random_resized_crop=True)


def repeat_photos(photos: list[Path], root: Path, count: int) -> None:
    """A folder of `count` files in ten classes, links to the photographs."""
    for number in range(count):
        folder = root / "train" / f"class{number % 10}"
        if number < 10:
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.JPEG").symlink_to(photos[number % len(photos)])


def repeat_prepared(prepared: Path, root: Path, count: int) -> None:
    """A prepared file of `count` images that repeats a small one."""
    pa = arrow()
    root.mkdir()
    (small,) = prepared.glob("*.arrow")
    source = pa.ipc.open_file(pa.memory_map(str(small)))
    table = source.read_all().combine_chunks().to_batches()[0]
    rows = table.num_rows
    batches = [table.slice(0, min(rows, count - start)) for start in range(0, count, rows)]
    with pa.ipc.new_file(str(root / small.name), schema(signed(source.schema.metadata, batches))) as writer:
        for batch in batches:
            writer.write_batch(batch)


def torchvision_batches(root: Path) -> Iterator[torch.Tensor]:
    """As torchvision's reference training reads ImageNet (references/classification), in this process."""
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    dataset = datasets.ImageFolder(root / "train", transforms.Compose(steps))
    loader: Any = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)
    return (images for images, _ in loader)


def our_batches(root: Path, data: DataConfig) -> Iterator[torch.Tensor]:
    """As `alexnet train` reads them."""
    data = replace(data, root=str(root))
    loader = open_split(load_dataset(data).train, torch.device("cpu"), data)
    return (images for images, _, _ in loader.training_batches(Steps(0, 0, BATCH)))


def rate(batches: Iterator[torch.Tensor], steps: int) -> float:
    """Images a second over `steps` batches, the first two left out."""
    for _ in islice(batches, 2):
        pass
    start = time.perf_counter()
    count = sum(len(images) for images in islice(batches, steps))
    return count / (time.perf_counter() - start)


def own_memory() -> float:
    """Anonymous memory of this process in MiB; pages of a memory-mapped file are the system's to take back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(kind: str, root: str, steps: int) -> None:
    """One measurement in a process of its own, as JSON."""
    configure_process()
    torch.set_num_threads(1)
    speed = rate(our_batches(Path(root), PLAIN if kind == "plain" else RESIZED), steps)
    print(json.dumps({"rate": speed, "memory": own_memory()}))


def in_child(kind: str, root: Path, steps: int) -> dict[str, float]:
    """Run `child` on this process's core."""
    command = [sys.executable, __file__, "--child-kind", kind, "--child-root", str(root), "--steps", str(steps)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main(
    photos: Path | None = None,
    /,
    *,
    small: int = 1000,
    large: int = 100_000,
    rounds: int = 5,
    steps: int = 6,
    child_root: str = "",
    child_kind: str = "",
) -> None:
    """Print the table."""
    if child_kind:
        return child(child_kind, child_root, steps)
    if photos is None:
        raise SystemExit("name a folder of photographs")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    configure_process()
    torch.set_num_threads(1)
    files = sorted(p for p in photos.resolve().rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        repeat_photos(files, folder / "small", small)
        prepare(replace(PLAIN, root=str(folder / "small")), folder / "prepared")
        print(f"{len(files)} photographs, sets of {small} and {large} images, one core, batches of {BATCH}")
        sides: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
            "torchvision, ImageFolder": lambda: torchvision_batches(folder / "small"),
            "folder, random resized crop": lambda: our_batches(folder / "small", RESIZED),
            "prepared, random resized crop": lambda: our_batches(folder / "prepared", RESIZED),
            "folder, 224 crop of 256": lambda: our_batches(folder / "small", PLAIN),
            "prepared, 224 crop of 256": lambda: our_batches(folder / "prepared", PLAIN),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, batches in sides.items():
                rates[name].append(rate(batches(), steps))
        peer = rates["torchvision, ImageFolder"]
        for name, measured in rates.items():
            ratio = statistics.median(ours / theirs for ours, theirs in zip(measured, peer, strict=True))
            print(f"{name:32} {statistics.median(measured):7.0f} images/s   {ratio:5.2f} x torchvision")
        repeat_photos(files, folder / "large", large)
        repeat_prepared(folder / "prepared", folder / "large-prepared", large)
        os.sync()
        for path in folder.glob("*prepared/*.arrow"):  # into the page cache: the loader is measured, not the disk
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
        for name, first, second, kind in (
            ("folder, random resized crop", "small", "large", "resized"),
            ("prepared, 224 crop of 256", "prepared", "large-prepared", "plain"),
        ):
            pairs = [(in_child(kind, folder / first, steps), in_child(kind, folder / second, steps)) for _ in range(3)]
            speed = statistics.median(b["rate"] / a["rate"] for a, b in pairs)
            memory = [statistics.median(p[i]["memory"] for p in pairs) for i in (0, 1)]
            print(
                f"{name:32} {large} against {small} images: speed x {speed:.2f}, "
                f"memory {memory[0]:.0f} and {memory[1]:.0f} MiB"
            )


if __name__ == "__main__":
    cyclopts.run(main)
