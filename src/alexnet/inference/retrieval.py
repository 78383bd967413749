"""Images with what a network answers to them and their nearest neighbours: what the paper's figure 4 shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from alexnet.config import TrainConfig
from alexnet.data.images import Picture, as_views, central_square, find_images, read_picture
from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.splits import Split, draw_rows
from alexnet.errors import DataError, UsageError
from alexnet.figures import Image
from alexnet.figures.bitmaps import shrink
from alexnet.figures.neighbours import Retrieval
from alexnet.figures.predictions import SIDE, Answer
from alexnet.inference.evaluation import Subject, open_subject
from alexnet.inference.forward import BATCH, layer_outputs
from alexnet.inference.neighbours import find_nearest, hidden_layer, split_features, split_pixels
from alexnet.models.network import AlexNet
from alexnet.runs.folder import Run

if TYPE_CHECKING:
    from alexnet.data.splits import Labels

QUERIES = 8  # images of a split, where nobody says how many
MOST = 20  # rows that can be looked at in one figure


def retrieve(
    target: Run | str | Path,
    images: Sequence[str | Path] = (),
    *,
    queries: int | None = None,
    neighbours: int = 6,
    split: str | None = None,
    index: str | Path = "train",
    seed: int | None = None,
    config: TrainConfig | None = None,
    data: dict[str, Any] | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> list[Retrieval]:
    """Images with their five most probable classes and their nearest neighbours by the last hidden layer (squared
    Euclidean distance of its raw outputs, as findsimilar.py of the released code).

    The images are files, folders or patterns, at most 20 images, or without these `queries` (8) of the split called
    `split` (test, or val where there is none), drawn by `seed` (0). Neighbours come from the split called `index`,
    train, val or test, or from the image files of a folder, an image itself left out (of a folder where it was named as
    a file). They are searched exactly and in one pass, so that their features need not fit into memory. The other
    arguments are those of `evaluate`. Raises UsageError, DataError or CheckpointError.
    """
    drawing = {"--queries": queries, "--split": split, "--seed": seed}
    given = [flag for flag, value in drawing.items() if value is not None]
    if images and given:
        flags = " and ".join(given)
        raise UsageError(f"{images[0]} is to be drawn, so {flags} can choose no images: leave out one of both")
    paths = find_images(images) if images else []
    if len(paths) > MOST:
        raise UsageError(f"{len(paths)} images were named, and a figure has room for {MOST}: name fewer.")
    files = None if index in ("train", "val", "test") else find_images([index])
    subject = open_subject(target, None if files else str(index), config=config, data=data, device=device)
    assert isinstance(subject.model, AlexNet)
    names = subject.dataset.names
    known: _Known = _Files(subject, files, skip_bad) if files else _Rows(subject, skip_bad)
    asked = (
        _read_files(subject, paths, skip_bad)
        if paths
        else _draw(subject, split, queries or QUERIES, seed or 0, skip_bad)
    )
    hidden, output = hidden_layer(subject.model), list(dict(subject.model.named_children()))[-1]
    with torch.inference_mode(), subject.compute.settings():
        found = list(layer_outputs(subject.model, asked.batch.split(BATCH), [hidden, output], subject.compute))
        best = torch.cat([part[output] for part in found]).softmax(dim=1).topk(min(5, len(names)))
        features = torch.cat([part[hidden].flatten(1) for part in found])
        searched = known.features(hidden) if neighbours else ()  # which may be all of ImageNet
        nearest = find_nearest(features, searched, neighbours + 1)  # one may be the image itself
    retrieved = []
    for number, image in enumerate(asked.shown):
        own = known.own(asked, number)
        rows = [row for row in known.read()[nearest.rows[number]].tolist() if row != own][:neighbours]
        bars = zip(best.indices[number].tolist(), best.values[number].tolist(), strict=True)
        answer = Answer(image, [(names[k], p) for k, p in bars], asked.titles[number], asked.truths[number])
        retrieved.append(Retrieval(answer, known.show(rows) if rows else []))
    return retrieved


class _Queries(NamedTuple):
    """Images to ask about: as the network takes them [Q, C, size, size], to be shown, with titles and, where they are
    known, their classes; and their rows in the split that they are of."""

    batch: Tensor
    shown: list[Image]
    titles: list[str]
    truths: list[str | None]
    split: str | None = None
    rows: Sequence[int] = ()
    files: Sequence[Path] = ()


class _Known(Protocol):
    """The images that neighbours are looked for among, by their rows."""

    def features(self, layer: str) -> Iterator[Tensor]:
        """What a layer answers to all that can be read, in batches [B, D]."""

    def read(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The rows that have features, in order, once these were made."""

    def own(self, asked: _Queries, number: int) -> int | None:
        """The row that is a query itself."""

    def show(self, rows: list[int]) -> list[tuple[Image, str]]:
        """The pixels of some, each with the name of its class."""


@dataclass(frozen=True)
class _Rows:
    """Those of the split that a subject was opened with."""

    subject: Subject
    skip_bad: bool

    def features(self, layer: str) -> Iterator[Tensor]:
        assert isinstance(self.subject.model, AlexNet)
        opened = self.subject.model, self.subject.loader, self.subject.compute
        return split_features(*opened, layer, skip_bad=self.skip_bad)

    def read(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return self.subject.loader.readable()

    def own(self, asked: _Queries, number: int) -> int | None:
        return asked.rows[number] if asked.split == self.subject.split else None

    def show(self, rows: list[int]) -> list[tuple[Image, str]]:
        chosen = self.subject.dataset.split(self.subject.split)[1].take(np.array(rows, dtype=np.int64))
        return list(zip(_show(self.subject, chosen), _name(self.subject, chosen.labels), strict=True))


@dataclass
class _Files:
    """Image files, whose folders name their classes."""

    subject: Subject
    paths: list[Path]
    skip_bad: bool

    def __post_init__(self) -> None:
        self._bad: set[int] = set()

    def features(self, layer: str) -> Iterator[Tensor]:
        assert isinstance(self.subject.model, AlexNet)
        for found in layer_outputs(self.subject.model, self._batches(), [layer], self.subject.compute):
            yield found[layer].flatten(1)

    def _batches(self) -> Iterator[Tensor]:
        for start in range(0, len(self.paths), BATCH):
            views = []
            for row in range(start, min(start + BATCH, len(self.paths))):
                try:
                    views.append(as_views(self._picture(row), self.subject.loader.prep)[0])
                except DataError:
                    if not self.skip_bad:
                        raise
                    self._bad.add(row)
            if views:
                yield torch.stack(views)

    def _picture(self, row: int) -> Picture:
        return read_picture(self.paths[row], self.subject.dataset.train.channels)

    def read(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.setdiff1d(np.arange(len(self.paths)), list(self._bad))

    def own(self, asked: _Queries, number: int) -> int | None:
        if not asked.files:
            return None
        place = asked.files[number].resolve()
        return next((row for row, path in enumerate(self._places) if path == place), None)

    @cached_property
    def _places(self) -> list[Path]:
        return [path.resolve() for path in self.paths]

    def show(self, rows: list[int]) -> list[tuple[Image, str]]:
        prep = self.subject.loader.prep
        shown = []
        for row in rows:
            picture, folder = self._picture(row), self._places[row].parent.name
            name = self.subject.trained.known_class(folder) if self.subject.trained else None
            shown.append((central_square(picture.pixels, prep, prep.size), name or folder))
        return shown


def _read_files(subject: Subject, paths: Sequence[Path], skip_bad: bool) -> _Queries:
    """Files, whose folders may bear the names of classes; with `skip_bad` without those that cannot be read. Raises
    DataError at one, and where none is left."""
    prep, trained = subject.loader.prep, subject.trained
    channels = subject.dataset.train.channels
    pictures = []
    for path in paths:
        try:
            pictures.append(read_picture(path, channels))
        except DataError:
            if not skip_bad:
                raise
    if not pictures:
        raise DataError(f"none of the {len(paths)} images that were named can be read.")
    folders = [picture.path.absolute().parent.name for picture in pictures]
    return _Queries(
        torch.stack([as_views(picture, prep)[0] for picture in pictures]),
        [shrink(picture.pixels, SIDE) for picture in pictures],
        [picture.path.name for picture in pictures],
        [trained.known_class(folder) if trained else None for folder in folders],
        files=[picture.path for picture in pictures],
    )


def _draw(subject: Subject, split: str | None, count: int, seed: int, skip_bad: bool) -> _Queries:
    """Images of a split, drawn by a seed, in the order of its rows; with `skip_bad` without those that cannot be read.
    Raises DataError at one, and where none is left."""
    name, chosen = subject.dataset.split(split)
    rows = draw_rows(len(chosen), count, seed)
    part = chosen.take(rows)
    loader = open_split(part, subject.compute.device, subject.loader.data, subject.loader.prep)
    batches = [views[:, 0] for views, _ in loader.evaluation_batches(BATCH, skip_bad=skip_bad)]
    good = loader.readable()
    if not len(good):
        raise DataError(f"none of the images that were drawn from {name} can be read: --seed draws others.")
    batch, part, rows = torch.cat(batches), part.take(good), rows[good]
    titles, truths = [f"{name} {row}" for row in rows.tolist()], _name(subject, part.labels)
    return _Queries(batch, _show(subject, part), titles, list(truths), name, rows.tolist())


def _name(subject: Subject, labels: Labels) -> list[str]:
    return [subject.dataset.names[label] for label in labels.tolist()]


def _show(subject: Subject, split: Split | Photos) -> list[Image]:
    """The pixels of a split's images as the network gets them."""
    pixels = split_pixels(split, subject.loader.prep, subject.loader.data)
    return [image.permute(1, 2, 0).numpy() for image in pixels]
