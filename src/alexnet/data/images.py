"""Single images as a user has them: they are found by name, turned upright, and cut as a network wants them."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet.data.augment import Preprocessing
from alexnet.data.decode import (
    FORMATS,
    BadImageError,
    Pixels,
    Square,
    converted,
    count_frames,
    despite_warnings,
    open_image,
    orientation,
    turned,
)
from alexnet.data.folders import EXTENSIONS, unread_note
from alexnet.data.photos import file_size
from alexnet.data.pixels import as_pixels, in_channels
from alexnet.errors import DataError
from alexnet.terminal import printable

LARGEST = 50_000_000  # pixels
TURNED = "turned upright (EXIF orientation)"


@dataclass(frozen=True)
class Picture:
    """An upright image: RGB [H, W, 3] or grey [H, W, 1] uint8, and what was done to it."""

    path: Path
    pixels: Pixels
    notes: tuple[str, ...] = ()


def find_images(names: Sequence[str | Path] | str | Path) -> list[Path]:
    """The image files that are named one by one, by folder (all images under it, sorted) or by pattern. A single name
    may stand for itself: letter by letter it would name the root of the file system.

    Raises DataError for a name that stands for no file.
    """
    found: list[Path] = []
    for name in [names] if isinstance(names, str | Path) else names:
        path = Path(os.path.expanduser(name))
        if os.path.isdir(path):  # not Path.is_dir, which raises for names of more than 255 bytes
            inside, unread = _images_under(path), unread_note(path)
            if not inside:
                more = f"; {unread}" if unread else ""
                raise DataError(f"the folder {path} holds no images ({', '.join(EXTENSIONS)}){more}.")
            if unread:
                print(f"note: {printable(str(path))}: {unread}", file=sys.stderr)
            found += inside
        elif os.path.exists(path):
            found.append(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):
            found += _images_among([Path(match) for match in matches], name)
        else:
            raise DataError(f"there is no image, folder or match for {name}.")
    if not found:
        raise DataError("no image was named: give files, folders or patterns.")
    return found


def _images_among(matches: list[Path], pattern: str | Path) -> list[Path]:
    """The images that a pattern names, each once, though it matches the folder that holds it, too."""
    found = [path for match in matches for path in (_images_under(match) if match.is_dir() else [match])]
    images = [path for path in dict.fromkeys(found) if _may_be_image(path)]
    if not images:
        raise DataError(f"{pattern} matches no images ({', '.join(EXTENSIONS)}).")
    return images


def _images_under(folder: Path) -> list[Path]:
    """All images under a folder, sorted, those in linked folders too, and broken links with an image's name, which are
    refused when they are read. Raises DataError for a folder that cannot be read."""

    def refuse(problem: OSError) -> None:
        raise DataError(f"cannot read {problem.filename}: {problem.strerror}.") from None

    inside: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        above = [path for path in Path(place).parents if path.is_relative_to(folder)]
        if os.path.realpath(place) in map(os.path.realpath, above):  # a link to a folder that it lies in
            folders.clear()
            continue
        inside += [path for path in map(Path(place).joinpath, files) if _may_be_image(path)]
    inside = [path for path in inside if not _is_hidden(path.relative_to(folder))]
    return sorted(inside, key=lambda path: path.parts)  # Windows would sort paths without regard to case


def _is_hidden(path: Path) -> bool:
    """Whether it or a folder on the way to it has a name that begins with a point, as training passes them over."""
    return any(part.startswith(".") for part in path.parts)


def _may_be_image(path: Path) -> bool:
    """Whether a path has an image's name. A pipe or a broken link that has one is refused when it is read, not passed
    over."""
    return path.suffix.lower() in EXTENSIONS and not os.path.isdir(path)


def read_picture(path: Path, channels: int = 3) -> Picture:
    """An image with its EXIF orientation applied, in grey if `channels` is 1.

    Raises DataError for a file that is not an image or has more than 50 megapixels, and for pipes and devices.
    """
    try:
        file_size(path)  # nothing is opened before this
    except FileNotFoundError:
        raise DataError(f"there is no image {path}.") from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        raise DataError(f"cannot read {path}: {getattr(problem, 'strerror', None) or problem}.") from None
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror}.") from None
    return decode_picture(content, path, channels)


def decode_picture(content: bytes, path: Path, channels: int = 3) -> Picture:
    """The image in these bytes, as `read_picture` has it of the file that they are of; `path` need not be there.

    Raises BadImageError for bytes that are not an image, and DataError for one of more than 50 megapixels and where
    `channels` is not what files have, 1 or 3.
    """
    if channels not in (1, 3):
        raise DataError(f"{path}: this network takes images of {channels} channels, files have 1 or 3: give it arrays.")
    try:
        width, height = despite_warnings(lambda: _size(content))  # nothing large is decoded before this
    except Image.DecompressionBombError as problem:
        raise DataError(f"{path}: {problem}") from None
    except Exception:  # Pillow raises a dozen kinds; decoding it below names the reason
        width = height = 0
    _check_size(width, height, path)
    try:
        pixels, notes = despite_warnings(lambda: _upright(content, channels))
    except BadImageError as problem:
        raise problem.at(path) from None
    return Picture(path, pixels if channels == 3 else pixels[..., None], tuple(notes))


def given_picture(image: object, channels: int, place: str) -> Picture:
    """An image that a program holds (`pixels.as_pixels`), in grey if `channels` is 1. Raises DataError, also for one of
    more than 50 megapixels."""
    if isinstance(image, bytes):
        return decode_picture(image, Path(place), channels)
    if isinstance(image, Image.Image):
        _check_size(*image.size, place)
    turned_up = isinstance(image, Image.Image) and orientation(image) != 1
    pixels = in_channels(as_pixels(image, place), channels, place)
    return Picture(Path(place), pixels, (TURNED,) if turned_up else ())


def _check_size(width: int, height: int, place: str | Path) -> None:
    if width * height > LARGEST:
        raise DataError(f"{place} has {width * height / 1e6:.0f} megapixels; at most {LARGEST // 10**6} are read.")


def _size(content: bytes) -> tuple[int, int]:
    """(width, height) from an image's header."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as header:
        return header.size


def _upright(content: bytes, channels: int) -> tuple[Pixels, list[str]]:
    """RGB [H, W, 3] or grey [H, W] pixels of an image that is turned upright, and what was done to it."""
    image = open_image(content)
    notes = []
    frames = count_frames(image)
    if frames > 1:
        notes.append(f"the first of {frames} frames")
    if (how := orientation(image)) != 1:
        notes.append(TURNED)
    if image.mode not in ("RGB", "L"):
        clipped = image.mode.startswith(("I", "F")) and np.asarray(image).max() > 255
        notes.append(f"converted from {image.mode}{', where all above 255 became white' if clipped else ''}")
    pixels = converted(image, "RGB" if channels == 3 else "L")
    return turned(pixels, how), notes


def as_views(picture: Picture, prep: Preprocessing, views: int = 1) -> Tensor:
    """What evaluation makes of an image: float32 [V, C, size, size]. A network of small images gets the photograph
    resized to its crop."""
    square = central_square(picture.pixels, prep, prep.size if views == 1 else prep.short_side)
    return prep.views(torch.from_numpy(square).permute(2, 0, 1)[None], views)[0]


def central_square(pixels: Pixels, prep: Preprocessing, side: int) -> Pixels:
    """The central [side, side, C] of an image resized as evaluation does."""
    cut = Square(prep.short_side, side, prep.size).cut
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(cut(pixels))
    return np.concatenate([cut(np.repeat(one[..., None], 3, axis=2))[..., :1] for one in np.moveaxis(pixels, 2, 0)], 2)
