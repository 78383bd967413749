"""What a run is made of: frozen dataclasses that the command line, YAML files and Python share (no torch here).

The text under each field is its help on the command line; `None` means "decided by the data or the model's table".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from alexnet.config.data import DataConfig
from alexnet.config.model import FORMER, ModelConfig
from alexnet.config.optim import Leg, OptimConfig, parse_leg
from alexnet.config.ranges import Range, check_ranges
from alexnet.config.values import coerce_fields, dotted, flag, override
from alexnet.errors import UsageError

__all__ = ["DataConfig", "Leg", "ModelConfig", "OptimConfig", "TrainConfig", "dump", "load"]
FORMAT = 4  # 1: by dotted names; 2: nested; since 3 some words mean something else: `_upgrade`


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    epochs: int = 10
    """Passes over the training set: the length of the learning-rate schedule."""
    then: tuple[str, ...] = ()
    """Go on after these epochs in further legs, each with a schedule of its own: "10" epochs, or "10 lr=0.002
    schedule=cosine" with other settings of --optim."""
    stop_after: int | None = None
    """Stop and test after this many epochs; the schedule keeps its length, so that the run can go on later. All of them
    is no stop: a run that is then given more epochs goes on to their end."""
    early_stop: int | None = None
    """Stop and test after this many epochs without a better validation accuracy, counted anew after each drop of the
    learning rate; a drop that is still to come is waited for, and so is the end of the schedules that fall until
    then: cosine, one-cycle and triangular."""
    score_train: int = 0
    """Evaluate the whole training split this many times an epoch, evenly spaced, as validation is: without augmentation
    and dropout. The error that training itself logs is of a network that moves on, on altered images."""
    stop_train_error: float | None = None
    """Stop and test those weights as soon as such an evaluation finds at most this error; needs --score-train."""
    test: bool = True
    """End with the result on the test split; --no-test ends with that on the validation split, for attempts of which
    one will be chosen by it."""
    batch_size: int = 128
    """Images a step, over all processes."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout."""
    name: str = "custom"
    """Name of the recipe."""
    accumulate: int = 1
    """Split each batch into this many parts to save memory; the result is the batch's, but for dropout's masks, which
    every part draws for itself."""
    label_smoothing: float = 0.0
    """Label smoothing."""
    cutmix: float = 0.0
    """CutMix: every training image gets a rectangle of another one, and its label the same part of the other's; this is
    the alpha of the Beta distribution that draws the areas (1: all alike), and 0 is off. Training accuracy then counts
    the class that most of an image shows."""
    mixup: float = 0.0
    """mixup: likewise, but the other image is faded in; with CutMix, each image gets one or the other."""
    mix_probability: float = 1.0
    """Part of the training images that are mixed, drawn for each."""
    mix_until: int | None = None
    """Mix images in this many epochs only, and leave them whole afterwards."""
    grow_from: int | None = None
    """Side in pixels of the training images at first, central parts of what they are later; it grows by 4 pixels at a
    time (--grow-epochs). Networks are evaluated at their full size."""
    grow_epochs: float = 0.0
    """Epochs before the training images have their full size (--grow-from)."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights that is evaluated instead of them; 0 is off. It remembers
    1 / (1 - decay) steps, and never more than a ninth of those since it began."""
    ema_after: float = 0.0
    """Epochs before that average begins; until then the weights themselves are evaluated."""
    init: str | None = None
    """Weights file, checkpoint or run to start from; torchvision downloads its published weights."""
    replace_head: bool = False
    """With --init: start the last layer afresh, for other classes."""
    start: tuple[Literal["whiten", "identity", "lsuv"], ...] = ()
    """What training images do to the initial weights, unless --init gives them: whiten (conv1 decorrelates patches),
    identity (no images: 3x3 convolutions pass on their input), lsuv (every layer but the last answers with variance
    1)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    columns: Literal[1, 2] = 1
    """Under torchrun: 2 puts one column of the network, half of every layer, on each of two processes, as on the two
    GPUs of 2012; 1 puts all of it on each, which share the batch. The result is the same."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 where the processor has it, else fp32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    log_every: int = 50
    """Steps between logged values."""
    save_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; each epoch's end is always saved."""
    keep: str | None = None
    """Keep the weights after these epochs in RUN/milestones: "0,5,30", or log for 0, 1, 2, 4, 8 ...; 0 is before
    training."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        self._check_each()
        self._check_together()
        if self.stop_after == self.horizon:  # no stop: kept, it would hold back a run that is later given more epochs
            object.__setattr__(self, "stop_after", None)

    def _check_each(self) -> None:
        """Raise UsageError for a setting that is wrong whatever the others are."""
        coerce_fields(self, "")
        check_ranges(
            self,
            "",
            epochs=Range(least=1),
            stop_after=Range(least=1),
            early_stop=Range(least=1),
            score_train=Range(least=0),
            stop_train_error=Range(least=0, below=1),
            batch_size=Range(least=1),
            seed=Range(least=0, below=2**63),
            accumulate=Range(least=1),
            label_smoothing=Range(least=0, below=1),
            cutmix=Range(least=0),
            mixup=Range(least=0),
            mix_probability=Range(least=0, most=1),
            grow_from=Range(least=1),
            grow_epochs=Range(least=0),
            mix_until=Range(least=0),
            ema=Range(least=0, below=1),
            ema_after=Range(least=0),
            log_every=Range(least=1),
            save_minutes=Range(above=0),
        )
        self.keeps(0)  # reads `keep`

    def _check_together(self) -> None:
        """Raise UsageError for settings that do not go together."""
        check_ranges(self, "", accumulate=Range(least=1, most=self.batch_size))
        for name, used in (("compile", self.compile), ("grow_from", self.grow_from is not None)):
            if used and self.columns > 1:
                raise UsageError(
                    f"{flag(name)} does not go with {flag('columns')} {self.columns}: leave one of them out."
                )
        schedules = {leg.optim.schedule for leg in self.legs}  # reads `then`
        if self.stop_after is not None and self.stop_after > self.horizon:
            raise UsageError(f"{flag('stop_after')} {self.stop_after} lies beyond the run's {self.horizon} epochs.")
        watching = {"the plateau schedule": "plateau" in schedules, flag("early_stop"): self.early_stop is not None}
        if self.data.val_fraction == 0 and any(watching.values()):
            which = next(name for name, watches in watching.items() if watches)
            raise UsageError(f"{which} watches validation: set {flag('data.val_fraction')} above 0.")
        if self.stop_train_error is not None and not self.score_train:
            raise UsageError(f"{flag('stop_train_error')} needs {flag('score_train')}: how often it is looked at.")

    def keeps(self, epoch: int) -> bool:
        """Whether the weights after so many epochs are kept as a milestone. Raises UsageError as `kept_epochs`."""
        return epoch in self.kept_epochs or (self.keep == "log" and epoch & (epoch - 1) == 0)  # 0 and the powers of two

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The epochs that `keep` names one by one. Raises UsageError for a `keep` that means nothing."""
        if self.keep is None or self.keep == "log":
            return ()
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", self.keep, re.ASCII):
            raise UsageError(f'{flag("keep")} {self.keep!r}: write epochs as in "0,5,30", or log.')
        return tuple(map(int, self.keep.split(",")))

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The parts of the run, in order, each with its schedule: `epochs`, and then those of `then`."""
        return Leg(self.epochs, self.optim), *(parse_leg(text, self.optim) for text in self.then)

    @property
    def horizon(self) -> int:
        """The epochs of all legs."""
        return sum(leg.epochs for leg in self.legs)

    @property
    def measured_on(self) -> str | None:
        """The split that a run ends with the result of: val, or without a name the one that results are reported on."""
        return None if self.test else "val"

    @property
    def end(self) -> int:
        """The epoch after which training stops: that of `stop_after`, or the last of the last leg."""
        return self.horizon if self.stop_after is None else self.stop_after


_ALWAYS_WRITTEN = {"epochs", "batch_size", "seed", "name", "log_every", "data.source", "model.variant", "optim.name"}
"""What every file of the first format says, which had no number: a file without one that says less was written by hand,
in the words of today."""


def dump(config: TrainConfig) -> dict[str, Any]:
    """A configuration as files hold it: nested, with the format that says how to read it. `load` undoes this."""
    return {"format": FORMAT, **json.loads(json.dumps(asdict(config)))}


def load(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a file of this or an earlier format holds, nested or by dotted names; what it leaves out
    has its default.

    Raises UsageError for an unknown name, a value of the wrong type and a newer format.
    """
    settings = dotted(values)
    format = settings.pop("format", 1 if settings.keys() >= _ALWAYS_WRITTEN else FORMAT)
    if type(format) is not int or format < 1:
        raise UsageError(f"this configuration has format {format!r}, which is none: 1 to {FORMAT}.")
    if format > FORMAT:
        raise UsageError(f"this configuration has format {format}, known is up to {FORMAT}: upgrade alexnet.")
    if format < FORMAT:
        _upgrade(settings, format)
    return override(TrainConfig(), settings)


def _upgrade(settings: dict[str, Any], format: int) -> None:
    """Say in settings of an earlier format, by dotted names, what they meant when they were written."""
    variant = str(settings.get("model.variant"))
    if format < 4 and variant in FORMER:
        settings["model.variant"] = FORMER[variant]
    if format < 4 and settings.get("data.source", "digits") in ("digits", "cifar10", "cifar100"):
        settings["data.mean_image"] = False  # only photographs had one
    if format < 3:
        if settings.get("data.source") == "folder":  # photographs were trained on as they lie
            settings.setdefault("data.orientation", "ignore")
        # "modern" was all of He's weights, the output layer's too, and some tables had another start of their own.
        own = {"caffenet": "text", "cifar": "he", "cifar-resized": "he"}.get(variant)
        init = settings.get("model.init") or own
        settings["model.init"] = "he" if init == "modern" else init
