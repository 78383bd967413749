"""What is said before training about settings that will not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np

from alexnet.config import DataConfig, OptimConfig, TrainConfig
from alexnet.config.data import CROP, RESIZE
from alexnet.config.values import flag, flatten
from alexnet.data.sources import COLUMNS, SOURCES, holds_photographs
from alexnet.data.splits import Dataset
from alexnet.errors import listed
from alexnet.recipes import RECIPES

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
    # Who takes CutMix away from a recipe has no need to hear of the other settings that it had for that.
    own = flatten(RECIPES.get(config.name, TrainConfig()))
    given = {name for name, value in flatten(config).items() if value != own[name]}
    said += [sentence for name, sentence in (*_idle(config), *_idle_in_schedules(config)) if name in given]
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
    for split, field in (("val", "data.val_fraction"), ("test", "data.test_fraction")):
        if field in given and split not in dataset.drawn and len(getattr(dataset, split)):
            said.append(f"{flag(field)} is without effect: this data comes with a {split} split of its own.")
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


def _idle(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Each setting that has a value and does nothing without another one, by its dotted name, and a sentence on it."""
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
            yield name, f"{flag(name)} is without effect without {flag(other)}: add that, or leave this out."
    if config.start and config.init is not None:
        yield "start", f"{flag('start')} is without effect with {flag('init')}, whose weights take its place."
    if data.source in SOURCES and SOURCES[data.source].photographs is False:  # what a program holds may be either
        for field in ("orientation", "random_resized_crop", "workers", "cache", "max_bad"):
            if getattr(data, field) != getattr(DataConfig, field):
                name = f"data.{field}"
                yield name, f"{flag(name)} is without effect on {data.source}: it is for photographs."
    for field in COLUMNS if data.source != "table" else ():
        if getattr(data, field) != getattr(DataConfig, field):
            yield f"data.{field}", f"{flag(f'data.{field}')} is without effect on {data.source}: it is for table."
    averaged = optim.name in ("adam", "adamw")
    for field, idle in (("momentum", averaged), ("betas", not averaged)):
        if idle and getattr(optim, field) != getattr(OptimConfig, field):
            name = f"optim.{field}"
            yield name, f"{flag(name)} is without effect with {flag('optim.name')} {optim.name}."
    if beyond := [str(epoch) for epoch in config.kept_epochs if epoch > config.end]:
        yield "keep", f"{flag('keep')} {listed(beyond)} is beyond the {config.end} epochs of this run."
    if config.early_stop is not None and config.legs[-1].has_horizon:
        yield (
            "early_stop",
            f"{flag('early_stop')} is without effect in the schedule {config.legs[-1].optim.schedule}, whose rate "
            f"falls until the end: {flag('stop_after')} ends a run sooner.",
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


def _idle_in_schedules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Likewise each setting that no schedule reads which it was given to: those of --optim reach every leg, those of a
    line of --then its own leg alone."""
    schedules = {leg.optim.schedule for leg in config.legs}
    for field, where in _BELONGS.items():
        name, here = f"optim.{field}", config.optim.schedule
        if getattr(config.optim, field) != getattr(OptimConfig, field) and not schedules & set(where):
            yield name, f"{flag(name)} is without effect in the schedule {here}: it is for {listed(where)}."
        for text, leg in zip(config.then, config.legs[1:], strict=True):
            if getattr(leg.optim, field) != getattr(config.optim, field) and leg.optim.schedule not in where:
                which, there = f'{field.replace("_", "-")} in {flag("then")} "{text}"', leg.optim.schedule
                yield "then", f"{which} is without effect in the schedule {there}: it is for {listed(where)}."
    if config.optim.drops and config.optim.step_epochs != OptimConfig.step_epochs:
        name = "optim.step_epochs"
        yield name, f"{flag(name)} is without effect with {flag('optim.drops')}, which say when it drops."
