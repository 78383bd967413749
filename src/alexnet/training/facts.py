"""What the ledger needs to know of a run: its network as built, its pixels, and every parameter's course."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from alexnet.config import TrainConfig
from alexnet.config.data import CROP, RESIZE
from alexnet.data.augment import Preprocessing
from alexnet.data.batches import Loader
from alexnet.data.resident import ResidentSplit
from alexnet.data.sources import holds_photographs
from alexnet.ledger import Pixels, Stage, Training, as_rows, examine
from alexnet.ledger.built import facts_of_model
from alexnet.models.columns import ColumnNetwork
from alexnet.models.network import AlexNet, blank_model
from alexnet.models.variants import VARIANTS
from alexnet.training.learner import freeze
from alexnet.training.optim import Course, Optimizer


def ledger_of_run(
    config: TrainConfig,
    model: AlexNet | ColumnNetwork,
    images: Loader | None = None,
    prep: Preprocessing | None = None,
) -> list[dict[str, Any]]:
    """The ledger of a run, as rows (`alexnet.ledger.as_rows`): of `model` as it is trained by `config`.

    `images` is the training split; where it was not opened, `prep` is what a checkpoint says of the pixels, and without
    that they are what the configuration says. What the configuration freezes is frozen here too. Raises UsageError for
    rules that select no parameter.
    """
    if isinstance(model, AlexNet):
        freeze(model, config.model.freeze_to)
    pixels = _pixels(config, model.variant.input_size, images, prep)
    facts = replace(facts_of_model(model), training=Training(config, pixels, course_of(config, model)))
    return as_rows(examine(facts))


def ledger_of_config(config: TrainConfig) -> list[dict[str, Any]]:
    """The ledger of a configuration alone, as rows; what the data decides is as the network's table has it."""
    fields = {
        name: value for name, value in asdict(config.model).items() if value not in (None, ()) and name != "freeze_to"
    }
    name = fields.pop("variant")
    side = 1  # under an unknown name, which is the error to show
    if name in VARIANTS:
        photographs = holds_photographs(config.data.source)
        side = config.data.crop or (CROP if photographs else config.data.resize or VARIANTS[name].input_size)
    return ledger_of_run(config, blank_model(name, **fields | {"input_size": side}))


def course_of(config: TrainConfig, model: AlexNet | ColumnNetwork) -> dict[str, tuple[Stage, ...]]:
    """At which rate, decay and momentum every parameter learns, by name, each from the epoch on in which it changes.

    It is read from the optimiser itself, as if an epoch were one step: of a warm-up it has the rate at the end of each
    epoch. The plateau schedule's drops, which validation decides, are not foreseen.
    """
    optimizer = Optimizer(config.optim, model)
    course = Course(config.legs, steps_per_epoch=1)
    stages: dict[str, list[Stage]] = {name: [] for name, _ in model.named_parameters()}
    for epoch in range(1, config.horizon + 1):
        optimizer.set_lr(course.lr(epoch - 1), epoch)
        for group in optimizer.groups:
            now = Stage(epoch, group.lr, group.weight_decay, group.momentum)
            for name in group.parameters:
                if not stages[name] or replace(stages[name][-1], epoch=epoch) != now:
                    stages[name].append(now)
    frozen = Stage(1, 0.0, 0.0, 0.0)
    return {name: tuple(found) or (frozen,) for name, found in stages.items()}


def _pixels(config: TrainConfig, size: int, images: Loader | None, prep: Preprocessing | None) -> Pixels:
    data = config.data
    photographs = not isinstance(images, ResidentSplit) if images is not None else holds_photographs(data.source)
    side = data.resize or (RESIZE if photographs else size if data.crop is None else None)
    noise = images.noise() if images is not None else None
    if images is not None:
        prep = images.prep
        side = images.images.shape[-1] if isinstance(images, ResidentSplit) else prep.resize
    shown: dict[str, Any]
    if prep is not None:
        shown = {"size": prep.size, "mean": prep.mean, "std": prep.std, "mean_image": prep.mean_image is not None}
    else:  # whether photographs have a mean image, the data say
        mean_image = None if photographs and data.mean_image else data.mean_image
        shown = {"size": data.crop or size, "mean": data.mean, "std": data.std, "mean_image": mean_image}
    return Pixels(
        **shown,
        side=side,
        photographs=photographs,
        axes=noise.axes if noise else None,
        divisor=noise.divisor if noise else data.noise_divisor,
    )
