"""Photographs: decoded by threads a little ahead of the network, then cut and augmented on the device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet.compute import usable_cores
from alexnet.config import DataConfig
from alexnet.config.colours import IMAGENET
from alexnet.config.data import CROP, RESIZE
from alexnet.data.augment import (
    ColourNoise,
    Preprocessing,
    central_views,
    random_crops,
)
from alexnet.data.batches import Batch, Loader, Steps
from alexnet.data.decode import BadImageError, Pixels, RandomArea, Square
from alexnet.data.photos import Photos
from alexnet.data.seeds import mixed_seed
from alexnet.data.sources import turned_upright
from alexnet.errors import DataError, UsageError

AHEAD = 2  # batches decoded before they are asked for, at least
PIECE = 8  # images a thread takes at a time


class _Kept:
    """Decoded squares of a split, the first that come, as many as fit into so much memory, which is taken then."""

    def __init__(self, rows: int, side: int, memory: float) -> None:
        fitting = min(rows, int(memory // (3 * side**2)))
        self._squares = np.empty((fitting, side, side, 3), dtype=np.uint8)
        self._places = np.full(rows, -1)
        self._free = iter(range(fitting))
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes, once all are kept."""
        return self._squares.nbytes

    def get(self, row: int) -> Pixels | None:
        """A square that was kept."""
        place = self._places[row]
        return None if place < 0 else self._squares[place]

    def put(self, row: int, square: Pixels) -> None:
        """Keep a square [side, side, 3] if there is room."""
        with self._lock:
            place = next(self._free, None)
        if place is not None:
            self._squares[place] = square
            self._places[row] = place


class StreamedSplit(Loader):
    """Photographs for one device. Threads, not processes: decoding and resizing release Python's lock, a batch is
    written where it is used, and there is nothing to start, to copy or to be killed."""

    decodes = True

    def __init__(
        self, photos: Photos, device: torch.device, data: DataConfig, prep: Preprocessing | None = None
    ) -> None:
        super().__init__(device, data)
        self.photos = photos
        self.workers = data.workers or min(usable_cores(), 16)
        self.labels = torch.from_numpy(photos.labels)
        self._kept: dict[Square, _Kept] = {}
        self.prep = prep or self._preprocessing()
        self.resize = self.prep.short_side
        side, resize = photos.store.side, self.resize
        if side is not None and side < resize:
            crop = min(data.crop or CROP, side * CROP // RESIZE)
            raise UsageError(
                f"{'this network sees photographs of' if prep else '--data.resize'} {resize} pixels: these were "
                f"prepared at {side}; prepare them again with --side {resize}"
                f"{'' if prep else f', or use --data.resize {side} --data.crop {crop}'}."
            )
        prepared = photos.store.upright
        self.upright = turned_upright(data, prepared) if self.prep.upright is None else self.prep.upright
        if prepared not in (None, self.upright):
            asked, found = ("apply" if turn else "ignore" for turn in (self.upright, prepared))
            mend = f"prepare them again with --data.orientation {asked}"
            raise UsageError(
                f"these photographs were prepared with --data.orientation {found}, and this network "
                f"{'sees' if prep else 'would see'} them with {asked}: {mend}"
                f"{'' if prep else f', or use --data.orientation {found}'}."
            )

    def __len__(self) -> int:
        return len(self.photos)

    def _preprocessing(self) -> Preprocessing:
        """Without configured statistics the prepared set's own, or ImageNet's where there is none."""
        data = self.data
        resize, size = data.resize or RESIZE, data.crop or CROP
        if size > resize:
            raise UsageError(
                f"--data.crop {size} is larger than photographs of --data.resize {resize}: lower the one or raise the "
                "other."
            )
        self.check_channels(3)
        store = self.photos.store
        own = store.statistics or IMAGENET
        return Preprocessing(
            *(size, resize, data.mean or own.mean, data.std or own.std),
            upright=turned_upright(data, store.upright),
            pad=data.pad,
            mean_image=_centre(store.mean_image, resize, size) if data.mean_image else None,
        )

    def training_batches(self, steps: Steps) -> Iterator[Batch]:
        data, prep = self.data, self.prep
        plan = self.plan(steps.seed, steps.epoch, torch.device("cpu"))
        batches = list(plan.order.split(steps.batch_size))[steps.start :]
        cut = self.training_cut(steps.seed, steps.epoch)
        decoded = self._decoded((rows[steps.shard] for rows in batches), cut)
        for (pixels, rows), whole in zip(decoded, batches, strict=True):
            crops = random_crops(pixels, self._send(plan.draws[rows]), prep.size, data.pad, data.flip)
            shift = plan.shift(rows)
            images = prep.normalise(crops, None if shift is None else self._send(shift), plan.divisor)
            yield Batch(images, self._send(self.labels[rows]), whole)

    def training_cut(self, seed: int, epoch: int) -> RandomArea | Square:
        """What the threads do to a training image: all that the crop on the device needs, and no more."""
        if self.data.random_resized_crop:
            return RandomArea(self.prep.size, self.data.min_area, mixed_seed(seed, epoch, 1), self.upright)
        return Square(self.resize, self.resize, self.prep.size, exact=False, upright=self.upright)

    def evaluation_cut(self, views: int = 1) -> Square:
        """Likewise in evaluation: the central crop, or the square that the paper's ten views are cut from."""
        size, resize = self.prep.size, self.resize
        return Square(resize, size if views <= 2 else resize, size, upright=self.upright)

    def noise(self) -> ColourNoise | None:
        """Along the axes of the prepared set, or ImageNet's."""
        if not self.data.colour_noise:
            return None
        axes = (self.photos.store.statistics or IMAGENET).colour_axes
        return ColourNoise(self.data.colour_noise, self.data.noise_probability, axes, self.data.noise_divisor)

    def sides(self) -> tuple[int, int]:
        return self.resize, self.resize

    def evaluation_batches(
        self, batch_size: int, views: int = 1, shard: slice = slice(None), skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = torch.arange(len(self))[shard].split(batch_size)
        for pixels, rows in self._decoded(batches, self.evaluation_cut(views)):
            if self.bad and not skip_bad:
                raise DataError(
                    f"{self.bad[min(self.bad)]} Replace or remove it, or leave it out with --skip-bad, which evaluate, "
                    "compare, features, report and figure have."
                )
            yield self.prep.views(pixels, views), self._send(self.labels[rows])

    def _send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, which need not have worked off its queue before."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _decoded(self, batches: Iterable[Tensor], cut: RandomArea | Square) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of rows to uint8 [B, 3, side, side] on the device (in channels_last) and the rows that could be read,
        decoded AHEAD batches early, or as many small ones as give every thread two pieces."""
        pin = self.device.type == "cuda"
        kept = self._keep(cut)

        def fill(batch: Pixels, rows: Tensor, first: int) -> list[int]:
            """Decode a piece of a batch; the positions of those that cannot be read."""
            bad = []
            for at, row in enumerate(rows.tolist(), first):
                try:
                    square = kept.get(row)
                    if square is None:
                        square = cut(self.photos.read(row), row)
                        kept.put(row, square)
                    batch[at] = square
                except DataError as problem:
                    said = problem.at(self.photos.place(row)) if isinstance(problem, BadImageError) else problem
                    self.bad[row] = str(said).rstrip(".") + "."
                    bad.append(at)
            return bad

        with _quiet_threads(self.workers) as pool:
            pending: deque[tuple[Tensor, Tensor, list[Future[list[int]]]]] = deque()
            try:
                for rows in batches:
                    with torch.inference_mode(False):  # evaluation's mode does not hold in the threads
                        batch = torch.empty(len(rows), cut.side, cut.side, 3, dtype=torch.uint8, pin_memory=pin)
                    pieces = enumerate(rows.split(PIECE))
                    jobs = [pool.submit(fill, batch.numpy(), piece, first * PIECE) for first, piece in pieces]
                    pending.append((batch, rows, jobs))
                    if len(pending) > max(AHEAD, -(-2 * self.workers * PIECE // max(1, len(rows)))):
                        yield self._collect(*pending.popleft())
                while pending:
                    yield self._collect(*pending.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _keep(self, cut: RandomArea | Square) -> _Kept:
        """Where squares that are cut so are kept: nowhere the first time, which is often the only one."""
        nowhere = _Kept(len(self), cut.side, 0)
        if not isinstance(cut, Square):
            return nowhere
        if cut in self._kept and not self._kept[cut].size:
            memory = self.data.cache * 2**30 - sum(kept.size for kept in self._kept.values())
            self._kept[cut] = _Kept(len(self), cut.side, memory)
        return self._kept.setdefault(cut, nowhere)

    def _collect(self, batch: Tensor, rows: Tensor, jobs: list[Future[list[int]]]) -> tuple[Tensor, Tensor]:
        bad = [at for job in jobs for at in job.result()]
        if bad:
            good = torch.ones(len(rows), dtype=torch.bool)
            good[bad] = False
            batch, rows = batch[good], rows[good]
        return batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2), rows


def _centre(mean_image: NDArray[np.float32] | None, resize: int, size: int) -> Tensor | None:
    """The part of a mean image [side, side, 3] that a central crop of `size` sees after a resize, [3, size, size]."""
    if mean_image is None:
        return None
    planes = torch.from_numpy(mean_image).permute(2, 0, 1)[None]
    if planes.shape[-1] != resize:
        planes = F.interpolate(planes, (resize, resize), mode="bilinear", antialias=True)
    return central_views(planes, size)[0, 0].contiguous()


def _quiet_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core each.

    `set_num_threads` holds for the calling thread and for threads that begin later, so it is set in each of them and
    then again here.
    """
    ready = threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # or this thread's first operation would take over the number set last anywhere
        with suppress(threading.BrokenBarrierError):
            ready.wait()

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "decode")
    try:
        for _ in range(count):
            pool.submit(begin)
        ready.wait()
    finally:  # also when a signal struck here: no thread is left waiting
        ready.abort()
        torch.set_num_threads(threads)
    return pool
