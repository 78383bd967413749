"""A split made ready for a device, whichever kind it is."""

from __future__ import annotations

import torch

from alexnet.config import DataConfig
from alexnet.data.augment import Preprocessing
from alexnet.data.batches import Loader
from alexnet.data.photos import Photos
from alexnet.data.resident import ResidentSplit
from alexnet.data.splits import Split
from alexnet.data.streamed import StreamedSplit


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
