"""What is said before training about settings that will not do what they seem to."""

from __future__ import annotations

from alexnet.config import TrainConfig
from alexnet.config.values import flag
from alexnet.data.splits import Dataset


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
    if not len(dataset.val) and config.data.val_fraction:
        drops = any(leg.optim.schedule == "plateau" for leg in config.legs)
        said.append(
            f"{flag('data.val_fraction')} {config.data.val_fraction:g} leaves no validation image: of "
            f"{len(dataset.train)} training images, {len(dataset.classes)} classes have too few each. "
            f"{'The plateau schedule will never drop the rate, and the' if drops else 'The'} latest weights count as "
            f"the best; raise {flag('data.val_fraction')} or {flag('data.fraction')}."
        )
    return said
