"""What is said before training about settings that will not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np

from alexnet.config import DataConfig, OptimConfig, TrainConfig
from alexnet.config.values import flag
from alexnet.data.sources import SOURCES, holds_photographs
from alexnet.data.splits import Dataset
from alexnet.data.streamed import CROP, RESIZE
from alexnet.errors import listed

_AREAS, _NOISE = "data.random_resized_crop", "data.colour_noise"


def cautions(config: TrainConfig, dataset: Dataset) -> list[str]:
    """Whole sentences, each about a setting that is allowed and probably a mistake; none where all is well."""
    said = []
    for leg in config.legs:
        if 2 * leg.optim.warmup_epochs > leg.epochs:
            said.append(
                f"the warm-up takes {leg.optim.warmup_epochs:g} of {leg.epochs} epochs, more than half: the learning "
                f"rate hardly arrives at {leg.optim.lr:g} ({flag('optim.warmup_epochs')})."
            )
    said += _idle(config)
    said += _idle_in_schedules(config)
    if config.grow_from is not None and config.grow_epochs >= config.end:
        said.append(
            f"the images grow for {config.grow_epochs:g} epochs ({flag('grow_epochs')}), and training ends after "
            f"{config.end}: the network is evaluated at a size that it has not seen. Let them grow for fewer, such as "
            f"{0.75 * config.end:g}."
        )
    life = max(0.0, config.end - config.ema_after) * ceil(len(dataset.train) / config.batch_size)
    if config.ema and 1 / (1 - config.ema) > (life + 10) / 9:  # as far as a young average remembers
        said.append(
            f"{flag('ema')} {config.ema:g} asks to remember {1 / (1 - config.ema):,.0f} steps, and an average "
            f"remembers no more than a ninth of its life, here of {life:,.0f} steps: a smaller one does the same."
        )
    data, photographs = config.data, holds_photographs(config.data.source)
    if photographs and (part := (data.crop or CROP) / (data.resize or RESIZE)) < 0.8:
        said.append(
            f"evaluation sees the central {part**2:.0%} of a square photograph, {data.crop or CROP} of "
            f"{data.resize or RESIZE} pixels: {flag('data.resize')} {round((data.crop or CROP) * RESIZE / CROP)} with "
            f"{flag('data.crop')} {data.crop or CROP} shows as much as usual."
        )
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.names))
    untaught = [name for name, count in zip(dataset.names, counts, strict=True) if not count]
    if untaught:
        said.append(
            f"no training image is of the class{'es' if len(untaught) > 1 else ''} {listed(untaught)}, which cannot be "
            f"learned so: raise {flag('data.fraction')}, lower {flag('data.val_fraction')}, or add images."
        )
    if not len(dataset.val) and config.data.val_fraction:
        drops = any(leg.optim.schedule == "plateau" for leg in config.legs)
        stops = f"{flag('early_stop')} will never end it. " if config.early_stop is not None else ""
        said.append(
            f"{flag('data.val_fraction')} {config.data.val_fraction:g} leaves no validation image: of "
            f"{len(dataset.train)} training images, {len(dataset.classes)} classes have too few each. {stops}"
            f"{'The plateau schedule will never drop the rate, and the' if drops else 'The'} latest weights count as "
            f"the best; raise {flag('data.val_fraction')} or {flag('data.fraction')}."
        )
    return said


def _idle(config: TrainConfig) -> Iterator[str]:
    """A sentence for each setting that was given and does nothing without another one."""
    data, optim, mixes = config.data, config.optim, config.cutmix > 0 or config.mixup > 0
    needs = {
        "grow_epochs": (config.grow_epochs > 0 and config.grow_from is None, "grow_from"),
        "replace_head": (config.replace_head and config.init is None, "init"),
        "mix_probability": (config.mix_probability != TrainConfig.mix_probability and not mixes, "cutmix"),
        "mix_until": (config.mix_until is not None and not mixes, "cutmix"),
        "ema_after": (config.ema_after > 0 and not config.ema, "ema"),
        "data.alternate_flips": (data.alternate_flips and not data.flip, "data.flip"),
        "data.min_area": (data.min_area != DataConfig.min_area and not data.random_resized_crop, _AREAS),
        "data.noise_until": (data.noise_until is not None and not data.colour_noise, "data.colour_noise"),
        **{
            f"data.{name}": (getattr(data, name) != getattr(DataConfig, name) and not data.colour_noise, _NOISE)
            for name in ("noise_probability", "noise_divisor")
        },
    }
    for name, (idle, other) in needs.items():
        if idle:
            yield f"{flag(name)} is without effect without {flag(other)}: add that, or leave this out."
    if config.start and config.init is not None:
        yield f"{flag('start')} is without effect with {flag('init')}, whose weights take its place."
    if data.source in SOURCES and SOURCES[data.source].photographs is False:  # what a program holds may be either
        for name in ("orientation", "random_resized_crop", "workers", "cache", "max_bad"):
            if getattr(data, name) != getattr(DataConfig, name):
                yield f"{flag(f'data.{name}')} is without effect on {data.source}: it is for photographs."
    averaged = optim.name in ("adam", "adamw")
    for name, idle in (("momentum", averaged), ("betas", not averaged)):
        if idle and getattr(optim, name) != getattr(OptimConfig, name):
            yield f"{flag(f'optim.{name}')} is without effect with {flag('optim.name')} {optim.name}."
    if beyond := [str(epoch) for epoch in config.kept_epochs if epoch > config.end]:
        yield f"{flag('keep')} {listed(beyond)} is beyond the {config.end} epochs of this run."
    if config.early_stop is not None and config.legs[-1].has_horizon:
        yield (
            f"{flag('early_stop')} is without effect in the schedule {config.legs[-1].optim.schedule}, whose rate "
            f"falls until the end: {flag('stop_after')} ends a run sooner."
        )


_BELONGS = {
    "step_epochs": ("step",),
    "drops": ("step",),
    "factor": ("step", "plateau"),
    "patience": ("plateau",),
    "max_drops": ("plateau",),
    "peak": ("one-cycle", "triangular"),
}
"""The settings that only some schedules read."""


def _idle_in_schedules(config: TrainConfig) -> Iterator[str]:
    """A sentence for each setting that no schedule reads which it was given to: those of --optim reach every leg, those
    of a line of --then its own leg alone."""
    schedules = {leg.optim.schedule for leg in config.legs}
    for name, where in _BELONGS.items():
        given = flag(f"optim.{name}")
        if getattr(config.optim, name) != getattr(OptimConfig, name) and not schedules & set(where):
            yield f"{given} is without effect in the schedule {config.optim.schedule}: it is for {listed(where)}."
        for text, leg in zip(config.then, config.legs[1:], strict=True):
            if getattr(leg.optim, name) != getattr(config.optim, name) and leg.optim.schedule not in where:
                which = f'{name.replace("_", "-")} in {flag("then")} "{text}"'
                yield f"{which} is without effect in the schedule {leg.optim.schedule}: it is for {listed(where)}."
    if config.optim.drops and config.optim.step_epochs != OptimConfig.step_epochs:
        yield f"{flag('optim.step_epochs')} is without effect with {flag('optim.drops')}, which say when it drops."
