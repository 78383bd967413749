"""What a run is made of: frozen dataclasses that the command line, YAML files and Python share (no torch here).

The text under each field is its help on the command line; `None` means "decided by the data or the model's table".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from alexnet.config.ranges import Range, check_ranges
from alexnet.config.rules import parse_rule
from alexnet.config.values import coerce_fields, dotted, flag, override
from alexnet.errors import UsageError, unknown

FORMAT = 3  # 1: by dotted names; 2: nested; since 3 some words mean something else: `_upgrade`
LARGEST_SIDE = 4096  # pixels


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are cut."""

    source: str = "digits"
    """Data set: see `alexnet list data`."""
    root: str = "data"
    """Folder that holds the data set, or receives its download."""
    download: bool = True
    """Download a data set that is not under the root."""
    val_fraction: float = 0.1
    """Part of the training set held out for validation, stratified and seeded."""
    split_seed: int = 0
    """Seed of the validation split and of --data.fraction; the training seed does not move them."""
    fraction: float = 1.0
    """Part of the training set to use at all."""
    top_classes: int | None = None
    """Keep this many classes, those with the most images (photographs)."""
    resplit: bool = False
    """Pool the published training and test photographs and split them anew with the seed."""
    test_fraction: float = 0.1
    """Part held out for testing where the photographs come without splits, or with --data.resplit."""
    orientation: Literal["apply", "ignore"] | None = None
    """Turn photographs upright as their EXIF tag says, or take the pixels as they lie; without it photographs of source
    folder are turned, as predict turns pictures, and published data sets are not, and prepared ones keep what they
    were prepared with."""
    resize: int | None = None
    """Resize the short side to this many pixels; photographs: 256 unless given."""
    crop: int | None = None
    """Side of the crop: random in training, central in evaluation; photographs: 224 unless given."""
    random_resized_crop: bool = False
    """Train on crops of random area and aspect, resized (photographs; torchvision's recipe)."""
    min_area: float = 0.08
    """Smallest part of the area that such a crop covers."""
    pad: int = 0
    """Zero pixels around a training image before the random crop."""
    flip: bool = False
    """Mirror half of the training images, drawn per image."""
    colour_noise: float = 0.0
    """Standard deviation of the PCA colour noise's alpha (section 4.1: 0.1); 0 is off."""
    noise_probability: float = 1.0
    """Part of the training images that get colour noise, drawn per image and use."""
    mean: tuple[float, ...] | None = None
    """Mean per channel on the 0-1 scale; without it the training split's own."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel on the 0-1 scale; without it the training split's own."""
    mean_image: bool = False
    """Subtract the training set's mean image where the photographs were prepared, which makes one: every crop has the
    centre of it subtracted, as the released code does. Elsewhere the mean per channel."""
    workers: int | None = None
    """Threads that decode photographs; without it one a core, at most 16."""
    max_bad: float = 0.001
    """Part of the training photographs that may be unreadable before the run stops."""

    def __post_init__(self) -> None:
        coerce_fields(self, "data.")
        side = Range(least=1, most=LARGEST_SIDE)
        check_ranges(
            self,
            "data.",
            val_fraction=Range(least=0, below=1),
            split_seed=Range(least=0),
            fraction=Range(above=0, most=1),
            top_classes=Range(least=1),
            test_fraction=Range(least=0, below=1),
            resize=side,
            crop=side,
            min_area=Range(above=0, most=1),
            pad=Range(least=0, most=LARGEST_SIDE),
            colour_noise=Range(least=0),
            noise_probability=Range(least=0, most=1),
            mean=Range(),
            std=Range(above=0),
            workers=Range(least=1, most=1024),
            max_bad=Range(least=0, most=1),
        )


@dataclass(frozen=True)
class ModelConfig:
    """The network: a table by name, and fields that replace the table's."""

    variant: str = "paper"
    """Network: see `alexnet list models`."""
    num_classes: int | None = None
    """Outputs; without it as many as the data has classes."""
    in_channels: int | None = None
    """Image channels; without it the data's."""
    width: float | None = None
    """Multiplier of all layer widths."""
    dropout: float | None = None
    """Dropout rate."""
    lrn: Literal["off", "code", "formula"] | None = None
    """Local response normalisation: as the released code, as the paper's formula reads, or off."""
    overlap: bool | None = None
    """Overlapping 3x3 pooling, or plain 2x2."""
    activation: Literal["relu", "tanh"] | None = None
    """Activation function."""
    groups: int | None = None
    """Groups of conv2, conv4 and conv5: 2 is the paper's two columns."""
    init: Literal["text", "code", "caffe", "torch", "he", "modern"] | None = None
    """Initial weights: the paper's text, the released code, Caffe's, torch's defaults, He's, or He's with an output
    layer near zero (modern)."""
    freeze_to: str | None = None
    """Keep the layers up to this one as they are (conv5: all convolutions), for fine-tuning."""

    def __post_init__(self) -> None:
        coerce_fields(self, "model.")
        check_ranges(
            self,
            "model.",
            num_classes=Range(least=1, most=1_000_000),
            in_channels=Range(least=1, most=1024),
            width=Range(above=0, most=16),
            dropout=Range(least=0, below=1),
            groups=Range(least=1, most=1024),
        )


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    lr: float = 0.01
    """Learning rate; the peak where the schedule has one."""
    head_lr: float | None = None
    """Learning rate of the last layer where it differs, for fine-tuning; it follows the same schedule."""
    name: Literal["sgd", "paper-sgd", "adam", "adamw"] = "sgd"
    """Optimiser; paper-sgd keeps the learning rate inside the momentum (section 5)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum (sgd only)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two averages."""
    weight_decay: float = 5e-4
    """Weight decay."""
    decay_biases: bool = True
    """Decay the biases too, as torch does; --optim.no-decay-biases leaves them out, as the paper's code did."""
    rules: tuple[str, ...] = ()
    """What differs for some parameters, of which the later rule wins: "biases rate=2x decay=0", or
    "conv1 rate=1e-5@67,0@72" (from epoch 67 on, counted from 1; 0 freezes)."""
    schedule: Literal["constant", "step", "plateau", "cosine", "one-cycle"] = "constant"
    """Course of the learning rate."""
    factor: float = 0.1
    """Factor of each drop (step, plateau)."""
    step_epochs: int = 30
    """Epochs between drops (step)."""
    patience: int = 5
    """Epochs without a better validation accuracy before a drop (plateau)."""
    max_drops: int = 3
    """Most drops of plateau; the paper made three."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero."""
    peak: float = 0.3
    """Where one-cycle reaches its peak, as a part of the run."""

    def __post_init__(self) -> None:
        coerce_fields(self, "optim.")
        check_ranges(
            self,
            "optim.",
            lr=Range(above=0),
            head_lr=Range(above=0),
            momentum=Range(least=0, below=1),
            betas=Range(least=0, below=1),
            weight_decay=Range(least=0),
            factor=Range(above=0, below=1),
            step_epochs=Range(least=1),
            patience=Range(least=0),
            max_drops=Range(least=0),
            warmup_epochs=Range(least=0),
            peak=Range(above=0, below=1),
        )
        if any(rule.momentum for rule in map(parse_rule, self.rules)) and self.name not in ("sgd", "paper-sgd"):
            raise UsageError(f"a momentum in {flag('optim.rules')} needs {flag('optim.name')} sgd or paper-sgd.")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise UsageError(f"{flag('optim.nesterov')} needs {flag('optim.name')} sgd and a momentum above 0.")


SCHEDULE_SETTINGS = ("lr", "schedule", "factor", "step_epochs", "patience", "max_drops", "warmup_epochs", "peak")


@dataclass(frozen=True)
class Leg:
    """A part of a run that has a learning-rate schedule of its own, from its first epoch to its last."""

    epochs: int
    """Its length: the horizon of a schedule that has one."""
    optim: OptimConfig

    @property
    def has_horizon(self) -> bool:
        """Whether the rates depend on the length, so that another length would bend a schedule that is under way."""
        return self.optim.schedule in ("cosine", "one-cycle")


def _parse_leg(text: str, optim: OptimConfig) -> Leg:
    """The leg that a line of `TrainConfig.then` asks for, such as "10" or "10 lr=0.002 schedule=cosine"; what it leaves
    out is as in `optim`. Raises UsageError for any other text."""
    first, *settings = text.split() or [""]
    try:
        if not first.isdecimal() or int(first) < 1:
            raise UsageError('a leg is a number of epochs and what differs in them, as in "10 lr=0.002".')
        values: dict[str, Any] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            name = name.replace("-", "_")  # as the flags of --optim are written
            if name not in SCHEDULE_SETTINGS:
                raise UsageError(unknown("setting", name, SCHEDULE_SETTINGS))
            values[name] = int(value) if value.isdecimal() else value
        return Leg(int(first), override(optim, values))
    except ValueError as problem:  # UsageError is one; int raises it for thousands of digits
        raise UsageError(f"{flag('then')} {text[:80]!r}: {problem}") from None


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    epochs: int = 10
    """Passes over the training set: the length of the learning-rate schedule."""
    then: tuple[str, ...] = ()
    """Go on after these epochs in further legs, each with a schedule of its own: "10" epochs, or "10 lr=0.002
    schedule=cosine" with other settings of --optim."""
    stop_after: int | None = None
    """Stop and test after this many epochs; the schedule keeps its length, so that the run can go on later."""
    batch_size: int = 128
    """Images a step, over all processes."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout."""
    name: str = "custom"
    """Name of the recipe."""
    accumulate: int = 1
    """Split each batch into this many parts to save memory; the result is the batch's."""
    label_smoothing: float = 0.0
    """Label smoothing."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights that is evaluated instead of them; 0 is off."""
    init: str | None = None
    """Weights file, checkpoint or run to start from; torchvision downloads its published weights."""
    replace_head: bool = False
    """With --init: start the last layer afresh, for other classes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 where the processor has it, else fp32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    log_every: int = 50
    """Steps between logged values."""
    save_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; each epoch's end is always saved."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        coerce_fields(self, "")
        check_ranges(
            self,
            "",
            epochs=Range(least=1),
            stop_after=Range(least=1),
            batch_size=Range(least=1),
            seed=Range(least=0, below=2**63),
            accumulate=Range(least=1, most=self.batch_size),
            label_smoothing=Range(least=0, below=1),
            ema=Range(least=0, below=1),
            log_every=Range(least=1),
            save_minutes=Range(above=0),
        )
        schedules = {leg.optim.schedule for leg in self.legs}  # reads `then`
        if self.stop_after is not None and self.stop_after > self.horizon:
            raise UsageError(f"{flag('stop_after')} {self.stop_after} lies beyond the run's {self.horizon} epochs.")
        if self.data.val_fraction == 0 and "plateau" in schedules:
            raise UsageError(f"the plateau schedule watches validation: set {flag('data.val_fraction')} above 0.")

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The parts of the run, in order, each with its schedule: `epochs`, and then those of `then`."""
        return Leg(self.epochs, self.optim), *(_parse_leg(text, self.optim) for text in self.then)

    @property
    def horizon(self) -> int:
        """The epochs of all legs."""
        return sum(leg.epochs for leg in self.legs)

    @property
    def end(self) -> int:
        """The epoch after which training stops: that of `stop_after`, or the last of the last leg."""
        return self.horizon if self.stop_after is None else self.stop_after


def dump(config: TrainConfig) -> dict[str, Any]:
    """A configuration as files hold it: nested, with the format that says how to read it. `load` undoes this."""
    return {"format": FORMAT, **json.loads(json.dumps(asdict(config)))}


def load(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a file of this or an earlier format holds, nested or by dotted names; what it leaves out
    has its default.

    Raises UsageError for an unknown name, a value of the wrong type and a newer format.
    """
    values = dict(values)
    format = values.pop("format", 1)  # the first one was written without
    if type(format) is not int or format < 1:
        raise UsageError(f"this configuration has format {format!r}, which is none: 1 to {FORMAT}.")
    if format > FORMAT:
        raise UsageError(f"this configuration has format {format}, known is up to {FORMAT}: upgrade alexnet.")
    settings = dotted(values)
    if format < FORMAT:
        _upgrade(settings, format)
    return override(TrainConfig(), settings)


def _upgrade(settings: dict[str, Any], format: int) -> None:
    """Say in settings of an earlier format, by dotted names, what they meant when they were written."""
    if format < 3:
        if settings.get("data.source") == "folder":  # photographs were trained on as they lie
            settings.setdefault("data.orientation", "ignore")
        # "modern" was all of He's weights, the output layer's too, and some tables had another start of their own.
        own = {"caffenet": "text", "cifar": "he", "cifar-resized": "he"}.get(str(settings.get("model.variant")))
        init = settings.get("model.init") or own
        settings["model.init"] = "he" if init == "modern" else init
