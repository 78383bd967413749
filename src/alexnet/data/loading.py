"""A split made ready for a device, whichever kind it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from alexnet.config import DataConfig
from alexnet.data.augment import ColourNoise, Preprocessing
from alexnet.data.photos import Photos
from alexnet.data.resident import ResidentSplit
from alexnet.data.splits import Split
from alexnet.data.streamed import StreamedSplit


class Loader(Protocol):
    """What training and evaluation need of a split."""

    bad: dict[int, str]

    def __len__(self) -> int: ...

    def preprocessing(self, data: DataConfig) -> Preprocessing:
        """How evaluation treats these images."""

    def noise(self, data: DataConfig) -> ColourNoise | None:
        """The configured colour noise, along the axes of these images' colours."""

    def training_batches(
        self,
        data: DataConfig,
        prep: Preprocessing,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        shard: slice = slice(None),
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images [B, C, H, W] and labels [B] of this process's shard, rows of the whole batch."""

    def evaluation_batches(
        self, prep: Preprocessing, batch_size: int, views: int = 1, shard: slice = slice(None), skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, V, C, H, W] and labels [B], in order."""


def open_split(split: Split | Photos, device: torch.device, data: DataConfig, resize: int | None = None) -> Loader:
    """A loader of a split. `resize` is for small images, which are resized once, here; photographs are resized by
    their `Preprocessing`."""
    if isinstance(split, Photos):
        return StreamedSplit(split, device, data.workers)
    return ResidentSplit(split, device, resize)
