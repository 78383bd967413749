"""Prepared photographs: one memory-mapped Arrow IPC file a split, JPEGs with labels, everything else in its metadata.

Any Arrow reader opens it: `pyarrow.ipc.open_file("train.arrow").read_all()` has the columns image (JPEG bytes), label
and source; the schema's metadata holds "alexnet" (JSON: classes, names, statistics, fingerprint ...) and "mean_image"
(a .npy of float32 [side, side, 3]).
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import DataConfig
from alexnet.config.colours import Statistics
from alexnet.data.photos import Photos
from alexnet.data.splits import Published
from alexnet.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
PARTS = ("all", "train", "val", "test")


def arrow() -> Any:
    """The module pyarrow. Raises UsageError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise UsageError("prepared photographs need pyarrow: pip install 'alexnet[photos]'") from None
    return pyarrow


def schema(metadata: dict[bytes, bytes]) -> pyarrow.Schema:
    """The columns of a prepared file, as pyarrow describes them, with metadata."""
    pa = arrow()
    return pa.schema([("image", pa.binary()), ("label", pa.int64()), ("source", pa.string())], metadata)


def is_prepared(root: str | Path) -> bool:
    """Whether a folder holds prepared photographs."""
    return any((Path(root).expanduser() / f"{part}.arrow").is_file() for part in PARTS)


def read_prepared(config: DataConfig) -> Published:
    """What `prepare` wrote. Raises DataError if it is of another source, damaged, or of a newer version."""
    root = Path(config.root).expanduser()
    stores = {part: PackedStore(path) for part in PARTS if (path := root / f"{part}.arrow").is_file()}
    first = next(iter(stores.values()))
    for part, store in stores.items():
        if store.meta["source"] != config.source:
            raise DataError(
                f"{root} was prepared from {store.meta['source']}, not {config.source}: "
                f"--data.source {store.meta['source']}."
            )
        missing = set(store.meta["parts"]) - set(stores)
        differs = any(store.meta[key] != first.meta[key] for key in ("classes", "side", "quality"))
        if missing or differs or store.meta["part"] != part:
            raise DataError(
                f"{root} is not complete ({', '.join(sorted(missing)) or part} is missing or of another preparation): "
                "run alexnet prepare again; it goes on from where it was."
            )
    parts = {part: Photos.whole(store, store.labels) for part, store in stores.items()}
    return Published(tuple(first.meta["classes"]), dict(parts), tuple(first.meta["names"]))


class DamagedError(DataError):
    """A prepared file that `prepare` may write anew."""


class PackedStore:
    """The images of one prepared file, without copies: pages come from the disk as they are read."""

    def __init__(self, path: Path) -> None:
        pa = arrow()
        self.path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            metadata = reader.schema.metadata or {}
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as problem:
            raise DamagedError(
                f"{path} is not a prepared file or is damaged ({str(problem).splitlines()[0]}); prepare it again."
            ) from None
        if b"alexnet" not in metadata:
            raise DataError(f"{path} is an Arrow file but not one that alexnet prepare wrote.")
        try:
            self.meta: dict[str, Any] = json.loads(metadata[b"alexnet"])
            if self.meta["format"] <= FORMAT:
                self._check(reader.schema)
        except (ValueError, KeyError, TypeError) as problem:
            raise DamagedError(f"{path} is damaged ({problem!r}); prepare it again.") from None
        if self.meta["format"] > FORMAT:
            raise DataError(f"{path} has format {self.meta['format']}, this version reads up to {FORMAT}: upgrade.")
        self._mean_image = metadata.get(b"mean_image")
        self._ends = np.cumsum([b.num_rows for b in self._batches], dtype=np.int64)
        # An image column's buffers: validity, 32-bit offsets, bytes.
        buffers = [batch.column(0).buffers() for batch in self._batches]
        self._offsets = [np.frombuffer(b[1], dtype=np.int32) for b in buffers]
        self._bytes = [memoryview(b[2]) for b in buffers]

    def _check(self, found: Any) -> None:
        if not found.equals(schema({})):
            raise TypeError(f"columns {found.names}")
        kinds = {"source": str, "part": str, "parts": list, "classes": list, "names": list, "side": int, "quality": int}
        for key, kind in (kinds | {"fingerprint": str, "report": dict, "statistics": dict}).items():
            if not isinstance(self.meta[key], kind):
                raise TypeError(f"{key} {self.meta[key]!r}")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The labels of all images, [N]."""
        columns = [batch.column(1).to_numpy() for batch in self._batches]
        return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)

    def _find(self, number: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        return which, number - (int(self._ends[which - 1]) if which else 0)

    def read(self, number: int) -> memoryview:
        which, inner = self._find(number)
        start, end = self._offsets[which][inner : inner + 2]
        return self._bytes[which][start:end]

    def place(self, number: int) -> str:
        which, inner = self._find(number)
        return f"{self.path}:{self._batches[which].column(2)[inner].as_py()}"

    @property
    def fingerprint(self) -> str:
        """A digest of the original images and of how they were prepared."""
        return str(self.meta["fingerprint"])

    @property
    def side(self) -> int:
        """The short side of all images in pixels."""
        return int(self.meta["side"])

    @cached_property
    def statistics(self) -> Statistics | None:
        """Statistics of the pixels of training images; None for other parts: a pool of all images would tell of the
        test."""
        if self.meta["part"] != "train":
            return None
        values = self.meta["statistics"]
        return Statistics(tuple(values["mean"]), tuple(values["std"]), tuple(map(tuple, values["colour_axes"])))

    def mean_image(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The mean of the central squares, float32 [side, side, 3], 0-255, which the paper subtracts (section 2)."""
        import io

        assert self._mean_image is not None
        image: np.ndarray[Any, np.dtype[np.float32]] = np.load(io.BytesIO(self._mean_image), allow_pickle=False)
        return image
