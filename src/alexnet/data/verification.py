"""Whether prepared photographs are still the bytes that `alexnet prepare` wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet.config import DataConfig
from alexnet.data.packed import AGAIN, PARTS, DamagedError, PackedStore, checksums, kept_checksums, read_prepared
from alexnet.errors import DataError

STEP = 256  # images between two reports of progress


@dataclass(frozen=True)
class Verdict:
    """What is known of one file, or of the folder as a whole."""

    path: Path
    images: int = 0
    damaged: tuple[str, ...] = ()
    """What is not as it was written, a sentence each; empty where nothing was found."""
    unknown: str | None = None
    """What cannot be known, and why."""
    unfit: str | None = None
    """Why it is of no use as it is, though no byte is known to be damaged; a sentence, which says what mends it."""


def verify_prepared(
    root: Path, on_progress: Callable[[str, int, int], None] = lambda part, done, total: None
) -> list[Verdict]:
    """Read every byte of a prepared folder and compare it with the checksums in its files.

    `on_progress` is called with the split's name, images done and images in all. Returns a verdict on every file, and
    one on the folder if its files do not belong together. Raises DataError if it holds no prepared photographs.
    """
    found = [path for part in PARTS if os.path.isfile(path := Path(os.path.expanduser(root)) / f"{part}.arrow")]
    if not found:
        raise DataError(f"{root} holds no prepared photographs ({', '.join(f'{part}.arrow' for part in PARTS)}).")
    verdicts = []
    source = None
    for path in found:
        try:
            store = PackedStore(path)
        except DamagedError as problem:
            verdicts.append(Verdict(path, damaged=(str(problem),)))
        except DataError as problem:  # another program's, or a later version's
            verdicts.append(Verdict(path, unfit=str(problem)))
        else:
            source = store.meta["source"]
            verdicts.append(_verify(store, on_progress))
    if source is not None and not any(verdict.damaged or verdict.unfit for verdict in verdicts):
        try:
            # How photographs lie is a matter of their source, which this version need not know to compare bytes.
            read_prepared(DataConfig(source=source, root=str(root), orientation="ignore"))
        except DataError as problem:
            verdicts.append(Verdict(root, unfit=str(problem)))
    return verdicts


def _verify(store: PackedStore, on_progress: Callable[[str, int, int], None]) -> Verdict:
    """Of a file that could be opened, which its labels and its description passed."""
    if not store.has_checksums:
        unknown = f"it was prepared before checksums were kept: damage to images or labels would go unseen; {AGAIN}"
        return Verdict(store.path, len(store), unknown=unknown)
    damaged = []
    if checksums(store.metadata, store.batches, ("source",))["source"] != kept_checksums(store.metadata)["source"]:
        damaged.append("the column source (where images came from) is damaged.")
    for number in range(len(store)):
        try:
            store.read(number)
        except OSError as problem:
            damaged.append(f"{store.place(number)}: {problem.strerror}.")
        if number % STEP == 0 or number == len(store) - 1:
            on_progress(store.meta["part"], number + 1, len(store))
    return Verdict(store.path, len(store), tuple(damaged))
