"""A split made ready for a device, whichever kind it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alexnet.config import DataConfig
from alexnet.data.augment import Preprocessing
from alexnet.data.batches import Loader
from alexnet.data.photos import Photos
from alexnet.data.resident import ResidentSplit
from alexnet.data.splits import Split
from alexnet.data.streamed import StreamedSplit

PIECE = 100  # images cut at a time


def open_split(
    split: Split | Photos, device: torch.device, data: DataConfig, prep: Preprocessing | None = None
) -> Loader:
    """A loader of a split, cut as `data` says.

    `prep` is the preprocessing of the training split or of a trained network; without it this is a training split,
    whose own statistics count where none are configured. Raises UsageError if the two do not fit.
    """
    if isinstance(split, Photos):
        return StreamedSplit(split, device, data, prep)
    return ResidentSplit(split, device, data, prep)


def typical_images(train: Split | Photos, data: DataConfig, prep: Preprocessing, count: int) -> Tensor:
    """So many images of all parts of the training split (folders come class by class), always the same, as evaluation
    shows them: float32 [count, C, size, size] on the CPU, fewer where there are fewer or some cannot be read."""
    rows = np.linspace(0, len(train) - 1, min(len(train), count)).astype(np.int64)
    loader = open_split(train.take(rows), torch.device("cpu"), data, prep)
    return torch.cat([images[:, 0] for images, _ in loader.evaluation_batches(PIECE, skip_bad=True)])
