"""Photographs where they lie: in folders, in an archive, or in a prepared file.

They are read one by one as encoded bytes; `data/decode.py` makes pixels of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet.config.colours import Statistics
from alexnet.errors import DataError

Rows = NDArray[np.integer]
Labels = NDArray[np.int64]


class Store(Protocol):
    """Where encoded images can be read by their number, from 0."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes | memoryview:
        """The encoded bytes of one image. Raises OSError."""

    def place(self, number: int) -> str:
        """Where an image comes from, for messages and reports, with '/' between folders on every system."""

    @property
    def fingerprint(self) -> str:
        """A digest that differs when the images differ."""

    @property
    def side(self) -> int | None:
        """The short side of all images in pixels if they were prepared, else None."""

    @property
    def upright(self) -> bool | None:
        """Whether all images were turned as EXIF says when they were prepared; None if they were not prepared."""

    @property
    def statistics(self) -> Statistics | None:
        """Statistics of the images' pixels if they were prepared as a training set, else None."""

    @property
    def mean_image(self) -> NDArray[np.float32] | None:
        """The mean of the images' central squares, float32 [side, side, 3], 0-255, if they were prepared as a training
        set, else None."""


def file_size(path: str | Path) -> int:
    """The size in bytes of a file. Raises OSError if it cannot be read, and for pipes, sockets and devices, which bear
    an image's name now and then: opening one may wait for ever."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file but a folder, a pipe, a socket or a device", str(path))
    return found.st_size


class Strings:
    """A sequence of strings in one buffer: a million Python strings would cost ten times their length."""

    def __init__(self, strings: list[str]) -> None:
        encoded = [os.fsencode(s) for s in strings]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return os.fsdecode(self._bytes[self._ends[number] : self._ends[number + 1]])

    def update(self, digest: hashlib._Hash) -> None:
        """Add all strings to a digest."""
        digest.update(self._bytes)
        digest.update(self._ends.data)


class _Originals:
    """Photographs as they were found, by name and size in bytes."""

    side: int | None = None
    upright: bool | None = None
    statistics: Statistics | None = None
    mean_image: NDArray[np.float32] | None = None

    def __init__(self, names: list[str], sizes: list[int]) -> None:
        self._names, self._sizes = Strings(names), np.array(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of names and sizes alone: reading every byte would take as long as an epoch. A photograph that is
        replaced by another of the same size under its name goes unseen; prepared photographs have checksums."""
        digest = hashlib.sha256()
        self._names.update(digest)
        digest.update(self._sizes.data)
        return digest.hexdigest()


class FileStore(_Originals):
    """Files under a folder; `names` are relative to it, with '/' on every system, or absolute; `sizes` in bytes."""

    def __init__(self, root: Path, names: list[str], sizes: list[int]) -> None:
        super().__init__(names, sizes)
        self.root = root

    def read(self, number: int) -> bytes:
        return (self.root / self._names[number]).read_bytes()

    def place(self, number: int) -> str:
        return (self.root / self._names[number]).as_posix()  # which may be absolute


class ArchiveStore(_Originals):
    """Members of one uncompressed tar file, read in place: nothing is unpacked."""

    def __init__(self, path: Path, names: list[str], offsets: list[int], sizes: list[int]) -> None:
        super().__init__(names, sizes)
        self.path, self._offsets = path, np.array(offsets, dtype=np.int64)
        self._stream = path.open("rb", buffering=0)
        self._lock = Lock()

    def read(self, number: int) -> bytes:
        size, offset = int(self._sizes[number]), int(self._offsets[number])
        if hasattr(os, "pread"):
            return os.pread(self._stream.fileno(), size, offset)
        with self._lock:  # Windows: threads share the stream's position
            self._stream.seek(offset)
            return self._stream.read(size)

    def place(self, number: int) -> str:
        return f"{self.path.as_posix()}:{self._names[number]}"


class JoinedStore:
    """Several stores one after the other."""

    # Those of pooled training and test images would tell of the test.
    statistics: Statistics | None = None
    mean_image: NDArray[np.float32] | None = None

    def __init__(self, stores: list[Store]) -> None:
        self._stores = stores
        self._ends = np.cumsum([len(s) for s in stores])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, number: int) -> tuple[Store, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        return self._stores[which], number - (int(self._ends[which - 1]) if which else 0)

    def read(self, number: int) -> bytes | memoryview:
        store, inner = self._find(number)
        return store.read(inner)

    def place(self, number: int) -> str:
        store, inner = self._find(number)
        return store.place(inner)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(s.fingerprint for s in self._stores).encode()).hexdigest()

    @property
    def side(self) -> int | None:
        sides = {s.side for s in self._stores}
        return sides.pop() if len(sides) == 1 else None

    @property
    def upright(self) -> bool | None:
        return self._stores[0].upright  # the parts of one preparation agree


@dataclass(frozen=True)
class Photos:
    """A split of photographs that are not decoded yet: rows [N] of a store, labels [N] int64."""

    store: Store
    rows: Rows
    labels: Labels
    channels: ClassVar[int] = 3

    @classmethod
    def whole(cls, store: Store, labels: list[int] | Labels) -> Photos:
        """A split of all images of a store."""
        assert len(store) == len(labels)
        return cls(store, np.arange(len(store)), np.asarray(labels, dtype=np.int64))

    @classmethod
    def pooled(cls, parts: list[Photos]) -> Photos:
        """Several splits as one, in the order given."""
        starts = np.cumsum([0] + [len(p.store) for p in parts])
        rows = np.concatenate([p.rows + start for p, start in zip(parts, starts[:-1], strict=True)])
        return cls(JoinedStore([p.store for p in parts]), rows, np.concatenate([p.labels for p in parts]))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> Photos:
        """A split of the rows given, in that order."""
        return Photos(self.store, self.rows[rows], self.labels[rows])

    def relabel(self, labels: Labels) -> Photos:
        """A split of the same photographs with other labels."""
        return Photos(self.store, self.rows, labels)

    def renumber(self, numbers: Labels) -> Photos:
        """A split of the same photographs with number `numbers[i]`, different for each, for the class that was i."""
        return self.relabel(numbers[self.labels])

    def place(self, row: int) -> str:
        """Where the photograph of a row comes from."""
        return self.store.place(int(self.rows[row]))

    def places(self, rows: Rows) -> list[int | str]:
        """Where the photographs of these rows come from."""
        return [self.place(int(row)) for row in rows]

    def read(self, row: int) -> bytes | memoryview:
        """The encoded bytes of the photograph of a row. Raises DataError if they cannot be read."""
        try:
            return self.store.read(int(self.rows[row]))
        except OSError as problem:
            raise DataError(f"cannot read {self.place(row)}: {problem.strerror or problem}.") from None

    def identify(self, digest: hashlib._Hash) -> None:
        """Add images and labels to the digest that becomes a data set's fingerprint."""
        digest.update(self.store.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.rows, dtype=np.int64).data)
        digest.update(self.labels.data)
