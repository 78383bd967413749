"""Images with what a network answers to them and their nearest neighbours: what the paper's figure 4 shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet.config import TrainConfig
from alexnet.data.images import as_views, find_images, read_picture
from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.splits import Split
from alexnet.figures import Image
from alexnet.figures.neighbours import Retrieval
from alexnet.figures.predictions import Answer
from alexnet.inference.evaluation import Subject, open_subject
from alexnet.inference.forward import BATCH, layer_outputs
from alexnet.inference.neighbours import find_nearest, hidden_layer, split_features, split_pixels
from alexnet.models.network import AlexNet
from alexnet.runs.folder import Run

if TYPE_CHECKING:
    from alexnet.data.splits import Labels


def retrieve(
    target: Run | str | Path,
    images: Sequence[str | Path] = (),
    *,
    queries: int = 8,
    neighbours: int = 6,
    split: str | None = None,
    index: str = "train",
    seed: int = 0,
    config: TrainConfig | None = None,
    data: dict[str, Any] | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> list[Retrieval]:
    """Images with their five most probable classes and their nearest neighbours by the last hidden layer (squared
    Euclidean distance of its raw outputs, as findsimilar.py of the released code).

    The images are files, folders or patterns, or without these `queries` of the split called `split` (without a name
    test, or val where there is none), drawn by a seed. Neighbours come from the split called `index`, an image itself
    left out. The other arguments are those of `evaluate`. Raises UsageError, DataError or CheckpointError.
    """
    subject = open_subject(target, index, config=config, data=data, device=device)
    assert isinstance(subject.model, AlexNet)
    chosen, names = subject.dataset.split(index)[1], subject.dataset.names
    asked = _read_files(subject, images) if images else _draw(subject, split, queries, seed)
    hidden, output = hidden_layer(subject.model), list(dict(subject.model.named_children()))[-1]
    with torch.inference_mode(), subject.compute.settings():
        found = list(layer_outputs(subject.model, asked.batch.split(BATCH), [hidden, output], subject.compute))
        best = torch.cat([part[output] for part in found]).softmax(dim=1).topk(min(5, len(names)))
        features = torch.cat([part[hidden].flatten(1) for part in found])
        searched = split_features(subject.model, subject.loader, subject.compute, hidden, skip_bad=skip_bad)
        nearest = find_nearest(features, searched, neighbours + 1)  # one may be the image itself
    read = np.setdiff1d(np.arange(len(chosen)), list(subject.loader.bad))  # what could not be read has no features
    retrieved = []
    for number, image in enumerate(asked.shown):
        own = asked.rows[number] if asked.split == subject.split else None
        rows = np.array([row for row in read[nearest.rows[number]] if row != own][:neighbours], dtype=np.int64)
        bars = zip(best.indices[number].tolist(), best.values[number].tolist(), strict=True)
        answer = Answer(image, [(names[k], p) for k, p in bars], asked.titles[number], asked.truths[number])
        near = _show(subject, chosen.take(rows)) if len(rows) else []
        retrieved.append(Retrieval(answer, list(zip(near, _name(subject, chosen.labels[rows]), strict=True))))
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


def _read_files(subject: Subject, images: Sequence[str | Path]) -> _Queries:
    """Files, whose folders may bear the names of classes."""
    prep, trained = subject.loader.prep, subject.trained
    channels = subject.dataset.train.channels
    pictures = [read_picture(path, channels) for path in find_images(images)]
    folders = [picture.path.absolute().parent.name for picture in pictures]
    return _Queries(
        torch.stack([as_views(picture, prep)[0] for picture in pictures]),
        [picture.pixels for picture in pictures],
        [picture.path.name for picture in pictures],
        [trained.known_class(folder) if trained else None for folder in folders],
    )


def _draw(subject: Subject, split: str | None, count: int, seed: int) -> _Queries:
    """Images of a split, drawn by a seed, in the order of its rows."""
    name, chosen = subject.dataset.split(split)
    rows = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:count])
    part = chosen.take(rows)
    loader = open_split(part, subject.compute.device, subject.loader.data, subject.loader.prep)
    batch = torch.cat([views[:, 0] for views, _ in loader.evaluation_batches(BATCH)])
    titles, truths = [f"{name} {row}" for row in rows.tolist()], _name(subject, part.labels)
    return _Queries(batch, _show(subject, part), titles, list(truths), name, rows.tolist())


def _name(subject: Subject, labels: Labels) -> list[str]:
    return [subject.dataset.names[label] for label in labels.tolist()]


def _show(subject: Subject, split: Split | Photos) -> list[Image]:
    """The pixels of a split's images as the network gets them."""
    pixels = split_pixels(split, subject.loader.prep, subject.loader.data)
    return [image.permute(1, 2, 0).numpy() for image in pixels]
