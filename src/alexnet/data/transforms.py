"""A network's preprocessing as a module of torch, to stand before the network in other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.data.augment import Preprocessing, central_views
from alexnet.data.images import central_square
from alexnet.data.pixels import as_pixels, in_channels
from alexnet.data.resident import resize_short_side


class Transforms(nn.Module):
    """Images to what a network takes: the short side resized, the centre cut out, normalised, as in its evaluation.

    A tensor uint8 [N, C, H, W] or [C, H, W], on the device that this module is on, becomes float32 [N, C, size, size]
    or [C, size, size] in operations that torch.export takes; it is resized to within 2 of 255 of what Pillow makes. A
    Pillow image, turned upright as its EXIF tag says, or a NumPy array uint8 [H, W, C] or [H, W], becomes [C, size,
    size] and a list of these [N, C, size, size], resized by Pillow exactly as `predict` does with a file.
    """

    def __init__(self, preprocessing: Preprocessing, channels: int) -> None:
        super().__init__()
        self.preprocessing, self.channels = preprocessing, channels
        of_each = (
            torch.tensor(values, dtype=torch.float32).expand(channels) * 255
            for values in (preprocessing.mean, preprocessing.std)
        )
        mean, std = (values.clone()[:, None, None] for values in of_each)
        image = preprocessing.mean_image
        self.register_buffer("mean", mean if image is None else image.clone(), persistent=False)
        self.register_buffer("std", std, persistent=False)

    mean: Tensor
    """On the 0-255 scale: [C, 1, 1], or an image [C, size, size]."""
    std: Tensor
    """On the 0-255 scale, [C, 1, 1]."""

    def forward(self, images: Any) -> Tensor:
        """Raises DataError for an image that is none, and ValueError for a tensor that does not fit."""
        if isinstance(images, Tensor):
            return self._of_tensor(images)
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return torch.stack([self._of_image(image) for image in images])
        return self._of_image(images)

    def extra_repr(self) -> str:
        """What a network's printed description says of it."""
        prep = self.preprocessing
        return f"channels={self.channels}, resize={prep.short_side}, size={prep.size}"

    def _of_tensor(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != self.channels:
            raise ValueError(
                f"the preprocessing takes uint8 [N, {self.channels}, H, W] or [{self.channels}, H, W], not "
                f"{images.dtype} {[*map(int, images.shape)]}".replace("torch.", "")
            )
        prep = self.preprocessing
        batch = images if images.ndim == 4 else images[None]
        cut = central_views(resize_short_side(batch, prep.short_side), prep.size)[:, 0]
        normalised = self._normalised(cut)
        return normalised if images.ndim == 4 else normalised[0]

    def _of_image(self, image: Any) -> Tensor:
        prep = self.preprocessing
        pixels = in_channels(as_pixels(image, "the image"), self.channels, "the image")
        square = central_square(pixels, prep, prep.size)
        return self._normalised(torch.from_numpy(square).permute(2, 0, 1).to(self.std.device))

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std
