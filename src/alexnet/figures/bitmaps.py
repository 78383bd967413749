"""Pixels as pictures for web pages: PNG and JPEG, thumbnails, sheets of tiles, and all of them as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image

from alexnet.figures import Image

SMALL = 64  # up to this side a picture keeps every pixel: JPEG would blur it, and PNG is as short


def encode(pixels: Image, jpeg: bool = False) -> bytes:
    """Pixels [H, W, C] as a PNG, or without losses that matter as a JPEG: grey, RGB, or (PNG alone) RGBA."""
    picture = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    content = io.BytesIO()
    if jpeg:
        picture.save(content, "JPEG", quality=85, optimize=True)
    else:
        picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def data_uri(content: bytes) -> str:
    """A PNG or JPEG as the address of an image that a page holds itself."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shrink(pixels: Image, side: int) -> Image:
    """Pixels [H, W, C] with at most `side` on the longer side."""
    if max(pixels.shape[:2]) <= side:
        return pixels
    picture = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    shrunk = np.asarray(picture)
    return shrunk[..., None] if shrunk.ndim == 2 else shrunk


def thumbnail(pixels: Image, side: int = 128) -> str:
    """Pixels [H, W, C] as a data URI, shrunk until the longer side has `side` pixels where it is longer."""
    if max(pixels.shape[:2]) <= SMALL:
        return data_uri(encode(pixels))
    return data_uri(encode(shrink(pixels, side), jpeg=True))


def sheet(tiles: np.ndarray[Any, np.dtype[np.uint8]], across: int, gap: int = 1) -> Image:
    """Tiles [N, h, w, 3] side by side, `across` in a row, as RGBA pixels that are transparent between them."""
    count, height, width, _ = tiles.shape
    across = min(across, count)
    rows = -(-count // across)
    pixels = np.zeros((rows * (height + gap) - gap, across * (width + gap) - gap, 4), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // across) * (height + gap), (number % across) * (width + gap)
        pixels[top : top + height, left : left + width, :3] = tile
        pixels[top : top + height, left : left + width, 3] = 255
    return pixels
