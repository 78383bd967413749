"""Images in a fixed order for one network: those of a split, or files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alexnet.compute import Compute, resolve_compute
from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.data.images import find_images
from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Dataset, Split
from alexnet.errors import UsageError
from alexnet.inference.features import BATCH, read_batches
from alexnet.inference.trained import Trained, open_trained, weights_file
from alexnet.models.network import AlexNet
from alexnet.runs.folder import Run
from alexnet.runs.provenance import describe_data, describe_weights


@dataclass(frozen=True)
class Pictures:
    """Images in a fixed order with the network that looks at them; none is read before it is asked for."""

    network: AlexNet
    compute: Compute
    places: list[int | str]
    """Where each image comes from: a file, or its number in the published files."""
    described: dict[str, Any]
    """Which weights, which images, and how these are prepared."""
    batches: Callable[[int], Iterator[Tensor]]
    """Normalised images [B, C, size, size] from a row on, BATCH rows at a time, without those that are in `bad`."""
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    classes: tuple[str, ...] = ()
    """What the labels stand for."""
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that could not be read so far, each with the reason."""

    def __len__(self) -> int:
        return len(self.places)


def split_pictures(
    target: Run | str | Path,
    split: str | None = None,
    *,
    data: dict[str, Any] | None = None,
    model: str | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> Pictures:
    """The images of a split (train, val or test; without a name the one that results are reported on) for a run, a
    checkpoint, a weights file or "torchvision", prepared as the network was trained.

    `data` replaces single fields of the data settings that a run or checkpoint brings; weights that bring none need
    {"source": ...}. The classes need not be the network's. Images that cannot be read raise DataError when they are
    reached, unless `skip_bad`. Raises UsageError, DataError or CheckpointError.
    """
    file = weights_file(target)
    trained = open_trained(file, model)
    config, dataset = open_data(trained, data)
    name, chosen = dataset.split(split)
    compute = resolve_compute(device, "fp32")
    loader = open_split(chosen, compute.device, config.data, trained.preprocessing)
    _check_fit(chosen, trained)

    def batches(start: int) -> Iterator[Tensor]:
        return (views[:, 0] for views, _ in loader.evaluation_batches(BATCH, 1, slice(start, None), skip_bad))

    described = {
        "weights": describe_weights(file, trained.sha256, trained.epoch),
        "network": trained.network,
        "images": {**describe_data(config, dataset), "images": len(chosen), "split": name},
        "preprocessing": trained.preprocessing.of_one_view(),
    }
    places = chosen.places(np.arange(len(chosen)))
    return Pictures(trained.model, compute, places, described, batches, chosen.labels, dataset.classes, loader.bad)


def open_data(trained: Trained, data: dict[str, Any] | None) -> tuple[TrainConfig, Dataset]:
    """The data that a network was trained on, with single fields of its settings replaced, or other data. Raises
    UsageError where neither says which, and DataError."""
    if trained.config is None and not (data or {}).get("source"):
        raise UsageError(f"{trained.origin} does not say what data it was trained on: name some with --data.source.")
    config = override(trained.config or TrainConfig(), {"data": data or {}})
    return config, load_dataset(config.data)


def _check_fit(images: Split | Photos, trained: Trained) -> None:
    """Raise UsageError for images that the network's preprocessing cannot cut to what it takes."""
    channels, prep = trained.model.variant.in_channels, trained.preprocessing
    if images.channels != channels:
        raise UsageError(f"{trained.origin} takes images of {channels} channel(s), these have {images.channels}.")
    if isinstance(images, Split) and prep.resize is None and min(images.images.shape[2:]) < prep.size:
        raise UsageError(
            f"{trained.origin} takes images of {prep.size} pixels, these have {min(images.images.shape[2:])}."
        )


def file_pictures(
    target: Run | str | Path,
    images: Sequence[str | Path] | str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
) -> Pictures:
    """Image files, folders or patterns, known by their names and sizes, for a run, a checkpoint, a weights file or
    "torchvision". Raises UsageError, DataError or CheckpointError."""
    paths = find_images(images)
    file = weights_file(target)
    trained = open_trained(file, model)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(json.dumps([str(path), path.stat().st_size]).encode())
    described = {
        "weights": describe_weights(file, trained.sha256, trained.epoch),
        "network": trained.network,
        "images": {"source": "files", "fingerprint": digest.hexdigest(), "images": len(paths), "split": None},
        "preprocessing": trained.preprocessing.of_one_view(),
    }
    compute = resolve_compute(device, "fp32")
    places: list[int | str] = [str(path) for path in paths]
    return Pictures(trained.model, compute, places, described, lambda start: read_batches(paths[start:], trained))
