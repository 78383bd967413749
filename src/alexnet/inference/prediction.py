"""What a network says about single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet.compute import resolve_compute
from alexnet.data.images import as_views, find_images, read_picture
from alexnet.errors import DataError, UsageError
from alexnet.inference.trained import Trained, open_trained
from alexnet.runs.folder import Run


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first; or why it could not be read."""

    path: str
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
    images: Sequence[str | Path] | str | Path,
    *,
    top: int = 5,
    views: int = 1,
    model: str | None = None,
    device: str = "auto",
) -> list[Prediction]:
    """The `top` classes of every image (files, folders, patterns), in float32, over 1 view or the paper's 10.

    `target` is a run, a checkpoint, a weights file or "torchvision". An image that cannot be read has an `error`, and
    the others are still answered. Raises UsageError, DataError or CheckpointError.
    """
    trained = target if isinstance(target, Trained) else open_trained(target, model)
    count = len(trained.names)
    if top < 1:
        raise UsageError(f"--top {top} must be at least 1.")
    compute = resolve_compute(device, "fp32")
    forward = compute.inference(trained.model)
    found: list[Prediction] = []
    for path in find_images(images):
        try:
            picture = read_picture(path, trained.model.variant.in_channels)
        except DataError as problem:
            found.append(Prediction(str(path), error=str(problem)))
            continue
        with torch.inference_mode(), compute.settings():
            mean = forward(as_views(picture, trained.preprocessing, views)).softmax(dim=1).mean(dim=0)
        best = mean.topk(min(top, count))
        names = tuple(trained.names[i] for i in best.indices.tolist())
        truth = trained.known_class(path.absolute().parent.name)
        found.append(Prediction(str(path), names, tuple(best.values.tolist()), picture.notes, truth))
    return found
