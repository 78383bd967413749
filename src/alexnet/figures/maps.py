"""What a layer answers, in colours: maps of activations, and heat upon an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet.figures import Image

Values = np.ndarray[Any, np.dtype[np.floating[Any]]]
Tiles = np.ndarray[Any, np.dtype[np.uint8]]

FAINT = 4  # a map whose peak is this many times below the median peak is shown no brighter than that
# From zero up, and from zero down: black at zero, brighter the farther from it, so that both read on any background.
WARM = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
COLD = ((0, 0, 4), (12, 44, 96), (28, 105, 165), (92, 178, 220), (214, 242, 255))


def colour_maps(maps: Values) -> Tiles:
    """Maps [N, h, w] as pixels [N, h, w, 3]: zero is black, positive values go over red to yellow, negative ones over
    blue to white. Each map is scaled by its own largest value, so that weak ones can be seen too, but one that is four
    times weaker than the median map stays dark."""
    peaks = np.abs(maps).max(axis=(1, 2), initial=0)
    live = peaks[peaks > 0]
    scale = np.maximum(peaks, (np.median(live) if len(live) else 1) / FAINT)
    return _ramp(maps / scale[:, None, None])


def blend_heat(image: Image, heat: Values) -> Image:
    """An image [H, W, C] with heat [H, W] from 0 to 1 upon it, [H, W, 3]: the hotter, the more of its colour."""
    colours = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    part = 0.6 * heat[..., None]
    mixed = (1 - part) * (0.75 * colours) + part * _ramp(0.25 + 0.75 * heat)
    return np.asarray(mixed.round().clip(0, 255).astype(np.uint8))


def _ramp(values: Values) -> Tiles:
    """Colours [..., 3] of values from -1 to 1."""
    stops = np.linspace(0, 1, len(WARM))

    def along(ramp: tuple[tuple[int, int, int], ...]) -> Values:
        return np.stack([np.interp(np.abs(values), stops, channel) for channel in zip(*ramp, strict=True)], axis=-1)

    return np.where(values[..., None] < 0, along(COLD), along(WARM)).round().astype(np.uint8)
