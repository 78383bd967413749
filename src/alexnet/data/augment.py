"""Batched preprocessing on the device: per-sample crop, flip and colour noise in training, views in evaluation, one
normalisation.

What a training image undergoes depends on the seed, the epoch and the image alone, never on the batch it falls into or
on earlier draws: so a resumed run and a run on several processes see the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alexnet.config import DataConfig
from alexnet.data.seeds import mixed_seed
from alexnet.errors import UsageError

DRAWS = 3  # uniform numbers a sample and epoch: top, left, mirror (below a half)
CACHED = 2**18  # numbers that a processor's cache holds beside other things


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation does to an image, saved with the weights: turn it upright, resize (short side, pixels), central
    square crop of `size` pixels, then (image / 255 - mean) / std per channel."""

    size: int
    resize: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    upright: bool | None = None
    """Whether photographs are turned as EXIF says; None where nobody decided: as the data at hand would be."""
    pad: int = 0
    """How many pixels beyond the edge of an image the outer of several views begin, as training's crops do."""
    mean_image: Tensor | None = field(default=None, compare=False)
    """The centre of the training set's mean image, float32 [C, size, size] on the 0-255 scale, which every crop has
    subtracted in the place of `mean`, wherever it was cut (convdata_jpeg.py of the released code)."""

    @property
    def short_side(self) -> int:
        """Pixels that a photograph is resized to: networks of small images have no `resize`, and see whole ones."""
        return self.resize or self.size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Preprocessing:
        """Undo `to_dict`, after JSON, and `tensors`, among others. Before `upright` was kept nothing was turned,
        and before `pad` was no view reached over an edge."""
        mean_image = (tensors or {}).get("mean_image") if values.get("mean_image") else None
        return cls(
            *(values["size"], values["resize"], tuple(values["mean"]), tuple(values["std"])),
            upright=values.get("upright", False),
            pad=values.get("pad", 0),
            mean_image=mean_image,
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the mean image, of which it says whether there is one."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"mean_image": self.mean_image is not None}

    def of_one_view(self) -> dict[str, Any]:
        """`to_dict` without what concerns several views alone."""
        return {name: value for name, value in self.to_dict().items() if name != "pad"}

    def raw(self) -> Preprocessing:
        """The same for a network that takes pixels as they are, 0-255."""
        return replace(self, mean=(0.0,), std=(1 / 255,), mean_image=None)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside `to_dict`."""
        return {} if self.mean_image is None else {"mean_image": self.mean_image}

    def views(self, images: Tensor, views: int = 1) -> Tensor:
        """What evaluation makes of resized images, uint8 [N, C, H, W]: float32 [N, V, C, size, size] (`central_views`).
        Of more than the centre the outer views are cut from the images with a border of `pad` zeros."""
        around = self.pad if views > 2 else 0
        return self.normalise(central_views(F.pad(images, (around,) * 4), self.size, views))

    def normalise(self, images: Tensor, shift: Tensor | None = None, divisor: float = 1.0) -> Tensor:
        """uint8 [..., C, H, W] to float32 of the same shape and layout.

        `shift` [N, C] (0-255 scale) is added to the pixels of each image first: the colour noise, which may come with a
        `divisor` of the result (`ColourNoise`).
        """
        deviations = self.std if divisor == 1 else tuple(divisor * value for value in self.std)
        mean, std = _constants(self.mean, deviations, images.shape[-3], images.device)
        image = None if self.mean_image is None else _on_device(self.mean_image, images.device)
        if image is not None:
            mean = torch.zeros_like(mean)
        if shift is not None:  # [N, 1, C], else [C]
            mean = mean - shift[:, None]
        pixels = images.movedim(-3, -1)  # [..., H, W, C]
        if not pixels.is_contiguous():
            centre = mean[..., None, None] if shift is None else mean.movedim(1, 2)[..., None]
            centred = images.float().sub_(centre)
            return (centred if image is None else centred.sub_(image)).div_(std[..., None, None])
        # Whole rows at a time, because a channel axis of 3 is too short for vector instructions, and on a CPU a few
        # images at a time, because a batch of photographs does not fit its cache: ten times faster together.
        rows = pixels.flatten(-2)
        normalised = torch.empty(rows.shape, dtype=torch.float32, device=images.device)
        width = pixels.shape[-2]
        mean, std = mean.repeat(*[1] * (mean.dim() - 1), width), std.repeat(width)
        image_rows = None if image is None else image.movedim(0, -1).flatten(-2)  # [H, W * C]
        if shift is None:
            mean = mean.expand(len(rows), *[1] * (rows.dim() - 2), -1)
        few = max(1, len(rows) if images.device.type == "cuda" else CACHED * len(rows) // max(1, rows.numel()))
        for out, values, centre in zip(normalised.split(few), rows.split(few), mean.split(few), strict=True):
            out.copy_(values).sub_(centre)
            if image_rows is not None:
                out.sub_(image_rows)
            out.div_(std)
        return normalised.view(pixels.shape).movedim(-1, -3)


@lru_cache(maxsize=4)  # made once, as the constants below; a tensor is its own key
def _on_device(image: Tensor, device: torch.device) -> Tensor:
    return image.to(device, memory_format=torch.contiguous_format)


@lru_cache(maxsize=64)  # made once: a copy to a GPU for every batch would stop its queue
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] on the 0-255 scale."""
    scaled = [torch.tensor(values, dtype=torch.float32).expand(channels) * 255 for values in (mean, std)]
    return scaled[0].to(device), scaled[1].to(device)


@dataclass(frozen=True)
class EpochPlan:
    """All that is random in an epoch's images: `order` [N] int64, uniform `draws` [N, DRAWS], and the colour noise's
    `shifts` [N, 3] on the 0-255 scale (None without noise) with the `divisor` that goes with them."""

    order: Tensor
    draws: Tensor
    shifts: Tensor | None = None
    divisor: float = 1.0

    def shift(self, rows: Tensor) -> Tensor | None:
        """The colour shifts of some samples."""
        return None if self.shifts is None else self.shifts[rows]


@dataclass(frozen=True)
class ColourNoise:
    """PCA colour noise (section 4.1): an image's pixels move by sum_i alpha_i * sd_i * p_i, alpha ~ N(0, `alpha`) drawn
    once per image and use, p_i and sd_i the RGB covariance's eigenvectors and the roots of its eigenvalues.

    `axes` [3, 3] holds sd_i * p_i in its columns, on the 0-255 scale; `probability` is the part of images that move.
    `divisor` divides all normalised images of an epoch with noise, to keep their variance: 1.1 in the released code
    (convdata.py), in training alone, so that pixels are larger in evaluation until the noise is switched off.
    (The formula in the paper multiplies by the eigenvalue; cuda-convnet2 shows that its square root is meant.)
    """

    alpha: float
    probability: float
    axes: tuple[tuple[float, ...], ...]
    divisor: float = 1.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Shifts [count, 3]."""
        device, dtype = generator.device, torch.float32
        alphas = self.alpha * torch.randn(count, 3, generator=generator, device=device, dtype=dtype)
        moved = torch.rand(count, 1, generator=generator, device=device, dtype=dtype) < self.probability
        return alphas @ torch.tensor(self.axes, device=device, dtype=dtype).T * moved


def principal_axes(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The variances along the principal axes of colours, ascending, and these axes in the columns of the second array,
    of a covariance matrix [3, 3]. An axis has no sign of its own: their first component is made positive, so that they
    are the same on every machine."""
    variances, axes = np.linalg.eigh(covariance)
    return np.maximum(variances, 0), axes * np.where(axes[0] < 0, -1.0, 1.0)


def epoch_plan(
    count: int,
    seed: int,
    epoch: int,
    device: torch.device,
    noise: ColourNoise | None = None,
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
) -> EpochPlan:
    """The plan of an epoch: the same for the same seed and epoch, whatever the batches, the processes or the device,
    for it is drawn on a CPU.

    `data` says what the draws of an epoch have in common. Without `reshuffle` the order is that of epoch 0 in all of
    them. A `crop_chunk` of images in a row has the draws of its first one. With `alternate_flips` a coin that falls
    once for each image says whether it is mirrored in even epochs; in the odd ones it is the other way round (Jordan
    2024, airbench).
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    order = torch.randperm(count, generator=generator)
    draws = torch.rand(count, DRAWS, generator=generator, dtype=torch.float32)
    if not data.reshuffle:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(seed, 0)))
    if data.crop_chunk > 1:
        place = torch.arange(count)
        draws[order] = draws[order[place - place % data.crop_chunk]]
    if data.alternate_flips:
        fixed = torch.Generator().manual_seed(mixed_seed(seed))
        coins = torch.rand(count, generator=fixed, dtype=torch.float32) < 0.5
        draws[:, 2] = torch.where(coins == (epoch % 2 == 0), 0.0, 0.5)
    if noise is None:
        return EpochPlan(order.to(device), draws.to(device))
    return EpochPlan(order.to(device), draws.to(device), noise.draw(count, generator).to(device), noise.divisor)


def random_crops(images: Tensor, draws: Tensor, size: int, pad: int, flip: bool) -> Tensor:
    """A crop of `size` for each image at its own random place, half of them mirrored.

    images: uint8 [N, C, H, W], `pad` zero pixels are put around them first; draws: [N, DRAWS] uniform.
    Returns uint8 [N, C, size, size] in channels_last.
    """
    if pad:
        images = F.pad(images, (pad, pad, pad, pad))
    n, channels, height, width = images.shape
    top = (draws[:, 0] * (height - size + 1)).long()
    left = (draws[:, 1] * (width - size + 1)).long()
    mirrored = (draws[:, 2] < 0.5) & flip
    if images.device.type == "cpu":  # slices are copied twenty times faster than pixels are picked
        cut = images.new_empty(n, size, size, channels)
        pixels = images.permute(0, 2, 3, 1)
        for i, (y, x, mirror) in enumerate(zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True)):
            crop = pixels[i, y : y + size, x : x + size]
            cut[i] = crop.flip(1) if mirror else crop
        return cut.permute(0, 3, 1, 2)
    return _picked(images, top, left, mirrored if flip else None, size)


def _picked(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor | None, size: int) -> Tensor:
    """Crops whose corners are at `top` and `left` [N], mirrored or not [N], without a round trip to the host."""
    span = torch.arange(size, device=images.device)
    rows = top[:, None] + span
    columns = left[:, None] + span
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    # Indexing around a slice puts the slice last: [N, size, size, C], which is channels_last without a copy.
    return images[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def central_views(images: Tensor, size: int, views: int = 1) -> Tensor:
    """Evaluation crops [N, V, C, size, size]: the centre (V = 1), also mirrored (V = 2), the corners and the centre and
    their mirror images (V = 10, section 4.1), or a grid of three by three without mirror images (V = 9,
    cuda-convnet2's convdata.py)."""
    height, width = images.shape[-2:]
    bottom, right = height - size, width - size
    centre = (round(bottom / 2), round(right / 2))
    if views in (1, 2):
        places = [centre]
    elif views == 9:
        places = [(y, x) for y in (0, centre[0], bottom) for x in (0, centre[1], right)]
    elif views == 10:
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    else:
        raise UsageError(
            f"--views {views}: 1 (centre), 2 (and its mirror image), 9 (a grid) or 10 (corners and centre, mirrored)."
        )
    crops = [images[..., y : y + size, x : x + size] for y, x in places]
    if views == 1:
        return crops[0].unsqueeze(1)
    whole = torch.stack(crops, dim=1)
    return whole if views == 9 else torch.cat([whole, whole.flip(-1)], dim=1)
