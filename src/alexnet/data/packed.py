"""Prepared photographs: one memory-mapped Arrow IPC file a split, JPEGs with labels, everything else in its metadata.

Any Arrow reader opens it: `pyarrow.ipc.open_file("train.arrow").read_all()` has the columns image (JPEG bytes), label,
source and crc32 (of the image's bytes); the schema's metadata holds "alexnet" (JSON: classes, names, statistics,
fingerprint ...), "mean_image" (a .npy of float32 [side, side, 3]) and "checksums" (JSON: CRC-32 of the other two and of
the columns but the images). Everything but the images is checked when the file is opened, an image when it is read.
Files of format 1 have no checksums.
"""

from __future__ import annotations

import errno
import io
import json
import os
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import DataConfig
from alexnet.config.colours import Statistics
from alexnet.data.photos import Photos
from alexnet.data.sources import turned_upright
from alexnet.data.splits import Published
from alexnet.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow

FORMAT = 2
PARTS = ("all", "train", "val", "test")
AGAIN = "delete it and run alexnet prepare again"


def arrow() -> Any:
    """The module pyarrow. Raises UsageError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise UsageError("prepared photographs need pyarrow: pip install 'alexnet[photos]'") from None
    return pyarrow


def arrow_path(path: Path) -> str | bytes:
    """A path as pyarrow opens it: it would write a name that is not UTF-8 as UTF-8, and leaves bytes as they are."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def schema(metadata: dict[bytes, bytes], format: int = FORMAT) -> pyarrow.Schema:
    """The columns of a prepared file, as pyarrow describes them, with metadata."""
    pa = arrow()
    columns = [("image", pa.binary()), ("label", pa.int64()), ("source", pa.string()), ("crc32", pa.uint32())]
    return pa.schema(columns if format >= 2 else columns[:3], metadata)


def signed(metadata: dict[bytes, bytes], batches: Iterable[Any]) -> dict[bytes, bytes]:
    """Metadata of a prepared file with the checksums of itself and of the record batches' columns."""
    return metadata | {b"checksums": json.dumps(checksums(metadata, batches)).encode()}


def checksums(metadata: dict[bytes, bytes], batches: Iterable[Any], columns: tuple[str, ...] = ()) -> dict[str, int]:
    """CRC-32 of a prepared file's metadata, and of its columns label, source and crc32 or those that are named."""
    columns = columns or ("label", "source", "crc32")
    found = {key: zlib.crc32(metadata[key.encode()]) for key in ("alexnet", "mean_image")} | dict.fromkeys(columns, 0)
    for batch in batches:
        for name in columns:
            found[name] = _column_checksum(batch.column(name), found[name])
    return found


def kept_checksums(metadata: dict[bytes, bytes]) -> dict[str, int]:
    """What `signed` wrote. Raises KeyError and ValueError."""
    kept: dict[str, int] = json.loads(metadata[b"checksums"])
    if not isinstance(kept, dict):
        raise ValueError(f"checksums {kept!r}")
    return kept


def _column_checksum(column: Any, before: int) -> int:
    """The checksum of a column of numbers or strings that follows others with the checksum `before`."""
    _, *buffers = column.buffers()  # the first says which values are missing: none
    if len(buffers) == 1:
        return zlib.crc32(buffers[0][: len(column) * column.type.bit_width // 8], before)
    ends = np.frombuffer(buffers[0], dtype=np.int32)[: len(column) + 1]
    return zlib.crc32(memoryview(buffers[1] or b"")[ends[0] : ends[-1]], zlib.crc32(np.diff(ends).data, before))


def is_prepared(root: str | Path) -> bool:
    """Whether a folder holds prepared photographs."""
    return any(os.path.isfile(Path(os.path.expanduser(root)) / f"{part}.arrow") for part in PARTS)


def read_prepared(config: DataConfig) -> Published:
    """What `prepare` wrote. Raises DataError if it is of another source, damaged, or of a newer version."""
    root = Path(os.path.expanduser(config.root))
    stores = {part: PackedStore(path) for part in PARTS if (path := root / f"{part}.arrow").is_file()}
    first = next(iter(stores.values()))
    for part, store in stores.items():
        if store.meta["source"] != config.source:
            raise DataError(
                f"{root} was prepared from {store.meta['source']}, not {config.source}: "
                f"--data.source {store.meta['source']}."
            )
        missing = set(store.meta["parts"]) - set(stores)
        same = ("classes", "side", "quality", "orientation")
        differs = any(store.meta.get(key) != first.meta.get(key) for key in same)
        if missing or differs or store.meta["part"] != part:
            raise DataError(
                f"{root} is not complete ({', '.join(sorted(missing)) or part} is missing or of another preparation): "
                "run alexnet prepare again; it goes on from where it was."
            )
    parts = {part: Photos.whole(store, store.labels) for part, store in stores.items()}
    note = None
    if config.orientation is None and turned_upright(config) and not first.upright:
        note = (
            f"the photographs in {root} were prepared without turning them upright (EXIF orientation), and are trained "
            "on so: alexnet prepare turns them now."
        )
    return Published(tuple(first.meta["classes"]), dict(parts), tuple(first.meta["names"]), note)


class DamagedError(DataError):
    """A prepared file that `prepare` may write anew."""


class PackedStore:
    """The images of one prepared file, without copies: pages come from the disk as they are read.

    Everything but the images is checked against the file's checksums now, each image when it is read.
    """

    def __init__(self, path: Path) -> None:
        pa = arrow()
        self.path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(arrow_path(path)))
            metadata = reader.schema.metadata or {}
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in self.batches:  # Arrow trusts a file's counts, and would read beyond it
                batch.validate()
        except (pa.ArrowException, OSError) as problem:
            raise DamagedError(
                f"{path} is not a prepared file or is damaged ({str(problem).splitlines()[0]}); prepare it again."
            ) from None
        if b"alexnet" not in metadata:
            raise DataError(f"{path} is an Arrow file but not one that alexnet prepare wrote.")
        try:
            self.meta: dict[str, Any] = json.loads(metadata[b"alexnet"])
            if not isinstance(self.meta["format"], int):
                raise TypeError(f"format {self.meta['format']!r}")
            if self.meta["format"] <= FORMAT:
                self._check(reader.schema, metadata)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as problem:
            raise DamagedError(f"{path} is damaged ({problem!r}); prepare it again.") from None
        if self.meta["format"] > FORMAT:
            raise DataError(f"{path} has format {self.meta['format']}, this version reads up to {FORMAT}: upgrade.")
        self.metadata = metadata
        self._ends = np.cumsum([b.num_rows for b in self.batches], dtype=np.int64)
        # An image column's buffers: validity, 32-bit offsets, bytes.
        buffers = [batch.column(0).buffers() for batch in self.batches]
        self._offsets = [np.frombuffer(b[1], dtype=np.int32) for b in buffers]
        self._bytes = [memoryview(b[2]) for b in buffers]
        self._sums = [batch.column(3).to_numpy() for batch in self.batches] if self.has_checksums else None

    def _check(self, found: Any, metadata: dict[bytes, bytes]) -> None:
        """Raise whatever it is if the file is not as `prepare` writes it."""
        meta = self.meta
        if not found.equals(schema({}, meta["format"])):
            raise TypeError(f"columns {found.names}")
        kinds = {"source": str, "part": str, "parts": list, "classes": list, "names": list, "side": int, "quality": int}
        for key, kind in (kinds | {"fingerprint": str, "report": dict, "statistics": dict}).items():
            if not isinstance(meta[key], kind):
                raise TypeError(f"{key} {meta[key]!r}")
        for key in ("parts", "classes", "names"):
            if not all(isinstance(text, str) for text in meta[key]):
                raise TypeError(f"{key} {meta[key]!r}")
        if len(meta["names"]) != len(meta["classes"]) or meta["side"] < 1:
            raise ValueError(f"{len(meta['names'])} names of {len(meta['classes'])} classes, side {meta['side']}")
        for key, shape in (("mean", (3,)), ("std", (3,)), ("colour_axes", (3, 3))):
            values = np.array(meta["statistics"][key], dtype=np.float64)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"statistics {key} {meta['statistics'][key]!r}")
        if any(column.null_count for batch in self.batches for column in batch.columns):
            raise ValueError("missing values")
        if self.has_checksums:
            kept = kept_checksums(metadata)
            if kept.keys() != {"alexnet", "mean_image", "label", "source", "crc32"}:
                raise ValueError(f"checksums of {list(kept)}")
            for name, value in checksums(metadata, self.batches, ("label", "crc32")).items():
                if kept[name] != value:
                    raise ValueError(f"the checksum of {name} differs")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The labels of all images, [N]."""
        columns = [batch.column(1).to_numpy() for batch in self.batches]
        return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)

    def _find(self, number: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        return which, number - (int(self._ends[which - 1]) if which else 0)

    def read(self, number: int) -> memoryview:
        """The bytes of one image. Raises OSError if they are not those that were prepared."""
        which, inner = self._find(number)
        start, end = self._offsets[which][inner : inner + 2]
        content = self._bytes[which][start:end]
        if self._sums is not None and zlib.crc32(content) != self._sums[which][inner]:
            raise OSError(errno.EIO, f"damaged since it was prepared (its checksum differs); for {self.path}: {AGAIN}")
        return content

    def place(self, number: int) -> str:
        which, inner = self._find(number)
        try:
            return f"{self.path}:{self.batches[which].column(2)[inner].as_py()}"
        except ValueError:  # damaged: no longer UTF-8
            return f"{self.path}:image {number}"

    @property
    def has_checksums(self) -> bool:
        """Whether damage is noticed: files of format 1 hold no checksums."""
        return bool(self.meta["format"] >= 2)

    @property
    def upright(self) -> bool:
        """Whether the photographs were turned as EXIF says; files of format 1 do not say, and were not."""
        return bool(self.meta.get("orientation") == "apply")

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

    @cached_property
    def mean_image(self) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """The mean of the central squares of training images, float32 [side, side, 3], 0-255, which the paper subtracts
        (section 2); None for other parts."""
        if self.meta["part"] != "train":
            return None
        image: np.ndarray[Any, np.dtype[np.float32]] = np.load(
            io.BytesIO(self.metadata[b"mean_image"]), allow_pickle=False
        )
        return image
