"""Batched preprocessing on the device: per-sample crop and flip in training, views in evaluation, one normalisation.

What a training image undergoes depends on the seed, the epoch and the image alone, never on the batch it falls into or
on earlier draws: so a resumed run and a run on several processes see the same pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.errors import UsageError

DRAWS = 3  # uniform numbers a sample and epoch: top, left, mirror


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation does to an image, saved with the weights: resize (short side, pixels), central square crop of
    `size` pixels, then (image / 255 - mean) / std per channel."""

    size: int
    resize: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Undo `dataclasses.asdict` after JSON."""
        return cls(values["size"], values["resize"], tuple(values["mean"]), tuple(values["std"]))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [..., C, H, W] to float32 of the same shape and layout."""
        mean = images.new_tensor(self.mean, dtype=torch.float32)[:, None, None]
        std = images.new_tensor(self.std, dtype=torch.float32)[:, None, None]
        return images.float().sub_(mean * 255).div_(std * 255)


def mixed_seed(*numbers: int) -> int:
    """A generator's seed that depends on all the numbers, whatever their size."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def epoch_plan(count: int, seed: int, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The order of an epoch, [count] int64, and the uniform draws of every sample, [count, DRAWS] float32."""
    generator = torch.Generator(device=device).manual_seed(mixed_seed(seed, epoch))
    order = torch.randperm(count, generator=generator, device=device)
    return order, torch.rand(count, DRAWS, generator=generator, device=device)


def random_crops(images: Tensor, draws: Tensor, size: int, pad: int, flip: bool) -> Tensor:
    """A crop of `size` for each image at its own random place, half of them mirrored.

    images: uint8 [N, C, H, W], `pad` zero pixels are put around them first; draws: [N, DRAWS] uniform.
    Returns uint8 [N, C, size, size] in channels_last.
    """
    if pad:
        images = F.pad(images, (pad, pad, pad, pad))
    n, _, height, width = images.shape
    span = torch.arange(size, device=images.device)
    top = (draws[:, 0] * (height - size + 1)).long()
    left = (draws[:, 1] * (width - size + 1)).long()
    rows = top[:, None] + span
    columns = left[:, None] + span
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    sample = torch.arange(n, device=images.device)[:, None, None]
    # Indexing around a slice puts the slice last: [N, size, size, C], which is channels_last without a copy.
    return images[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def central_views(images: Tensor, size: int, views: int = 1) -> Tensor:
    """Evaluation crops [N, V, C, size, size]: the centre (V = 1), or the four corners and the centre with their mirror
    images (V = 10, section 4.1)."""
    height, width = images.shape[-2:]
    bottom, right = height - size, width - size
    centre = (round(bottom / 2), round(right / 2))
    if views == 1:
        places = [centre]
    elif views == 10:
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    else:
        raise UsageError(f"--views {views}: 1 (centre) or 10 (corners and centre, mirrored).")
    crops = torch.stack([images[..., y : y + size, x : x + size] for y, x in places], dim=1)
    return crops if views == 1 else torch.cat([crops, crops.flip(-1)], dim=1)
