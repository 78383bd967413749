"""The training images that a picture is nearest to in a network's eyes: their features, made once and kept."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading import open_split
from alexnet.data.splits import draw_rows
from alexnet.figures.bitmaps import thumbnail
from alexnet.files import write_atomically
from alexnet.inference.evaluation import fit_classes
from alexnet.inference.neighbours import find_nearest, split_features, split_pixels
from alexnet.inference.pictures import open_data
from alexnet.page.viewer import Viewer
from alexnet.runs.folder import Run

MOST = 20_000
"""Images that are indexed; of a larger training split as many, drawn by a fixed seed."""
NEAREST = 6
CHUNK = 1024  # features compared at a time


class Index:
    """The last hidden layer's answers [N, D] to training images, float16, and the images themselves.

    They are made by going through `batches`, and kept in the run's folder under a name that says of which weights and
    data they are.
    """

    def __init__(self, run: Run, viewer: Viewer, root: str | None = None) -> None:
        """Open the run's data. Raises UsageError, DataError or CheckpointError where it is not to be had."""
        config, dataset = open_data(viewer.trained, {"root": root} if root is not None else None)
        dataset = fit_classes(viewer.trained, dataset)
        self._viewer, self._data = viewer, config.data
        self.total = len(dataset.train)
        rows = draw_rows(self.total, MOST)
        self._split, self._names = dataset.train.take(rows), dataset.names
        identity = [viewer.trained.sha256, dataset.fingerprint, MOST]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self.file = run.path / "page" / f"neighbours-{name}.npz"
        self.done = 0
        self._features, self._rows = _read(self.file, len(self._split))
        self.ready = len(self._features) > 0

    def __len__(self) -> int:
        return len(self._split)

    def batches(self) -> Iterator[int]:
        """Make the features, a batch at each step, which tells how many are done; after the last one they are kept."""
        compute = self._viewer.compute
        loader = open_split(self._split, compute.device, self._data, self._viewer.trained.preprocessing)
        parts: list[Tensor] = []
        with compute.settings():
            for features in split_features(self._viewer.trained.model, loader, compute, skip_bad=True):
                parts.append(features.half().cpu())
                self.done += len(features)
                yield self.done
        self._features = torch.cat(parts).numpy()
        self._rows = loader.readable()
        content = io.BytesIO()
        np.savez(content, features=self._features, rows=self._rows)
        self.ready = True
        try:
            self.file.parent.mkdir(exist_ok=True)
            write_atomically(self.file, content.getbuffer())
            for other in set(self.file.parent.glob("neighbours-*.npz")) - {self.file}:  # of earlier weights or data
                other.unlink(missing_ok=True)
        except OSError:  # a folder that may not be written: the next start makes them again
            return

    def nearest(self, features: Tensor) -> list[dict[str, Any]]:
        """The training images nearest to a picture by its features [1, D], nearest first: their classes, places and
        pictures."""
        parts = (
            torch.from_numpy(part).float() for part in np.array_split(self._features, -(-len(self._features) // CHUNK))
        )
        found = find_nearest(features.cpu(), parts, NEAREST)
        rows = self._rows[found.rows[0]]
        near = self._split.take(rows)
        pixels = split_pixels(near, self._viewer.trained.preprocessing, self._data)
        return [
            {
                "name": self._names[label],
                "place": str(place),
                "distance": float(distance) ** 0.5,
                "picture": thumbnail(image.permute(1, 2, 0).numpy(), 160),
            }
            for label, place, distance, image in zip(
                near.labels.tolist(), near.places(np.arange(len(near))), found.distances[0], pixels, strict=True
            )
        ]


Features = np.ndarray[Any, np.dtype[np.float16]]
Rows = np.ndarray[Any, np.dtype[np.int64]]


def _read(file: Path, count: int) -> tuple[Features, Rows]:
    """Features and rows as they were kept; none where there is no such file or a damaged one."""
    none = np.zeros((0, 0), np.float16), np.zeros(0, np.int64)
    try:
        with np.load(file, allow_pickle=False) as kept:
            features, rows = kept["features"], kept["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return none
    sound = features.ndim == 2 and features.dtype == np.float16 and rows.shape == features.shape[:1]
    sound = sound and rows.dtype == np.int64 and len(rows) > 0 and rows.min() >= 0 and rows.max() < count
    return (features, rows) if sound else none
