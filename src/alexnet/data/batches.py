"""What training and evaluation need of a split, whichever kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import DataConfig
from alexnet.data.augment import ColourNoise, EpochPlan, Preprocessing, epoch_plan
from alexnet.errors import UsageError


class Steps(NamedTuple):
    """The steps of one epoch that one process makes: from `start` on, its `shard` of every batch.

    The order of the images and all that is drawn for them follow from `seed` and `epoch` alone.
    """

    seed: int
    epoch: int
    batch_size: int
    start: int = 0
    shard: slice = slice(None)


class Batch(NamedTuple):
    """A training step's images, float32 [B, C, size, size], and labels [B], or probabilities [B, K], of one process's
    shard; and the `rows` of the whole batch in the split. Images that cannot be read are missing from the first two."""

    images: Tensor
    labels: Tensor
    rows: Tensor


class Loader(ABC):
    """A split made ready for a device, bound to the configuration that says how its images are cut.

    `prep` is how evaluation treats the images: worked out from this split where it is the one that is trained on,
    otherwise given. `bad` has the rows that could not be read so far, with the place and the reason.
    """

    def __init__(self, device: torch.device, data: DataConfig) -> None:
        self.device, self.data = device, data
        self.bad: dict[int, str] = {}

    prep: Preprocessing
    decodes: ClassVar[bool] = False
    """Whether images are read while they are used, of which some may turn out to be unreadable."""

    @abstractmethod
    def __len__(self) -> int:
        """Images of the split."""

    def readable(self) -> NDArray[np.int64]:
        """The rows of the split, in order, but those that could not be read so far."""
        return np.setdiff1d(np.arange(len(self)), list(self.bad))

    @abstractmethod
    def sides(self) -> tuple[int, int]:
        """Height and width of what evaluation cuts its views from."""

    @abstractmethod
    def noise(self) -> ColourNoise | None:
        """The configured colour noise, along the axes of these images' colours. Raises UsageError without colours."""

    def plan(self, seed: int, epoch: int, device: torch.device) -> EpochPlan:
        """All that is random in an epoch of training, counted from 0, on a device."""
        quiet = self.data.noise_until is not None and epoch >= self.data.noise_until
        return epoch_plan(len(self), seed, epoch, device, None if quiet else self.noise(), self.data)

    @abstractmethod
    def training_batches(self, steps: Steps) -> Iterator[Batch]:
        """Augmented images of an epoch's steps, a batch a step."""

    @abstractmethod
    def evaluation_batches(
        self, batch_size: int, views: int = 1, shard: slice = slice(None), skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of the shard once, in order: float32 [B, V, C, size, size] and labels [B].

        Raises DataError at the first image that cannot be read, unless `skip_bad`, which leaves it out and notes it in
        `bad`.
        """

    def check_channels(self, channels: int) -> None:
        """Raise UsageError if the configured mean or deviation does not fit the images' channels."""
        for name, given in (("mean", self.data.mean), ("std", self.data.std)):
            if given is not None and len(given) not in (1, channels):
                raise UsageError(f"--data.{name} has {len(given)} values, the images have {channels} channel(s).")
