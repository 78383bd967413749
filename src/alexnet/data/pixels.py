"""Images that a program holds, one or many of them, as uint8 arrays with the channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.decode import BadImageError, Pixels, converted, despite_warnings, open_image, orientation, turned
from alexnet.errors import DataError


def as_pixels(image: Any, what: str) -> Pixels:
    """A single image as uint8 [H, W, C]: encoded bytes, Pillow's, or an array or tensor [H, W], [H, W, C] or [C, H, W].

    Of the first two, grey ones have one channel and all others become RGB, and they are turned upright as EXIF says.
    Raises BadImageError for one of these that cannot be decoded, and DataError for anything else, naming `what`.
    """
    if isinstance(image, bytes):
        try:
            image = open_image(image)
        except BadImageError as problem:
            raise problem.at(what) from None
    if isinstance(image, Image.Image):
        held, grey = image, image.mode in ("1", "L")
        try:
            pixels = despite_warnings(lambda: converted(held, "L" if grey else "RGB"))
        except Exception as problem:  # opened images are decoded here, and decoders raise a dozen kinds
            raise BadImageError(str(problem) or type(problem).__name__).at(what) from None
        return turned(pixels[..., None] if grey else pixels, orientation(image))
    array = as_array(image, what)
    if array.ndim == 0:  # a file's name, a number, an object
        raise DataError(
            f"{what} is of type {type(image).__name__}: give an image of Pillow, or an array or a tensor of its pixels."
        )
    pixels = channels_last(as_uint8(array, f"the pixels of {what}"), f"the pixels of {what}", leading=0)
    if pixels.size == 0:
        raise DataError(f"{what} is empty: {list(pixels.shape)}.")
    return pixels


def in_channels(pixels: Pixels, channels: int, what: str) -> Pixels:
    """[H, W, C] with so many channels: grey in the place of colours or colours in that of grey. Raises DataError."""
    if pixels.shape[-1] == channels:
        return pixels
    if (pixels.shape[-1], channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    if (pixels.shape[-1], channels) == (3, 1):
        return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    raise DataError(f"{what} has {pixels.shape[-1]} channel(s), and the network takes {channels}.")


def as_uint8(images: Any, what: str) -> Pixels:
    """Images of the same shape in uint8. Raises DataError for numbers other than uint8 or k / 255."""
    array = as_array(images, what)
    if array.dtype == np.uint8:
        return array
    if array.dtype in (np.float32, np.float64):
        if not np.isfinite(array).all():
            raise DataError(f"{what} hold values that are not finite (NaN or infinite): give uint8 from 0 to 255.")
        levels = np.rint(array * 255)
        if array.size == 0 or (array.min() >= 0 and array.max() <= 1 and abs(array * 255 - levels).max() < 1e-2):
            pixels: Pixels = levels.astype(np.uint8)
            return pixels
    raise DataError(
        f"{what} are {array.dtype}, not uint8 from 0 to 255 (or k / 255 as ToTensor makes them): give pixels as they "
        "are; normalising them is part of the network's own preprocessing."
    )


def channels_last(images: Pixels, what: str, leading: int) -> Pixels:
    """[..., H, W], [..., H, W, C] or [..., C, H, W] with so many axes first, as [..., H, W, C]: C is 1 or 3,
    or else the shorter of the two axes that it may be. Raises DataError where that leaves a choice."""
    if images.ndim == leading + 2:
        return images[..., None]
    many = "N, " if leading else ""
    if images.ndim != leading + 3:
        raise DataError(f"{what} are {list(images.shape)}: give [{many}H, W], [{many}H, W, C] or [{many}C, H, W].")
    first, last = images.shape[leading], images.shape[-1]
    if first == last:
        raise DataError(f"{what} are {list(images.shape)}: the channels may be the axis of {first} or of {last}.")
    if first in (1, 3) and last not in (1, 3):
        return np.moveaxis(images, leading, -1)
    return images if last in (1, 3) or last < first else np.moveaxis(images, leading, -1)


def as_array(values: Any, what: str) -> NDArray[Any]:
    """An array of an array, a tensor on any device, or lists. Raises DataError for what is none."""
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as problem:  # lists of several lengths, number formats of torch's own
        raise DataError(f"{what} cannot be made an array ({problem}).") from None
    if array.dtype == object and array.ndim == 1 and all(isinstance(value, str) for value in array):
        return array.astype(str)
    return array
