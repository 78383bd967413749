"""Photographs are prepared once, as in the paper (section 2): the short side to 256, as JPEGs packed into one file.

The work is cut into parts that are written one by one, so that a killed preparation goes on from the last of them and
ends with the same bytes as one that was not disturbed.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.compute import usable_cores
from alexnet.config import DataConfig
from alexnet.config.data import LARGEST_SIDE
from alexnet.config.ranges import Range
from alexnet.data.augment import principal_axes
from alexnet.data.encoding import Encoded, encode
from alexnet.data.packed import FORMAT, PARTS, DamagedError, PackedStore, arrow, arrow_path, is_prepared, schema, signed
from alexnet.data.photos import Photos
from alexnet.data.sources import SOURCES, holds_photographs, read_published, turned_upright
from alexnet.data.splits import Published
from alexnet.errors import DataError, UsageError, listed
from alexnet.files import check_outside, holding, remove_leftovers, replacing, write_atomically

_REPORT = "report.json"
CHUNK = 256  # images a part: some 8 MB and a second of work


def prepare(
    config: DataConfig,
    out: str | Path,
    *,
    side: int = 256,
    quality: int = 90,
    workers: int | None = None,
    on_progress: Callable[[str, int, int], None] = lambda part, done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Prepare a source's photographs in the folder `out`; the same call goes on after a kill.

    `on_progress` is called with the split's name, images done and images in all; `on_note` with what should be known of
    the photographs, such as that some were passed over. Returns the report that is also
    written to report.json: images, bytes, what was left out and what was converted, by split. Whether photographs are
    turned upright is said by `config` or their source (`turned_upright`). Raises UsageError and DataError.
    """
    pa, out = arrow(), Path(out)
    if not holds_photographs(config.source):
        known = ", ".join(name for name, source in SOURCES.items() if source.photographs)
        raise UsageError(f"cannot prepare {config.source!r}: choose a source of photographs ({known}).")
    for flag, value, allowed in (
        ("--side", side, Range(least=16, most=LARGEST_SIDE)),
        ("--quality", quality, Range(least=1, most=100)),
        ("--workers", workers, Range(least=1, most=1024)),
    ):
        if value is not None and value not in allowed:
            raise UsageError(f"{flag} {value} is out of range: it must be {allowed}.")
    if "\0" in str(out):
        raise UsageError(f"--out {str(out)!r} is no path: it holds a NUL.")
    if is_prepared(config.root):
        raise UsageError(f"{config.root} is prepared already: --data.root names the original photographs.")
    check_outside(out, config.root)
    published = read_published(config)
    if published.note:
        on_note(published.note)
    with holding(out, "preparing", "choose another --out", unwritable=DataError):
        try:
            remove_leftovers(out, _REPORT, *(f"{part}.arrow" for part in PARTS))
            report: dict[str, Any] = {}
            _refuse_others(published, config.source, out)
            packings = [
                _Packing(published, name, part, config, out, side, quality)
                for name, part in published.parts.items()
                if isinstance(part, Photos)
            ]
            for packing in packings:
                packing.forget_others()
            for packing in packings:
                report[packing.name] = packing.work(workers or min(usable_cores(), 16), on_progress)
            write_atomically(out / _REPORT, (json.dumps(report, indent=1, sort_keys=True) + "\n").encode())
            return report
        except OSError as problem:
            raise DataError(
                f"cannot write to {out}: {problem.strerror or problem}. What is done is kept; the same command goes on."
            ) from None
        except pa.ArrowException as problem:
            raise DataError(
                f"a part in {out}/.*.parts is damaged ({problem}): delete that folder and begin again."
            ) from None


def _refuse_others(published: Published, source: str, out: Path) -> None:
    """Not to mix or replace data sets of different sources or classes in one folder: what is there took hours."""
    for part in PARTS:
        path = out / f"{part}.arrow"
        if path.exists():
            meta = _described(path)
            if meta is None:
                continue
            other = part not in published.parts or meta["source"] != source
            if other or meta["classes"] != list(published.classes):
                whose = meta["source"] if other else f"{len(meta['classes'])} classes: {listed(meta['classes'])}"
                raise UsageError(f"{out} holds another preparation ({path.name} of {whose}): choose another --out.")


def _described(path: Path) -> dict[str, Any] | None:
    """The description of a prepared file; None if there is none or it is damaged, so that it is made again."""
    try:
        return PackedStore(path).meta if path.exists() else None
    except DamagedError:
        return None


class _Packing:
    """The work on one split."""

    def __init__(
        self, published: Published, name: str, photos: Photos, config: DataConfig, out: Path, side: int, quality: int
    ) -> None:
        self.name, self.photos, self.side, self.quality = name, photos, side, quality
        self.path, self.upright = out / f"{name}.arrow", turned_upright(config)
        orientation, settings = "apply" if self.upright else "ignore", [side, quality, CHUNK]
        digest = hashlib.sha256(
            json.dumps(
                [FORMAT, config.source, name, published.classes, published.names, *settings, orientation]
            ).encode()
        )
        photos.identify(digest)
        self.identity = digest.hexdigest()
        self.parts = out / f".{name}.parts" / self.identity[:16]
        self.described = {
            "format": FORMAT,
            "source": config.source,
            "part": name,
            "parts": sorted(published.parts),
            "classes": list(published.classes),
            "names": list(published.names or published.classes),
            "side": side,
            "quality": quality,
            "orientation": orientation,
            "fingerprint": self.identity,
        }

    def forget_others(self) -> None:
        """Delete the file of other photographs: beside new parts it would be taken for one of them. Raises UsageError
        where it has other settings: it took hours, and they may be a slip."""
        meta = _described(self.path)
        if meta is not None:
            flags = {"side": "--side", "quality": "--quality", "orientation": "--data.orientation"}
            found = {"orientation": "ignore"} | meta  # as of format 1
            other = [f"{flag} {found[name]}" for name, flag in flags.items() if found[name] != self.described[name]]
            if other:
                raise UsageError(
                    f"{self.path} is prepared already, with {' '.join(other)}: choose another --out, or delete it."
                )
        if meta is not None and meta["fingerprint"] != self.identity:
            self.path.unlink()

    def work(self, workers: int, on_progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        """Encode what is missing, join the parts, and say what came of it."""
        total = len(self.photos)
        if self.parts.parent.is_symlink():  # what is stale in it would be deleted elsewhere
            raise UsageError(f"{self.parts.parent} is a link, and none of ours: remove it, or choose another --out.")
        if (meta := _described(self.path)) and meta["fingerprint"] == self.identity:
            if self.parts.parent.exists():  # killed between the file and this
                shutil.rmtree(self.parts.parent)
            on_progress(self.name, total, total)
            return dict(meta["report"])
        if self.parts.parent.exists():  # of other photographs or settings
            for stale in self.parts.parent.iterdir():
                if stale != self.parts:
                    shutil.rmtree(stale)
        self.parts.mkdir(parents=True, exist_ok=True)
        numbers = range(-(-total // CHUNK))
        todo = [n for n in numbers if not self._part(n).exists()]
        done = total - sum(len(self._rows(n)) for n in todo)
        on_progress(self.name, done, total)
        rows = (row for n in todo for row in self._rows(n))
        images = self._encoded(rows, workers)
        try:
            for n in todo:
                batch = []
                for _ in self._rows(n):
                    batch.append(next(images))
                    done += 1
                    on_progress(self.name, done, total)
                self._write_part(n, batch)
        finally:
            images.close()
        report = self._join(numbers)
        shutil.rmtree(self.parts.parent)
        return report

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.arrow"

    def _batch(self, number: int) -> Any:
        pa = arrow()
        return pa.ipc.open_file(pa.memory_map(arrow_path(self._part(number)))).get_batch(0)

    def _rows(self, number: int) -> range:
        return range(number * CHUNK, min((number + 1) * CHUNK, len(self.photos)))

    def _encoded(self, rows: Iterator[int], workers: int) -> Generator[Encoded]:
        """In order, worked out by threads a little ahead: the decoder, the resize and the encoder run in parallel."""
        pending: deque[Future[Encoded]] = deque()
        with ThreadPoolExecutor(workers, "prepare") as pool:
            try:
                for row in rows:
                    pending.append(pool.submit(encode, self.photos, row, self.side, self.quality, self.upright))
                    if len(pending) >= 8 * workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _write_part(self, number: int, images: list[Encoded]) -> None:
        pa = arrow()
        good = [i for i in images if i.bad is None]
        # Sums of whole numbers, exact in whatever order they are made.
        mean_image = np.zeros((self.side, self.side, 3), dtype=np.int64)
        products = np.zeros((3, 3), dtype=np.int64)
        for image in good:
            assert image.pixels is not None
            assert image.products is not None
            mean_image += image.pixels
            products += image.products
        notes = {
            "bad": [[i.source, i.bad] for i in images if i.bad is not None],
            "converted": [[i.source, i.converted] for i in good if i.converted is not None],
        }
        metadata = {
            b"notes": json.dumps(notes).encode(),
            b"sums": mean_image.tobytes(),
            b"products": products.tobytes(),
        }
        table = pa.record_batch(
            [
                [i.jpeg for i in good],
                [i.label for i in good],
                [i.source for i in good],
                [zlib.crc32(i.jpeg) for i in good],
            ],
            schema=schema({}),
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema(metadata)) as writer:
            writer.write_batch(table)
        write_atomically(self._part(number), sink.getvalue())

    def _join(self, numbers: range) -> dict[str, Any]:
        """One file from the parts, which are removed only when it is complete."""
        pa = arrow()
        mean_image = np.zeros((self.side, self.side, 3), dtype=np.int64)
        products = np.zeros((3, 3), dtype=np.int64)
        report: dict[str, Any] = {"images": 0, "bytes": 0, "bad": [], "converted": []}
        for n in numbers:
            part = pa.ipc.open_file(pa.memory_map(arrow_path(self._part(n))))
            metadata, batch = part.schema.metadata, part.get_batch(0)
            mean_image += np.frombuffer(metadata[b"sums"], dtype=np.int64).reshape(mean_image.shape)
            products += np.frombuffer(metadata[b"products"], dtype=np.int64).reshape(3, 3)
            notes = json.loads(metadata[b"notes"])
            report["bad"] += notes["bad"]
            report["converted"] += notes["converted"]
            report["images"] += batch.num_rows
            report["bytes"] += batch.column(0).nbytes
        if not len(self.photos):
            raise DataError(f"the {self.name} split holds no images.")
        if report["images"] == 0:
            raise DataError(f"none of the {len(self.photos)} {self.name} images can be read: {report['bad'][0]}.")
        mean = mean_image / report["images"]
        stream = io.BytesIO()
        np.save(stream, mean.astype(np.float32))
        described = self.described | {
            "report": report,
            "statistics": _statistics(mean, products, report["images"] * self.side**2),
        }
        metadata = signed(
            {b"alexnet": json.dumps(described, sort_keys=True).encode(), b"mean_image": stream.getvalue()},
            (self._batch(n) for n in numbers),
        )
        with (
            replacing(self.path) as partial,
            pa.OSFile(arrow_path(partial), "wb") as sink,
            pa.ipc.new_file(sink, schema(metadata)) as writer,
        ):
            for n in numbers:
                batch = self._batch(n)
                if batch.num_rows:
                    writer.write_batch(batch.replace_schema_metadata(metadata))
        return report


def _statistics(
    mean_image: NDArray[np.float64], products: NDArray[np.int64], pixels: int
) -> dict[str, list[float] | list[list[float]]]:
    """Mean and deviation per channel on the 0-1 scale; the RGB covariance's eigen-decomposition on 0-255 (section 4.1),
    eigenvalues ascending, eigenvectors in columns."""
    mean = mean_image.mean(axis=(0, 1))
    covariance = products / pixels - np.outer(mean, mean)
    values, vectors = principal_axes(covariance)
    return {
        "mean": (mean / 255).tolist(),
        "std": np.maximum(np.sqrt(np.diag(covariance)) / 255, 1 / 255).tolist(),
        "covariance": covariance.tolist(),
        "eigenvalues": values.tolist(),
        "eigenvectors": vectors.tolist(),
        "colour_axes": (vectors * np.sqrt(values)).tolist(),
    }
