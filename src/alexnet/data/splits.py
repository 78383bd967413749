"""What a data set is made of: splits of images in memory or of photographs on disk, and how one is cut in two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alexnet.errors import DataError, UsageError, unknown

if TYPE_CHECKING:  # `alexnet list` does not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

    from alexnet.data.photos import Photos

    Labels = NDArray[np.int64]
    Targets = NDArray[np.float32]
    Rows = NDArray[np.integer]


@dataclass(frozen=True)
class Split:
    """Images of one size in memory: images [N, C, H, W] uint8, labels [N] int64, and each image's place in the
    published files [N].

    Where each image has a probability for every class, `targets` [N, K] float32, training aims at these, and `labels`
    are the most probable classes, by which splits are drawn and accuracy is counted."""

    images: NDArray[np.uint8]
    labels: Labels
    sources: NDArray[np.int64]
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """How many channels every image has."""
        return int(self.images.shape[1])

    def take(self, rows: Rows) -> Split:
        """A split of the rows given, in that order."""
        targets = None if self.targets is None else self.targets[rows]
        return Split(self.images[rows], self.labels[rows], self.sources[rows], targets)

    def relabel(self, labels: Labels) -> Split:
        """A split of the same images with other labels."""
        return Split(self.images, labels, self.sources)

    def renumber(self, numbers: Labels) -> Split:
        """A split of the same images with number `numbers[i]`, different for each, for the class that was i."""
        import numpy as np

        targets = None if self.targets is None else self.targets[:, np.argsort(numbers)]
        return Split(self.images, numbers[self.labels], self.sources, targets)

    def places(self, rows: Rows) -> list[int | str]:
        """Where the images of these rows come from: their numbers in the published files."""
        places: list[int | str] = self.sources[rows].tolist()
        return places

    def identify(self, digest: hashlib._Hash) -> None:
        """Add images and labels to the digest that becomes a data set's fingerprint."""
        import numpy as np

        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.data)
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).data)


def draw_rows(count: int, most: int, seed: int = 0) -> Rows:
    """At most so many of `count` rows, drawn at random by a seed, in their order."""
    import numpy as np

    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


@dataclass(frozen=True)
class Published:
    """A data set as its publisher cut it: parts "train", "val", "test", or one part "all"."""

    classes: tuple[str, ...]
    """What identifies each class, in the order of the labels; for photographs it is the folder's name."""
    parts: dict[str, Split | Photos]
    names: tuple[str, ...] = ()
    """A readable, unique name for each class; where there are none, `classes` are read instead."""
    note: str | None = None
    """Something that the user should know; training says it once."""


@dataclass(frozen=True)
class Dataset:
    """A data set cut into splits; `fingerprint` is a SHA-256 over images, labels and class names of all of them."""

    name: str
    classes: tuple[str, ...]
    train: Split | Photos
    val: Split | Photos
    test: Split | Photos
    fingerprint: str
    names: tuple[str, ...] = ()
    note: str | None = None
    drawn: frozenset[str] = frozenset()
    """The splits that were drawn at random, not published: of other images, or with other settings, others."""

    def split(self, name: str | None = None) -> tuple[str, Split | Photos]:
        """The split called train, val or test with its name; without a name the one that results are reported on:
        test, or val where the data has no test split (ImageNet)."""
        if name is None:
            name = "test" if len(self.test) else "val"
        if name not in ("train", "val", "test"):
            raise UsageError(unknown("split", name, ("train", "val", "test")))
        split: Split | Photos = getattr(self, name)
        if len(split) == 0:
            mend = {
                "val": "none was held out when it was cut (--data.val-fraction)",
                "test": "this data has none; name another with --split",
                "train": "this data has none",
            }[name]
            raise UsageError(f"the {name} split is empty; {mend}.")
        return name, split

    def in_order(self, classes: tuple[str, ...]) -> Dataset:
        """The same data with its classes in another order."""
        import numpy as np

        if classes == self.classes:
            return self
        numbers = np.array([classes.index(name) for name in self.classes])
        splits = {name: getattr(self, name).renumber(numbers) for name in ("train", "val", "test")}
        names = tuple(self.names[i] for i in np.argsort(numbers)) if self.names else ()
        return replace(self, classes=classes, names=names, **splits)

    def check_trained_on(self, fingerprint: object, what: object, mend: str) -> None:
        """Raise DataError, which says how to `mend` it, unless this is the data of the given fingerprint, which `what`
        was trained on."""
        if fingerprint != self.fingerprint:
            raise DataError(f"this data is not what {what} was trained on (its fingerprint differs): {mend}.")

    def check_trainable(self, measured_on: str | None = None) -> None:
        """Raise DataError if there are no classes to tell apart, and UsageError if the split is empty that the trained
        network will be `measured_on` (as of `split`): both would be found after the last epoch only. Raise UsageError
        without training images."""
        if len(self.train) == 0:
            raise UsageError("there is nothing to train on: the data has no training split.")
        if len(self.classes) < 2:
            raise DataError(
                f"{self.name} has a single class ({', '.join(self.names or self.classes)}): a network learns to tell "
                "classes apart, so give it two or more."
            )
        if measured_on is not None and not len(self.val):
            raise UsageError(
                "--no-test ends with the result on validation: hold images out for it (--data.val-fraction)."
            )
        self.split(measured_on)


def stratify(labels: Labels, share: float, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Cut rows in two at random so that the first part has the same share of each class, both parts in the order of the
    rows. A whole number is how many of each class, another one which part of it (rounded).

    `labels` are [N]; the two arrays of rows together hold 0 to N - 1.
    """
    import numpy as np

    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: share if isinstance(share, int) else round(len(rows) * share)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Different class names in their order: alphabetical, or where all of them are numbers, by number."""
    different = sorted({*names})
    numbers = all(name.isdecimal() and len(name) < 100 for name in different)
    return tuple(sorted(different, key=int) if numbers else different)


def unique_names(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Make readable names unique: those that occur twice (ImageNet has two cranes) get their class's identity in
    brackets."""
    return tuple(n if names.count(n) == 1 else f"{n} ({c})" for n, c in zip(names, classes, strict=True))
