"""What a network says about single images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet.compute import resolve_compute
from alexnet.data.images import Picture, as_views, find_images, given_picture, read_picture
from alexnet.errors import DataError, UsageError
from alexnet.inference.forward import answering
from alexnet.inference.trained import Trained, as_trained
from alexnet.runs.folder import Run


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first; or why it could not be read."""

    path: str
    """Of its file, or "image 0", "image 1" ... by its place among those that a program handed over."""
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    truth: str | None = None
    """The class that the image's folder is named after, by WNID or by name, if it is one of the network's."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def predict(
    target: Run | Trained | str | Path,
    images: object,
    *,
    top: int = 5,
    views: int = 1,
    model: str | None = None,
    device: str = "auto",
) -> list[Prediction]:
    """The `top` classes of every image, in float32, over 1 view or several (2, 9 or the paper's 10).

    `target` is a run, a checkpoint, a weights file or "torchvision". `images` are one or a list of: names of files,
    folders and patterns; encoded images (JPEG, PNG ...) as bytes; Pillow images; NumPy arrays or tensors uint8
    [H, W, C], [C, H, W] or [H, W], not normalised; or they are one array or tensor of a batch, [N, H, W, C] or
    [N, C, H, W]. All are turned upright as their EXIF tag says, resized, cut and normalised as the network's
    evaluation does it. An image that cannot be read has an `error`, and the others are still answered.
    Raises UsageError, DataError or CheckpointError.
    """
    trained = as_trained(target, model)
    count = len(trained.names)
    if top < 1:
        raise UsageError(f"--top {top} must be at least 1.")
    compute = resolve_compute(device, "fp32")
    forward = answering(trained.model, compute)
    found: list[Prediction] = []
    for place, image in _asked(images):
        try:
            picture = _picture(place, image, trained.model.variant.in_channels)
        except DataError as problem:
            found.append(Prediction(str(place), error=str(problem)))
            continue
        with torch.inference_mode(), compute.settings():
            mean = forward(as_views(picture, trained.preprocessing, views)).softmax(dim=1).mean(dim=0)
        best = mean.topk(min(top, count))
        names = tuple(trained.names[i] for i in best.indices.tolist())
        truth = trained.known_class(place.absolute().parent.name) if isinstance(place, Path) else None
        found.append(Prediction(str(place), names, tuple(best.values.tolist()), picture.notes, truth))
    return found


def _asked(images: Any) -> list[tuple[Path | str, Any]]:
    """Files by their path, and images that a program holds by their number."""
    if isinstance(images, str | Path):
        return [(path, None) for path in find_images(images)]
    single = isinstance(images, bytes) or len(getattr(images, "shape", ())) in (2, 3)  # both are iterable too
    if single or not isinstance(images, Iterable):
        images = [images]
    found: list[tuple[Path | str, Any]] = []
    for number, image in enumerate(images):
        held = not isinstance(image, str | Path)
        found += [(f"image {number}", image)] if held else [(path, None) for path in find_images(image)]
    if not found:
        raise DataError("no image was named: give files, folders or patterns.")
    return found


def _picture(place: Path | str, image: Any, channels: int) -> Picture:
    return read_picture(place, channels) if isinstance(place, Path) else given_picture(image, channels, place)
