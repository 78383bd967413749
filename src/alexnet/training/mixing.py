"""Images mixed in pairs, and their labels with them: CutMix and mixup, drawn for every image of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from alexnet.config import TrainConfig


def mix(images: Tensor, labels: Tensor, classes: int, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Give each of the images [B, C, H, W] a part of another one of the batch, and each of the labels [B], which may be
    probabilities [B, classes], the same part of the other's: images of the same shape and probabilities [B, classes].
    Without mixing both stay what they are.

    CutMix (Yun et al. 2019) puts in a rectangle, mixup (Zhang et al. 2018) fades in the whole image. All is drawn from
    torch's own generator, which training seeds anew for every step, and nothing waits for the device.
    """
    if not (config.cutmix or config.mixup):
        return images, labels
    partners = torch.randperm(len(images), device=images.device)
    shares = pixel_shares(images, config)
    weights = shares.mean(dim=(2, 3))  # [B, 1]: of a rectangle, the area that lies within the image
    own = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    return images.lerp(images[partners], shares), own.lerp(own[partners], weights)


def pixel_shares(images: Tensor, config: TrainConfig) -> Tensor:
    """What part of each pixel becomes the other image's, from 0 to 1: [B, 1, H, W] for images [B, C, H, W].

    `mix_probability` of the images are mixed at all, where both ways are on by either of them alike often.
    """
    count, (height, width) = len(images), images.shape[-2:]
    draws = torch.rand(count, 3, dtype=torch.float32, device=images.device)
    mixed = draws[:, 0] < config.mix_probability
    by_rectangle = draws[:, 0] < config.mix_probability * (0.5 if config.mixup else 1.0)
    shares = images.new_zeros(count, 1, height, width)
    if config.mixup:
        shares = shares + (mixed * _parts(count, config.mixup, images.device))[:, None, None, None]
    if config.cutmix:
        within = rectangles(_parts(count, config.cutmix, images.device), draws[:, 1:], height, width)
        shares = torch.where(by_rectangle[:, None, None, None], within.float(), shares)
    return shares


def _parts(count: int, alpha: float, device: torch.device) -> Tensor:
    """How much of each image becomes another's, [count], by the Beta distribution of both papers."""
    alphas = torch.full((count,), alpha, dtype=torch.float32, device=device)
    return Beta(alphas, alphas, validate_args=False).sample()


def rectangles(areas: Tensor, centres: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in a rectangle, bool [B, 1, height, width]: of the image's proportions, with the part `areas`
    [B] of its area, around a pixel drawn by `centres` [B, 2] in [0, 1), and cut off at the image's edges (Yun et al.
    2019, section 3.1 and their published code)."""
    inside = []
    for axis, side in enumerate((height, width)):
        half = (side * areas.sqrt()).long() // 2
        centre = (side * centres[:, axis]).long()
        place = torch.arange(side, device=areas.device)
        inside.append((place >= (centre - half)[:, None]) & (place < (centre + half)[:, None]))
    rows, columns = inside
    return rows[:, None, :, None] & columns[:, None, None, :]
