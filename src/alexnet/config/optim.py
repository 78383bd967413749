"""How weights change: the settings of `--optim`, and the legs of a run that differ in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alexnet.config.ranges import Range, check_ranges
from alexnet.config.rules import parse_rule
from alexnet.config.values import coerce_fields, flag, override
from alexnet.errors import UsageError, unknown


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
    schedule: Literal["constant", "step", "plateau", "cosine", "one-cycle", "triangular"] = "constant"
    """Course of the learning rate."""
    factor: float = 0.1
    """Factor of each drop (step, plateau)."""
    step_epochs: int = 30
    """Epochs between drops (step)."""
    drops: tuple[float, ...] = ()
    """Drop after these epochs instead, in ascending order (step)."""
    patience: int = 5
    """A drop follows when more than so many epochs in a row bring no better validation accuracy (plateau)."""
    max_drops: int = 3
    """Most drops of plateau; the paper made three."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero."""
    peak: float = 0.3
    """Where one-cycle and triangular reach their peak, as a part of the run."""

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
            drops=Range(above=0),
            patience=Range(least=0),
            max_drops=Range(least=0),
            warmup_epochs=Range(least=0),
            peak=Range(above=0, below=1),
        )
        if list(self.drops) != sorted(set(self.drops)):
            raise UsageError(f"{flag('optim.drops')} {self.drops} must be in ascending order.")
        if any(rule.momentum for rule in map(parse_rule, self.rules)) and self.name not in ("sgd", "paper-sgd"):
            raise UsageError(f"a momentum in {flag('optim.rules')} needs {flag('optim.name')} sgd or paper-sgd.")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise UsageError(f"{flag('optim.nesterov')} needs {flag('optim.name')} sgd and a momentum above 0.")


SCHEDULE_SETTINGS = (
    "lr",
    "schedule",
    "factor",
    "step_epochs",
    "drops",
    "patience",
    "max_drops",
    "warmup_epochs",
    "peak",
)


@dataclass(frozen=True)
class Leg:
    """A part of a run that has a learning-rate schedule of its own, from its first epoch to its last."""

    epochs: int
    """Its length: the horizon of a schedule that has one."""
    optim: OptimConfig

    @property
    def has_horizon(self) -> bool:
        """Whether the rates depend on the length, so that another length would bend a schedule that is under way."""
        return self.optim.schedule in ("cosine", "one-cycle", "triangular")


def parse_leg(text: str, optim: OptimConfig) -> Leg:
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
            several = name == "drops"
            values[name] = value.split(",") if several else int(value) if value.isdecimal() else value
        return Leg(int(first), override(optim, values))
    except ValueError as problem:  # UsageError is one; int raises it for thousands of digits
        raise UsageError(f"{flag('then')} {text[:80]!r}: {problem}") from None
