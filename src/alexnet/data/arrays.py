"""Data that a program holds itself: NumPy arrays, tensors, and datasets of torch or of Hugging Face.

Datasets are known by what they can do, so that neither library has to be installed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.config.colours import Statistics
from alexnet.data.decode import Pixels
from alexnet.data.folders import SPLITS
from alexnet.data.photos import Photos
from alexnet.data.pixels import as_array, as_pixels, as_uint8, channels_last, in_channels
from alexnet.data.splits import Published, Split, order_classes
from alexnet.errors import DataError, differing, listed, unknown

if TYPE_CHECKING:
    from alexnet.data.splits import Labels, Targets

CLASSES = "classes"  # beside the splits of a dictionary: their names
MOST_CLASSES = 100_000  # that labels alone may stand for
FORMS = (
    "a pair (images, labels) of arrays or tensors, a dataset with a length whose items are pairs (image, label), a "
    'Hugging Face dataset, or a dictionary of these: {"train": ..., "val": ..., "test": ...}'
)


def is_settings(data: object) -> bool:
    """Whether a dictionary replaces settings of --data ({"root": ...}), and is not itself data ({"test": ...})."""
    return isinstance(data, Mapping) and not any(key in SPLITS or key == CLASSES for key in data)


def read_given(data: Any, classes: Sequence[str] | None = None, *, photographs: bool = False) -> Published:
    """Bring data that a program holds into the form that all sources have, and check it.

    `data` is one of the `FORMS`; a dictionary may hold the names of the classes too ("classes"). Arrays of images are
    uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; floating-point numbers are taken where they are k / 255, as
    torchvision's ToTensor makes them. The images of a dataset are arrays or tensors of that kind without the first
    axis, or Pillow's, which are turned upright as EXIF says. Labels are [N], integers from 0 or names, or probabilities
    [N, K].

    Images of one size are held in memory unless `photographs` are asked for; those of a dataset with images of several
    sizes are photographs, which it is asked for whenever they are needed. Without splits the data is cut anew, as a
    folder is. Classes are called as the data says, else by `classes`, else by their labels. Raises DataError with what
    is wrong with which split.
    """
    parts: dict[Any, Any] = dict(data) if isinstance(data, Mapping) else {"all": data}
    names: Sequence[str] | None = parts.pop(CLASSES, None)
    found: dict[str, _Part] = {}
    for key, value in parts.items():
        name = "all" if not isinstance(data, Mapping) else SPLITS.get(key)
        if name is None:
            raise DataError(unknown("split in the data that was given:", str(key), (*SPLITS, CLASSES)))
        if name in found:
            raise DataError(f"the data that was given has two splits {name}, the second called {key!r}.")
        found[name] = _read_part(value, "the data" if name == "all" else f"the {name} split")
    if not found:
        raise DataError(f"the data that was given holds no split; give {FORMS}.")
    if found.keys() == {"train"}:
        found = {"all": found["train"]}
    _check_same_classes([part for part in found.values() if part.classes])
    if names is None:
        names = next((part.classes for part in found.values() if part.classes), None)
    if names is not None and (
        isinstance(names, str) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names)
    ):
        raise DataError(f'"classes" in the data that was given is {names!r:.80}, not a list of different names.')
    known, numbers = _number_classes(found, names, classes)
    return Published(known, _splits(found, numbers, photographs))


@dataclass(frozen=True)
class _Part:
    """A split as it was given: what messages call it, its labels, its images [N, H, W, C], or None where their sizes
    differ, and how to get at each of them, with a digest of all."""

    what: str
    labels: NDArray[Any]
    images: Pixels | None
    image: Callable[[int], Any]
    digest: str = ""
    classes: tuple[str, ...] | None = None

    def photographs(self, labels: Labels) -> Photos:
        """The split as photographs that are decoded when they are needed."""
        digest = self.digest or hashlib.sha256(np.ascontiguousarray(self.images).data).hexdigest()
        return Photos.whole(_ItemStore(self.image, len(labels), digest, self.what), labels)


def _check_same_classes(parts: Sequence[_Part]) -> None:
    """Raise DataError where two splits say that their labels stand for different classes."""
    for part in parts[1:]:
        first, other = parts[0].classes or (), part.classes or ()
        if other != first:
            how = differing(first, other)
            raise DataError(f"the classes of {part.what} are not those of {parts[0].what}: {how}.")


def _read_part(data: Any, what: str) -> _Part:
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape"):
        return _read_arrays(data[0], data[1], what)
    if hasattr(data, "features") and hasattr(data, "cast_column"):
        return _read_hugging_face(data, what)
    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(f"{what} is of type {type(data).__name__}, which cannot be read; give {FORMS}.")

    def pair(number: int) -> tuple[Any, Any]:
        item = data[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"item {number} of {what} is not a pair of an image and its label.")
        return item[0], item[1]

    names = getattr(data, "classes", None) or getattr(getattr(data, "dataset", None), "classes", None)  # of a Subset
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return _read_items(pair, len(data), what, tuple(names) if names and named else None)


def _read_arrays(images: Any, labels: Any, what: str) -> _Part:
    pixels = channels_last(as_uint8(images, f"the images of {what}"), f"the images of {what}", leading=1)
    if pixels.size == 0:
        raise DataError(f"{what} holds no images: its array is {list(np.shape(images))}.")
    numbers = as_array(labels, f"the labels of {what}")
    if numbers.shape[:1] != (len(pixels),):
        raise DataError(
            f"{what} has {len(pixels)} images, but its labels are {list(numbers.shape)}: give one for each."
        )
    return _Part(what, numbers, pixels, pixels.__getitem__)


def _read_hugging_face(data: Any, what: str) -> _Part:
    """A dataset of Hugging Face with an image column and a label column, of whatever names."""
    if not hasattr(data, "__len__"):
        raise DataError(f"{what} is a stream, which has no length: load it without streaming=True.")
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    columns = []
    for kind, usual in (("Image", ("image", "img")), ("ClassLabel", ("label", "labels"))):
        fitting = [name for name in kinds if kinds[name] == kind] or [name for name in usual if name in kinds]
        best = [name for name in usual if name in fitting] or fitting
        if not best or (len(best) > 1 and best[0] not in usual):
            raise DataError(
                f"{what} has {'no' if not best else 'several'} {kind} column(s) among {listed(list(kinds))}: keep one, "
                f"or rename the one that is meant to {usual[0]!r} (rename_column)."
            )
        columns.append(best[0])
    image, label = columns
    plain = data.with_format(None)
    labels = plain[label][:]
    if kinds[image] == "Image":
        plain = plain.cast_column(image, type(data.features[image])(decode=False))

    def pair(number: int) -> tuple[Any, Any]:
        found = plain[number][image]
        if isinstance(found, Mapping):  # the encoded bytes, or where they are
            found = found["bytes"] if found["bytes"] is not None else _bytes(found["path"])
        return (np.asarray(found, dtype=np.uint8) if isinstance(found, list) else found), labels[number]

    return _read_items(pair, len(data), what, tuple(getattr(data.features[label], "names", None) or ()) or None)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _read_items(
    pair: Callable[[int], tuple[Any, Any]], count: int, what: str, classes: tuple[str, ...] | None
) -> _Part:
    """Look at every item once."""
    if count == 0:
        raise DataError(f"{what} holds no images.")
    digest, labels, channels = hashlib.sha256(), [], set()
    held: list[Pixels] | None = []
    for number in range(count):
        image, label = pair(number)
        labels.append(label.tolist() if hasattr(label, "tolist") else label)  # of a tensor or of NumPy
        if held is None and isinstance(image, bytes):
            digest.update(image)
            continue
        pixels = as_pixels(image, f"image {number} of {what}")
        channels.add(pixels.shape[-1])
        digest.update(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        if held is not None:
            held.append(pixels)
            if pixels.shape[:2] != held[0].shape[:2]:
                held = None
    if held is None and not channels <= {1, 3}:
        raise DataError(
            f"{what} has images of several sizes, which must be grey or RGB, not of {max(channels)} channels."
        )
    images = None if held is None else np.stack(_same_channels(held, what))
    numbers = as_array(labels, f"the labels of {what}")
    return _Part(what, numbers, images, lambda number: pair(number)[0], digest.hexdigest(), classes)


def _same_channels(images: Sequence[Pixels], what: str) -> list[Pixels]:
    """Grey images among colour ones become colour ones."""
    counts = {image.shape[-1] for image in images}
    if len(counts) == 1:
        return list(images)
    if counts != {1, 3}:
        raise DataError(f"the images of {what} have {' and '.join(map(str, sorted(counts)))} channels.")
    return [np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image for image in images]


def _splits(
    parts: dict[str, _Part], numbers: dict[str, tuple[Labels, Targets | None]], photographs: bool
) -> dict[str, Split | Photos]:
    """All of them in memory, or all of them photographs."""
    if photographs or not all(part.images is not None for part in parts.values()):
        for part in parts.values():
            if numbers[part.what][1] is not None:
                raise DataError(
                    f"{part.what} has probabilities for labels, which photographs cannot have: give images of one "
                    "size, without --data.random-resized-crop, --data.top-classes and --data.resplit."
                )
        return {name: part.photographs(numbers[part.what][0]) for name, part in parts.items()}
    found: dict[str, Split | Photos] = {}
    held = [part.images for part in parts.values() if part.images is not None]
    for (name, part), images in zip(parts.items(), _same_channels(held, "the splits"), strict=True):
        labels, targets = numbers[part.what]
        # The same bytes in whatever order they came; and torch wants an array that it may write to.
        planes = np.require(np.moveaxis(images, -1, 1), requirements=["C", "W"])
        found[name] = Split(planes, labels, np.arange(len(labels)), targets)
    return found


def _number_classes(
    parts: dict[str, _Part], names: Sequence[str] | None, usual: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, tuple[Labels, Targets | None]]]:
    """The classes, and for each split its labels as numbers, with the probabilities where there are such."""
    if names is None and (words := {str(w) for p in parts.values() if p.labels.dtype.kind == "U" for w in p.labels}):
        names = usual if usual is not None and words <= {*usual} else order_classes(words)
    numbers = {part.what: _read_labels(part, names) for part in parts.values()}
    if names is None:
        columns = [t.shape[1] for _, t in numbers.values() if t is not None]
        count = max(1 + max(int(labels.max()) for labels, _ in numbers.values()), *columns, 1)
        if count > MOST_CLASSES:
            raise DataError(f"labels run to {count - 1}: they number the classes, the first of which is 0.")
        names = usual if usual is not None and count <= len(usual) else [str(number) for number in range(count)]
    for what, (labels, targets) in numbers.items():
        if labels.min() < 0 or labels.max() >= len(names):
            raise DataError(
                f"the labels of {what} run from {labels.min()} to {labels.max()}, but there are {len(names)} classes, "
                "the first of which is 0."
            )
        if targets is not None and targets.shape[1] != len(names):
            raise DataError(f"{what} has probabilities of {targets.shape[1]} classes, and there are {len(names)}.")
        if targets is not None and np.isin(targets, (0, 1)).all():
            numbers[what] = (labels, None)  # one-hot
    return tuple(names), numbers


def _read_labels(part: _Part, names: Sequence[str] | None) -> tuple[Labels, Targets | None]:
    labels, what = part.labels, f"the labels of {part.what}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "U" and labels.ndim == 1 and names is not None:
        places = {name: number for number, name in enumerate(names)}
        if strange := sorted({str(label) for label in labels} - places.keys()):
            raise DataError(f"{what} name {listed(strange)}, none of the classes {listed(list(names))}.")
        return np.array([places[str(label)] for label in labels], dtype=np.int64), None
    if labels.dtype.kind in "iu" and labels.ndim == 1:
        if labels.max() > np.iinfo(np.int64).max:
            raise DataError(f"{what} run to {labels.max()}: they number the classes, the first of which is 0.")
        return labels.astype(np.int64), None
    if labels.dtype.kind in "fiub" and labels.ndim == 2:
        chances = labels.astype(np.float64)
        if not np.isfinite(chances).all() or chances.min() < 0 or abs(chances.sum(axis=1) - 1).max() > 1e-3:
            raise DataError(
                f"{what}, {list(labels.shape)}, are not probabilities: each row is at least 0 and sums to 1."
            )
        return chances.argmax(axis=1), (chances / chances.sum(axis=1, keepdims=True)).astype(np.float32)
    raise DataError(
        f"{what} are {labels.dtype} {list(labels.shape)}: give integers or names [N], or probabilities [N, K]."
    )


class _ItemStore:
    """The images of a dataset, asked for by their number, as encoded bytes (`photos.Store`)."""

    side: int | None = None
    upright: bool | None = None
    statistics: Statistics | None = None
    mean_image: NDArray[np.float32] | None = None

    def __init__(self, image: Callable[[int], Any], count: int, fingerprint: str, what: str) -> None:
        self._image, self._count, self.fingerprint, self._what = image, count, fingerprint, what
        self._lock = Lock()  # nobody's dataset promises to be asked by several threads

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> bytes:
        with self._lock:
            image = self._image(number)
        if isinstance(image, bytes):
            return image
        pixels, stream = as_pixels(image, self.place(number)), io.BytesIO()
        rgb = in_channels(pixels, 3, self.place(number))
        Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PPM")  # the quickest of all that lose nothing
        return stream.getvalue()

    def place(self, number: int) -> str:
        return f"image {number} of {self._what}"
