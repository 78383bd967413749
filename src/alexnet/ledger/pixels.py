"""The ledger's points about the way from a photograph to the network (no torch here)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose, sqrt

from alexnet.config import TrainConfig
from alexnet.config.colours import IMAGENET
from alexnet.ledger.facts import Facts, Training
from alexnet.ledger.points import Answer, differs, number, training_point


def _deviations(axes: Sequence[Sequence[float]]) -> list[float]:
    """The lengths of axes that are the columns of a matrix."""
    return [_norm(column) for column in zip(*axes, strict=True)]


@training_point(
    18,
    "colour noise: its size",
    paper="N(0, .1) times the eigenvalues of the RGB covariance (4.1); taken at its word 1,483 levels of 255",
    release=".1 times their square roots, all pixels then divided by 1.1 in training (convdata.py:103-117, 178-205)",
    effect="more than 1 point of top-1 by the paper (4.1), no log; variances on 0-1, the form in common use, are 2 to "
    "17 times too weak",
)
def _noise_size(facts: Facts, training: Training) -> Answer:
    data, axes = training.config.data, training.pixels.axes
    if not data.colour_noise:
        return Answer("none", **differs(True))
    shown = f"N(0, {number(data.colour_noise)})"
    shown += f" for {data.noise_probability:.0%} of the images" if data.noise_probability < 1 else ""
    divisor = training.pixels.divisor
    divided = f"; pixels are then divided by {number(divisor)}" if divisor != 1 else ""
    asked = isclose(data.colour_noise, 0.1) and data.noise_probability == 1
    released = asked and isclose(divisor, 1.1)
    if axes is None:
        own = "the standard deviations of the data's own colours"
        return Answer(f"{shown} times {own}{divided}", paper=True, release=not released)
    lengths = sorted(_deviations(axes))
    scatter, expected = _norm(lengths), _scatter(training)
    right = 0.5 < scatter / expected < 2
    kind = "standard deviations" if right else f"not the standard deviations, which are {number(expected)} together"
    shown += f" times {', '.join(map(number, lengths))} levels of 255 along the axes of colour, {kind}{divided}"
    eigenvalues = [length**2 for length in _deviations(IMAGENET.colour_axes)]
    literal = asked and not divided and 0.5 < scatter / _norm(eigenvalues) < 2
    return Answer(shown, paper=not literal, release=not (released and right))


def _norm(values: Sequence[float]) -> float:
    return sqrt(sum(value**2 for value in values))


def _scatter(training: Training) -> float:
    """How far the pixels' colours scatter in all, in levels of 255: the square root of the covariance's trace."""
    own = training.pixels.std if training.config.data.std is None and not training.pixels.photographs else None
    if own is not None:
        return 255 * _norm(own)
    return _norm(_deviations(IMAGENET.colour_axes))


@training_point(
    19,
    "colour noise: its end",
    paper="no end is mentioned (4.1)",
    release="off from epoch 67 on (layer-params-145.cfg)",
    effect="not known",
)
def _noise_end(facts: Facts, training: Training) -> Answer:
    data, end = training.config.data, training.config.end
    if not data.colour_noise:
        return Answer("no colour noise: does not apply")
    if data.noise_until is None:
        return Answer(f"in all {end} epochs", paper=False, release=True)
    shown = f"off from epoch {data.noise_until + 1} on"
    return Answer(shown, paper=data.noise_until < end, release=data.noise_until != 66)


@training_point(
    21,
    "mean and scale of the pixels",
    paper="the training set's mean of each pixel is subtracted, and nothing else is done (2)",
    release="the centre of the 256x256 mean image is subtracted from every crop (convdata_jpeg.py:95)",
    effect='a scalar mean instead: "no better" (logged net 136); of the scale see point 3',
)
def _mean(facts: Facts, training: Training) -> Answer:
    pixels = training.pixels
    raw = pixels.std is not None and all(isclose(std, 1 / 255) for std in pixels.std)
    if pixels.mean_image:
        shown = "the centre of the mean image is subtracted"
    elif pixels.mean_image is None:
        shown = "the centre of the mean image is subtracted (where photographs were prepared; else their mean colour)"
    elif pixels.mean is None:
        shown = "the training split's mean of each channel is subtracted"
    elif any(pixels.mean):
        shown = f"{', '.join(number(255 * m) for m in pixels.mean)} of 255 are subtracted from the channels"
    else:
        shown = "nothing is subtracted"
    if raw:
        shown += ", pixels stay on 0-255"
    elif pixels.std is None:
        shown += ", and they are divided by the split's standard deviations"
    else:
        shown += f", and they are divided by {', '.join(number(255 * std) for std in pixels.std)}"
    return Answer(shown, **differs(pixels.mean_image is False or not raw))


@training_point(
    22,
    "resize",
    paper="short side 256, then the central 256x256 (2)",
    release="likewise (cuda-convnet2's make-data.py: CROP_TO_SQUARE)",
    effect='not known; whole images in a square were tried: "full sucks"',
)
def _resize(facts: Facts, training: Training) -> Answer:
    data, pixels = training.config.data, training.pixels
    if not pixels.photographs:
        enlarged = f", resized to {data.resize}" if data.resize else " as they are"
        return Answer(f"small images{enlarged}", **differs(True))
    if data.random_resized_crop:
        shown = f"crops of {data.min_area:.0%} to 100 % of the area, resized to {pixels.size}"
        return Answer(shown, **differs(True))
    return Answer(f"short side {pixels.side}, then the central square", **differs(pixels.side != 256))


@training_point(
    23,
    "crops and flips: how they are drawn",
    paper="random 224x224 patches of 256x256 and their mirror images; 2,048 by its count (4.1)",
    release="33x33 places, mirrored or not; one draw for 32 consecutive images (convdata_jpeg.py:77, 238-239)",
    effect="of the shared draws not known; without crops and flips it overfits substantially (4.1)",
)
def _crops(facts: Facts, training: Training) -> Answer:
    data, pixels = training.config.data, training.pixels
    side = None if pixels.side is None else pixels.side + 2 * data.pad
    places = None if side is None else max(1, side - pixels.size + 1)
    moving = data.random_resized_crop or places is None or places > 1
    if data.random_resized_crop:
        shown = "random area and aspect"
    elif not moving:
        shown = "no random crops"
    else:
        shown = f"{places}x{places} places" if places else f"random {pixels.size}x{pixels.size} crops"
    shown += ", mirrored or not" if data.flip else ", never mirrored"
    if moving or data.flip:
        shown += f", drawn for {'each image' if data.crop_chunk == 1 else f'{data.crop_chunk} images in a row'}"
    further = _further(training.config)
    paper = data.random_resized_crop or bool(further) or not (moving and data.flip)
    release = paper or data.crop_chunk != 32 or places != 33
    return Answer("; ".join([shown, *further]), paper=paper, release=release)


def _further(config: TrainConfig) -> list[str]:
    """What else is done to training images, none of it known in 2012."""
    used = {
        "flips take turns": config.data.flip and config.data.alternate_flips,
        "CutMix": config.cutmix > 0,
        "mixup": config.mixup > 0,
        f"images grow from {config.grow_from} pixels": config.grow_from is not None,
    }
    return [text for text, done in used.items() if done]


@training_point(
    24,
    "order of the images",
    paper="not said",
    release="shuffled once when the batches were made, then the same order in every epoch (worker.cu:92)",
    effect="not known",
)
def _order(facts: Facts, training: Training) -> Answer:
    if training.config.data.reshuffle:
        return Answer("shuffled anew for every epoch", release=True)
    return Answer("shuffled once, then the same in every epoch", release=False)


POINTS = (_noise_size, _noise_end, _mean, _resize, _crops, _order)
