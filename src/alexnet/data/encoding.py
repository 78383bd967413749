"""One photograph as it is prepared: decoded, turned, resized and encoded."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.decode import (
    BadImageError,
    count_frames,
    decode,
    despite_warnings,
    jpeg_size,
    open_image,
    resize_exactly,
    short_side_size,
)
from alexnet.data.photos import Photos


@dataclass(frozen=True)
class Encoded:
    """One photograph as it was prepared, or why it was left out."""

    source: str
    label: int
    jpeg: bytes = b""
    bad: str | None = None
    """Why it was left out."""
    converted: str | None = None
    """What it was, if not a plain RGB or grey JPEG."""
    pixels: NDArray[np.uint8] | None = None
    """The central square [side, side, 3] before encoding."""
    products: NDArray[np.int64] | None = None
    """Sums of its colours' products, [3, 3]."""


def encode(photos: Photos, row: int, side: int, quality: int, upright: bool) -> Encoded:
    """Decode the photograph of a row, `upright` turned as EXIF says, resize its short side to `side` pixels and encode
    it as a JPEG of the quality given. What is no image is `bad`. Raises DataError where the disk or the network fails:
    another time it may be read."""
    source, label = _text(photos.place(row)), int(photos.labels[row])
    content = photos.read(row)
    try:
        height, width = jpeg_size(content) or (0, 0)
        # A huge photograph is decoded at a half or less, never below twice the size that is kept.
        pixels = decode(content, min(height, width) / (2 * side), upright)
        converted = None if bytes(content[:2]) == b"\xff\xd8" and _is_plain(content) else _kind(content)
    except BadImageError as problem:
        return Encoded(source, label, bad=str(problem))
    size = short_side_size(pixels, side)
    if max(size) > 65_000:  # what JPEG can hold
        return Encoded(source, label, bad=f"{pixels.shape[1]}x{pixels.shape[0]} is too long for its width")
    pixels = resize_exactly(pixels, *size)
    top, left = ((length - side) // 2 for length in size)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    square = pixels[top : top + side, left : left + side]
    flat = square.reshape(-1, 3).astype(np.float64)
    products = np.rint(flat.T @ flat).astype(np.int64)
    return Encoded(source, label, stream.getvalue(), converted=converted, pixels=square, products=products)


def _text(path: str) -> str:
    """A path as UTF-8 can hold it: bytes that are none as backslash escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _is_plain(content: bytes | memoryview) -> bool:
    """Whether a JPEG is RGB or grey, going by its number of components."""
    try:
        with despite_warnings(lambda: Image.open(io.BytesIO(content))) as image:
            return image.mode in ("RGB", "L")
    except Exception:  # it was decoded a moment ago
        return False


def _kind(content: bytes | memoryview) -> str:
    image = open_image(content)
    frames = count_frames(image)
    return f"{image.format} {image.mode}" + (f", first of {frames} frames" if frames > 1 else "")
