"""Small images: a whole split on the device as uint8, batches cut and augmented there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.config import DataConfig
from alexnet.data.augment import ColourNoise, Preprocessing, central_views, principal_axes, random_crops
from alexnet.data.batches import Batch, Loader, Steps
from alexnet.data.splits import Split
from alexnet.errors import UsageError

CHUNK = 4096  # images handled at a time where a whole split as floats would not fit
VALUES = 2**24  # pixels' values likewise, where images are large


class ResidentSplit(Loader):
    """Images uint8 [N, C, H, W], resized once, and labels int64 [N] on one device, which for training may be
    probabilities [N, K]."""

    def __init__(self, split: Split, device: torch.device, data: DataConfig, prep: Preprocessing | None = None) -> None:
        super().__init__(device, data)
        images = torch.from_numpy(split.images)
        resize = prep.resize if prep else data.resize
        if resize is not None:
            images = torch.cat([resize_short_side(part, resize) for part in images.split(CHUNK)])
        self.images = images.to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.targets = self.labels if split.targets is None else torch.from_numpy(split.targets).to(device)
        self._axes: tuple[tuple[float, ...], ...] | None = None
        self.prep = prep or self._preprocessing()

    def __len__(self) -> int:
        return len(self.labels)

    def _pieces(self) -> Sequence[Tensor]:
        """The images, a part at a time whose pixels fit into memory as float64 several times."""
        pieces: Sequence[Tensor] = self.images.split(max(1, min(CHUNK, VALUES // self.images[0].numel())))
        return pieces

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel on the 0-1 scale."""
        total = torch.zeros(self.images.shape[1], dtype=torch.float64, device=self.images.device)
        squares = torch.zeros_like(total)
        for part in self._pieces():
            values = part.double() / 255
            total += values.sum(dim=(0, 2, 3))
            squares += values.square_().sum(dim=(0, 2, 3))
        pixels = self.images.numel() // self.images.shape[1]
        mean = total / pixels
        std = (squares / pixels - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)  # a flat channel stays finite
        return tuple(mean.tolist()), tuple(std.tolist())

    def _preprocessing(self) -> Preprocessing:
        """The configured crop and statistics, or the data's own."""
        data, (channels, height, width) = self.data, self.images.shape[1:]
        short = min(height, width)  # a photograph is brought to it before it is cut, as these images are
        size = data.crop or short
        if size > short:
            raise UsageError(f"--data.crop {size} is larger than the images ({height}x{width}): set --data.resize.")
        self.check_channels(channels)
        mean, std = self.statistics()
        image = central_views(self._mean_image(), size)[0, 0].contiguous() if data.mean_image else None
        return Preprocessing(size, short, data.mean or mean, data.std or std, pad=data.pad, mean_image=image)

    def _mean_image(self) -> Tensor:
        """The mean of the images, float32 [1, C, H, W] on the CPU, on the 0-255 scale."""
        total = sum(part.double().sum(dim=0, keepdim=True) for part in self._pieces())
        assert isinstance(total, Tensor)
        return (total / len(self)).float().cpu()

    def training_batches(self, steps: Steps) -> Iterator[Batch]:
        plan = self.plan(steps.seed, steps.epoch, self.device)
        for rows in list(plan.order.split(steps.batch_size))[steps.start :]:
            mine = rows[steps.shard]
            crops = random_crops(self.images[mine], plan.draws[mine], self.prep.size, self.data.pad, self.data.flip)
            yield Batch(self.prep.normalise(crops, plan.shift(mine), plan.divisor), self.targets[mine], rows)

    def noise(self) -> ColourNoise | None:
        if not self.data.colour_noise:
            return None
        if self.images.shape[1] != 3:
            raise UsageError(f"--data.colour-noise needs RGB images, these have {self.images.shape[1]} channel(s).")
        if self._axes is None:
            self._axes = self._colour_axes()
        return ColourNoise(self.data.colour_noise, self.data.noise_probability, self._axes, self.data.noise_divisor)

    def _colour_axes(self) -> tuple[tuple[float, ...], ...]:
        """The principal axes of this split's own colours, as `ColourNoise` takes them."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        products = torch.zeros(3, 3, dtype=torch.float64, device=self.device)
        for part in self._pieces():
            flat = part.double().permute(1, 0, 2, 3).flatten(1)
            sums += flat.sum(dim=1)
            products += flat @ flat.T
        pixels = self.images.numel() // 3
        mean = sums / pixels
        variances, axes = principal_axes((products / pixels - torch.outer(mean, mean)).cpu().numpy())
        return tuple(map(tuple, (axes * np.sqrt(variances)).tolist()))

    def sides(self) -> tuple[int, int]:
        height, width = self.images.shape[-2:]
        return height, width

    def evaluation_batches(
        self, batch_size: int, views: int = 1, shard: slice = slice(None), skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        parts = (tensor[shard].split(batch_size) for tensor in (self.images, self.labels))
        for images, labels in zip(*parts, strict=True):
            yield self.prep.views(images, views), labels


def resize_short_side(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] with the short side resized to `size` pixels: bilinear with antialiasing, as Pillow
    to within 2 of 255."""
    height, width = images.shape[-2:]
    short = min(height, width)
    if short == size:
        return images
    new = (max(size, int(height * size / short)), max(size, int(width * size / short)))  # torchvision's rounding
    if images.device.type == "cpu":
        return F.interpolate(images, new, mode="bilinear", antialias=True)
    resized = F.interpolate(images.float(), new, mode="bilinear", antialias=True)  # GPUs resize no bytes
    return resized.round().clamp(0, 255).to(torch.uint8)
