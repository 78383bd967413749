"""What is said before training about settings that will not do what they seem to."""

from __future__ import annotations

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
    said += [
        f"{flag(name)} is without effect {without}: {mend}." for name, idle, without, mend in _idle(config) if idle
    ]
    if config.grow_from is not None and config.grow_epochs >= config.end:
        said.append(
            f"the images grow for {config.grow_epochs:g} epochs ({flag('grow_epochs')}), and training ends after "
            f"{config.end}: the network is evaluated at a size that it has not seen."
        )
    untaught = [name for name, count in zip(dataset.names, _counts(dataset), strict=True) if not count]
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


def _idle(config: TrainConfig) -> list[tuple[str, bool, str, str]]:
    """Settings that need another one: the name, whether it was given without that, and how to mend it."""
    data, default = config.data, TrainConfig()
    mixes, last = config.cutmix > 0 or config.mixup > 0, config.horizon
    listed_epochs = [] if config.keep in (None, "log") else map(int, str(config.keep).split(","))
    beyond = [epoch for epoch in listed_epochs if epoch > last]
    grow, starts, flips, mixed = (flag(name) for name in ("grow_from", "init", "data.flip", "cutmix"))
    return [
        ("grow_epochs", config.grow_from is None and config.grow_epochs > 0, f"without {grow}", f"add {grow}"),
        ("replace_head", config.init is None and config.replace_head, f"without {starts}", f"add {starts}"),
        ("data.alternate_flips", data.alternate_flips and not data.flip, f"without {flips}", f"add {flips}"),
        (
            "mix_probability",
            config.mix_probability != default.mix_probability and not mixes,
            f"without {mixed} or {flag('mixup')}",
            "add one of them",
        ),
        (
            "data.noise_until",
            data.noise_until is not None and not data.colour_noise,
            f"without {flag('data.colour_noise')}",
            f"add {flag('data.colour_noise')} 0.1",
        ),
        ("keep", bool(beyond), f"for {', '.join(map(str, beyond[:5]))}", f"training ends after {last} epochs"),
    ]


def _counts(dataset: Dataset) -> list[int]:
    import numpy as np

    counts: list[int] = np.bincount(dataset.train.labels, minlength=len(dataset.classes)).tolist()
    return counts
