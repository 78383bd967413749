"""What the pipeline does to a few images, by the code that does it in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet.config import TrainConfig
from alexnet.data.augment import central_views, random_crops
from alexnet.data.batches import Loader
from alexnet.data.decode import BadImageError, Pixels, decode, resize_fast, shortened
from alexnet.data.loading import open_split
from alexnet.data.photos import Photos
from alexnet.data.resident import resize_short_side
from alexnet.data.sources import load_dataset
from alexnet.data.splits import Split
from alexnet.data.streamed import StreamedSplit
from alexnet.errors import UsageError

CPU = torch.device("cpu")
MOST = 100  # images that one figure shows
SPREAD = 2.5  # standard deviations that the last column shows from black to white


class Stage(NamedTuple):
    """An image on its way: what has been done to it, and how it looks then, uint8 [H, W, C]."""

    title: str
    pixels: Pixels
    remark: str = ""
    """What the title says of images like this one and does not hold for it."""


@dataclass(frozen=True)
class Stages:
    """What becomes of one training image: its `place` and class `name`, and its stages."""

    place: str
    name: str
    stages: list[Stage]


def pipeline_stages(config: TrainConfig, count: int = 4) -> list[Stages]:
    """The stages of `count` training images of a recipe, drawn by its seed: original, resized, cropped for training,
    with colour noise, as the network sees it, and as evaluation crops it.

    Raises UsageError and DataError.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"--images {count} is out of range: it must be at least 1 and at most {MOST}.")
    dataset = load_dataset(config.data)
    train = dataset.train
    loader = open_split(train, CPU, config.data)
    prep = loader.prep
    plan = loader.plan(config.seed, 0, CPU)
    rows = plan.order[:count]
    stages = []
    for row in rows.tolist():
        original, resized, square, central = _cut(train, loader, config.seed, row)
        draws, one = plan.draws[row : row + 1], slice(row, row + 1)
        crop = random_crops(square, draws, prep.size, config.data.pad, config.data.flip)
        shift = None if plan.shifts is None else plan.shifts[one]
        shown = [Stage("original", original)]
        if prep.resize:
            shown.append(Stage(f"short side {prep.resize}", resized))
        shown.append(Stage("training crop", _pixels(crop)))
        if shift is not None:
            noisy = _pixels((crop.float() + shift[:, :, None, None]).clamp(0, 255))
            # --data.noise-probability leaves some images as they are.
            shown.append(Stage("colour noise", noisy, "" if shift.any() else "no noise drawn"))
        seen = prep.normalise(crop, shift, plan.divisor)
        shown.append(Stage("as the network sees it", _pixels((127.5 * (1 + seen / _scale(seen))).clamp(0, 255))))
        shown.append(Stage("evaluation crop", _pixels(central)))
        (place,) = train.places(np.array([row]))
        stages.append(Stages(str(place), dataset.names[train.labels[row]], shown))
    return stages


def _cut(train: Split | Photos, loader: Loader, seed: int, row: int) -> tuple[Pixels, Pixels, Tensor, Tensor]:
    """The original, the resized image, what training crops from [1, C, H, W], and the evaluation crop [1, C, S, S]."""
    prep = loader.prep
    if isinstance(train, Split):
        image = torch.from_numpy(train.images[row : row + 1])
        resized = resize_short_side(image, prep.resize) if prep.resize else image
        return _pixels(image), _pixels(resized), resized, central_views(resized, prep.size)[:, 0]
    assert isinstance(loader, StreamedSplit)
    content = train.read(row)
    try:
        original = decode(content, upright=loader.upright)
    except BadImageError as problem:
        raise problem.at(train.place(row)) from None
    assert prep.resize is not None
    resized_ = resize_fast(*shortened(original, prep.resize))
    square = loader.training_cut(seed, 0)(content, row)
    central = loader.evaluation_cut()(content, row)
    return original, resized_, _batch(square), _batch(central)


def _batch(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def _pixels(images: Tensor) -> Pixels:
    pixels: Pixels = images[0].permute(1, 2, 0).to(torch.uint8).numpy()
    return pixels


def _scale(seen: Tensor) -> Tensor:
    """The value that is shown white: a few deviations, whatever unit the recipe normalises to."""
    return SPREAD * seen.std().clamp(min=1e-6)
