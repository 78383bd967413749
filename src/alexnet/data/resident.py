"""Small images: a whole split on the device as uint8, batches cut and augmented there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.config import DataConfig
from alexnet.data.augment import ColourNoise, Preprocessing, central_views, epoch_plan, random_crops
from alexnet.data.splits import Split
from alexnet.errors import UsageError

CHUNK = 4096  # images handled at a time where a whole split as floats would not fit


class ResidentSplit:
    """Images uint8 [N, C, H, W] (already resized) and labels int64 [N] on one device."""

    def __init__(self, split: Split, device: torch.device, resize: int | None = None) -> None:
        images = torch.from_numpy(split.images)
        if resize is not None:
            images = torch.cat([resize_short_side(part, resize) for part in images.split(CHUNK)])
        self.images = images.to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self._axes: tuple[tuple[float, ...], ...] | None = None
        self.bad: dict[int, str] = {}  # images in memory are all there

    def __len__(self) -> int:
        return len(self.labels)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel on the 0-1 scale."""
        total = torch.zeros(self.images.shape[1], dtype=torch.float64, device=self.images.device)
        squares = torch.zeros_like(total)
        for part in self.images.split(CHUNK):
            values = part.double() / 255
            total += values.sum(dim=(0, 2, 3))
            squares += values.square_().sum(dim=(0, 2, 3))
        pixels = self.images.numel() // self.images.shape[1]
        mean = total / pixels
        std = (squares / pixels - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)  # a flat channel stays finite
        return tuple(mean.tolist()), tuple(std.tolist())

    def preprocessing(self, data: DataConfig) -> Preprocessing:
        """How evaluation treats these images: the configured crop and statistics, or the data's own."""
        height, width = self.images.shape[-2:]
        size = data.crop or min(height, width)
        if size > min(height, width):
            raise UsageError(f"--data.crop {size} is larger than the images ({height}x{width}): set --data.resize.")
        mean, std = self.statistics()
        for name, given in (("mean", data.mean), ("std", data.std)):
            if given is not None and len(given) not in (1, self.images.shape[1]):
                raise UsageError(
                    f"--data.{name} has {len(given)} values, the images have {self.images.shape[1]} channels."
                )
        return Preprocessing(size, data.resize, data.mean or mean, data.std or std)

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
        """From step `start` of an epoch, this process's shard of each batch: images float32 [B, C, size, size] and
        labels [B]; and the rows of the whole batch in this split."""
        plan = epoch_plan(len(self), seed, epoch, self.images.device, self.noise(data))
        for rows in list(plan.order.split(batch_size))[start:]:
            mine = rows[shard]
            crops = random_crops(self.images[mine], plan.draws[mine], prep.size, data.pad, data.flip)
            yield prep.normalise(crops, plan.shift(mine)), self.labels[mine], rows

    def noise(self, data: DataConfig) -> ColourNoise | None:
        """Along the principal axes of this split's own colours."""
        if not data.colour_noise:
            return None
        if self.images.shape[1] != 3:
            raise UsageError(f"--data.colour-noise needs RGB images, these have {self.images.shape[1]} channel(s).")
        if self._axes is None:
            sums = torch.zeros(3, dtype=torch.float64, device=self.images.device)
            products = torch.zeros(3, 3, dtype=torch.float64, device=self.images.device)
            for part in self.images.split(CHUNK):
                flat = part.double().permute(1, 0, 2, 3).flatten(1)
                sums += flat.sum(dim=1)
                products += flat @ flat.T
            pixels = self.images.numel() // 3
            mean = sums / pixels
            values, vectors = torch.linalg.eigh(products / pixels - torch.outer(mean, mean))
            self._axes = tuple(map(tuple, (vectors * values.clamp(min=0).sqrt()).tolist()))
        return ColourNoise(data.colour_noise, data.noise_probability, self._axes)

    def evaluation_batches(
        self, prep: Preprocessing, batch_size: int, views: int = 1, shard: slice = slice(None), skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """In order, every sample of the shard once: images float32 [B, V, C, size, size], labels [B]."""
        for images, labels in zip(
            self.images[shard].split(batch_size), self.labels[shard].split(batch_size), strict=True
        ):
            yield prep.normalise(central_views(images, prep.size, views)), labels


def resize_short_side(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] with the short side resized to `size` pixels: bilinear with antialiasing, as Pillow
    to within 2 of 255."""
    height, width = images.shape[-2:]
    short = min(height, width)
    if short == size:
        return images
    new = (round(height * size / short), round(width * size / short))
    return F.interpolate(images, new, mode="bilinear", antialias=True)
