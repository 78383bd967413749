"""What is said before training about settings that will not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alexnet.config import TrainConfig
from alexnet.config.values import flag
from alexnet.data.splits import Dataset
from alexnet.errors import listed


def cautions(config: TrainConfig, dataset: Dataset) -> list[str]:
    """Whole sentences, each about a setting that is allowed and probably a mistake; none where all is well."""
    said = []
    for leg in config.legs:
        if 2 * leg.optim.warmup_epochs > leg.epochs:
            said.append(
                f"the warm-up takes {leg.optim.warmup_epochs:g} of {leg.epochs} epochs, more than half: the learning "
                f"rate hardly arrives at {leg.optim.lr:g} ({flag('optim.warmup_epochs')})."
            )
    if config.optim.drops and not any(leg.optim.schedule == "step" for leg in config.legs):
        said.append(
            f"{flag('optim.drops')} is without effect in the schedule {config.optim.schedule}: "
            f"{flag('optim.schedule')} step drops the rate there."
        )
    said += _idle(config)
    if config.grow_from is not None and config.grow_epochs >= config.end:
        said.append(
            f"the images grow for {config.grow_epochs:g} epochs ({flag('grow_epochs')}), and training ends after "
            f"{config.end}: the network is evaluated at a size that it has not seen."
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
    data, mixes = config.data, config.cutmix > 0 or config.mixup > 0
    needs = {
        "grow_epochs": (config.grow_epochs > 0 and config.grow_from is None, "grow_from"),
        "replace_head": (config.replace_head and config.init is None, "init"),
        "mix_probability": (config.mix_probability != TrainConfig.mix_probability and not mixes, "cutmix"),
        "data.alternate_flips": (data.alternate_flips and not data.flip, "data.flip"),
        "data.noise_until": (data.noise_until is not None and not data.colour_noise, "data.colour_noise"),
    }
    for name, (idle, other) in needs.items():
        if idle:
            yield f"{flag(name)} is without effect without {flag(other)}: add that, or leave this out."
    kept = [] if config.keep in (None, "log") else [int(epoch) for epoch in str(config.keep).split(",")]
    if beyond := [str(epoch) for epoch in kept if epoch > config.horizon]:
        yield f"{flag('keep')} {listed(beyond)} is beyond the {config.horizon} epochs of this run."
