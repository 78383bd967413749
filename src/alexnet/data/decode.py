"""From encoded images to RGB arrays [H, W, 3] uint8, resized and cropped.

JPEGs go through libjpeg-turbo where simplejpeg is installed, everything else through Pillow, which is the reference for
both.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.nn import functional as F

from alexnet.errors import DataError

try:
    import simplejpeg
except ImportError:  # the extra "photos"; Pillow alone reads everything, more slowly
    simplejpeg = None

Pixels = NDArray[np.uint8]
T = TypeVar("T")
# Not all that Pillow knows: PostScript, for one, would start another program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
LARGEST = 178_956_970  # pixels; Pillow's own limit against decompression bombs
ORIENTATION = 0x0112  # the EXIF tag
# What EXIF or XMP data hold if an image is not upright: the tag, one number of any type, which is not 1; or its name.
_NOT_UPRIGHT = re.compile(
    rb"\x01\x12\x00[\x01-\x0c]\x00\x00\x00\x01(?!\x00\x01)|\x12\x01[\x01-\x0c]\x00\x01\x00\x00\x00(?!\x01\x00)|tiff:Orientation",
    re.DOTALL,
)


class BadImageError(DataError):
    """Bytes are not an image, or not one that can be read."""

    def at(self, place: object) -> BadImageError:
        """The same error in a sentence that says where the image comes from."""
        return BadImageError(f"cannot decode {place}: {str(self).rstrip('.')}.")


def decode(content: bytes | memoryview, shrink: float = 1.0, upright: bool = False) -> Pixels:
    """RGB pixels of a JPEG, PNG or any other file that Pillow reads, with `upright` turned as EXIF says.

    With `shrink` of 2 or more the image may come that many times smaller (never more), which saves time with large
    JPEGs. CMYK, grey, palette, 16-bit and transparent images become RGB as Pillow converts them; of an animation the
    first frame is taken. Raises BadImageError.
    """
    if simplejpeg is not None and bytes(content[:2]) == b"\xff\xd8":
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(content)
            if space in ("YCbCr", "Gray") and height * width <= LARGEST:
                least = (int(height / shrink), int(width / shrink)) if shrink >= 2 else (0, 0)
                pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=least[0], min_width=least[1])
                return turned(pixels, jpeg_orientation(content)) if upright else pixels
        except ValueError:  # Pillow decides whether it is bad
            pass
    image = open_image(content)
    # A copy that may be written to, as torch wants.
    pixels = despite_warnings(lambda: converted(image, "RGB"))
    return turned(pixels, orientation(image)) if upright else pixels


def converted(image: Image.Image, mode: str) -> Pixels:
    """An image's pixels, in a mode of Pillow. Raises BadImageError where Pillow has no way from its own mode."""
    try:
        return np.array(image.convert(mode))
    except ValueError as problem:
        raise BadImageError(f"{image.mode} has no way to {mode} ({problem})") from None


def orientation(image: Image.Image) -> int:
    """How an image lies, as its EXIF (or XMP) data say: 1 is upright, 2 to 8 mirrored or turned, which `turned` undoes.

    Data that cannot be read say nothing: 1.
    """
    try:
        found = despite_warnings(lambda: image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises a dozen kinds
        return 1
    return int(found) if found in range(1, 9) else 1


def jpeg_orientation(content: bytes | memoryview) -> int:
    """`orientation` of a JPEG from its header alone, in microseconds where it lies upright."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:  # up to the pixels
        if content[at + 1] == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + (content[at + 2] << 8 | content[at + 3])
        if content[at + 1] == 0xE1 and _NOT_UPRIGHT.search(content, at, end):  # APP1: EXIF or XMP
            try:
                return orientation(despite_warnings(lambda: Image.open(io.BytesIO(content), formats=("JPEG",))))
            except Exception:  # whoever decodes it says what is wrong
                return 1
        at = end
    return 1


def turned(pixels: Pixels, how: int) -> Pixels:
    """[H, W, C] upright, given how it lies (EXIF's 1 to 8); 5 to 8 exchange height and width."""
    if how == 1:
        return pixels
    if how >= 5:  # as 1 to 4, and mirrored at the diagonal
        pixels, how = pixels.swapaxes(0, 1), how - 4
    rows, columns = (-1 if how in (3, 4) else 1), (-1 if how in (2, 3) else 1)
    return np.ascontiguousarray(pixels[::rows, ::columns])


def open_image(content: bytes | memoryview) -> Image.Image:
    """The Pillow image in these bytes, decoded. Raises BadImageError for bytes of any kind that are not one."""

    def load() -> Image.Image:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        return image

    try:
        return despite_warnings(load)
    except Exception as problem:  # decoders raise a dozen kinds for damaged bytes, SyntaxError among them
        raise BadImageError(_reason(content, problem)) from None


def count_frames(image: Image.Image) -> int:
    """How many images a file holds, going by an opened one; 1 where those after the first are damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a dozen kinds, too: it reads the later ones' headers
        return 1


def despite_warnings(work: Callable[[], T]) -> T:
    """What `work` returns, also in a program that makes errors of warnings: Pillow warns of images that it can read.

    It is called again, then with a filter for Pillow's warnings. `warnings.catch_warnings` is not for threads: of two
    that overlap, the later restores what the earlier had set. This adds one filter to the list that is in force and
    takes it from the same list, whoever changes the filters meanwhile.
    """
    try:
        return work()
    except Warning:
        filters = cast("list[object]", warnings.filters)
        ours = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
        filters.insert(0, ours)
        try:
            return work()
        finally:
            filters.remove(ours)


def _reason(content: bytes | memoryview, problem: Exception) -> str:
    start = bytes(content[:64]).lstrip().lower()
    if len(content) == 0:
        return "the file is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, not an image"
    if bytes(content[4:8]) == b"ftyp":
        return "it is HEIC, AVIF or a film, which are not read: convert it to JPEG"
    if isinstance(problem, UnidentifiedImageError):
        return "it is not an image"
    if isinstance(problem, Image.DecompressionBombError):
        return "it has more pixels than is safe to decode"
    return str(problem) or type(problem).__name__


def short_side_size(pixels: Pixels, size: int) -> tuple[int, int]:
    """The (height, width) that an image gets when its short side is resized to `size` pixels; the long one is rounded
    down as torchvision does."""
    height, width = pixels.shape[:2]
    if height <= width:
        return size, max(size, int(size * width / height))
    return max(size, int(size * height / width)), size


def resize_exactly(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize [H, W, 3] to [height, width, 3] with Pillow's antialiased bilinear filter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def resize_fast(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize as `resize_exactly` does to within 2 of 255 (hardly ever more than 1), several times faster."""
    if pixels.shape[:2] == (height, width):
        return pixels
    # In this order of steps torch sees channels_last and neither unpacks nor packs: twice as fast.
    planes = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Square:
    """Resize the short side to `resize`, then cut a central square of `side`, placed so that a central crop of `crop`
    from it is the central crop of the whole image (torchvision's rounding)."""

    resize: int
    side: int
    crop: int
    exact: bool = True
    upright: bool = False
    """Turn the image as EXIF says first."""

    def __call__(self, content: bytes | memoryview, row: int = 0) -> Pixels:
        """Encoded bytes to [side, side, 3], the same for every `row`."""
        shrink = 1.0 if self.exact else _shrink_to(content, 2 * self.resize)
        return self.cut(decode(content, shrink, self.upright))

    def cut(self, pixels: Pixels) -> Pixels:
        """[H, W, 3] to [side, side, 3]."""
        pixels, *size = shortened(pixels, self.resize)
        pixels = (resize_exactly if self.exact else resize_fast)(pixels, *size)
        top, left = (_place(length, self.side, self.crop) for length in size)
        return pixels[top : top + self.side, left : left + self.side]


def _place(length: int, side: int, crop: int) -> int:
    wanted = round((length - crop) / 2) - round((side - crop) / 2)
    return min(max(wanted, 0), length - side)


def shortened(pixels: Pixels, resize: int) -> tuple[Pixels, int, int]:
    """An image, of a panorama the middle, and the height and width that bring its short side to `resize`: 1x5000 would
    become 256x1280000."""
    height, width = pixels.shape[:2]
    keep = 8 * min(height, width)
    if max(short_side_size(pixels, resize)) > 8 * resize:
        top, left = max(0, (height - keep) // 2), max(0, (width - keep) // 2)
        pixels = np.ascontiguousarray(pixels[top : top + keep, left : left + keep])
    return pixels, *short_side_size(pixels, resize)


def _shrink_to(content: bytes | memoryview, least: int) -> float:
    """How many times larger than `least` pixels the short side of a JPEG is."""
    height, width = jpeg_size(content) or (0, 0)
    return min(height, width) / least


def jpeg_size(content: bytes | memoryview) -> tuple[int, int] | None:
    """(height, width) of a JPEG from its header, where there is a fast way."""
    if simplejpeg is None or bytes(content[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return height, width


@dataclass(frozen=True)
class RandomArea:
    """A crop of random area and aspect resized to `side`: torchvision's RandomResizedCrop with the same distribution.

    The draws depend on `key` (seed and epoch) and the image's row alone.
    """

    side: int
    min_area: float
    key: int
    upright: bool = False
    """Turn the image as EXIF says first."""

    def __call__(self, content: bytes | memoryview, row: int) -> Pixels:
        """Encoded bytes to [side, side, 3]."""
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=[0, row, 0, 0]))
        size = jpeg_size(content)
        if size is None:
            pixels = decode(content, upright=self.upright)
            top, left, height, width = random_area(pixels.shape[0], pixels.shape[1], self.min_area, rng)
        else:
            if self.upright and jpeg_orientation(content) >= 5:
                size = size[::-1]
            top, left, height, width = random_area(*size, self.min_area, rng)
            pixels = decode(content, min(height, width) / (2 * self.side), self.upright)
            if pixels.shape[:2] != size:  # decoded at a half, a quarter or an eighth
                down, across = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
                top, left = int(top * down), int(left * across)
                height, width = max(1, int(height * down)), max(1, int(width * across))
        return resize_fast(pixels[top : top + height, left : left + width], self.side, self.side)


def random_area(height: int, width: int, min_area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop that covers `min_area` to 1 of the area, aspect 3/4 to 4/3.

    As torchvision: ten tries, then the central crop with the nearest aspect allowed.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = max(1, round(width / (3 / 4)))
    elif width / height > 4 / 3:
        w = max(1, round(height * (4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w
