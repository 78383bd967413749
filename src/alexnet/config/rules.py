"""Rules for single layers: which parameters of a network learn at another rate, decay or momentum than the rest.

A rule is a line of text, so that a YAML file and a command line can hold it; the optimiser reads it as a `Rule`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from alexnet.errors import UsageError, unknown

_FIELDS = ("rate", "decay", "momentum")
_SETTING = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(x?)(?:@([1-9]\d*))?", re.IGNORECASE)  # 2x@67


@dataclass(frozen=True)
class Setting:
    """A value from an epoch on: as it stands, or a multiple of what holds for parameters without a rule."""

    value: float
    multiple: bool = False
    epoch: int = 1
    """The first epoch it holds in, counted from 1 as in the log."""

    def of(self, base: float) -> float:
        """The value where parameters without a rule have `base`."""
        return self.value * base if self.multiple else self.value


@dataclass(frozen=True)
class Rule:
    """What differs for the parameters that `which` selects; an empty field leaves them as they are."""

    which: str
    """A kind (weights, biases), a role (convolutions, locals, hidden, head), a layer's or parameter's name or a pattern
    of names (conv1, conv*, conv1.bias), or a layer or role with a kind (conv1.biases, convolutions.weights)."""
    rate: tuple[Setting, ...] = ()
    """Learning rate. 0 freezes: no decay and no momentum either (weights.cu of cuda-convnet)."""
    decay: tuple[Setting, ...] = ()
    """Weight decay."""
    momentum: tuple[Setting, ...] = ()
    """Momentum of SGD."""


def parse_rule(text: str) -> Rule:
    """Read a rule such as "biases rate=2x decay=0" or "conv1 rate=1e-5@67,0@72".

    After the selector (see `Rule.which`) comes what differs: rate, decay or momentum, each with one value or several
    in the order of their epochs. `0.002` is the value itself, `2x` twice what the other parameters have (for the rate:
    twice the scheduled one), and `@67` says from which epoch on, counted from 1; without it from the first.

    The released code's net 145, for example, learned by "weights rate=1e-3@26,1e-4@52,1e-5@80", "biases rate=0.02
    decay=0", "conv1.weights rate=1e-5@67,0@72" and "conv1.biases rate=0@72": the biases' rate was never lowered, and
    conv1 stood still at the end.

    Raises UsageError for any other text.
    """
    which, *changes = text.split() or [""]
    if not changes or "=" in which:
        raise UsageError(
            f"--optim.rules {text!r}: a rule says which parameters and then what differs for them, "
            'as in "biases rate=2x decay=0".'
        )
    fields: dict[str, tuple[Setting, ...]] = {}
    for change in changes:
        field, _, values = change.partition("=")
        if field not in _FIELDS:
            raise UsageError(f"--optim.rules {text!r}: {unknown('field', field, _FIELDS)}")
        if field in fields:
            raise UsageError(f"--optim.rules {text!r}: {field} stands twice; write {field}=1e-3,1e-4@30 instead.")
        fields[field] = tuple(_parse_setting(value, field, text) for value in values.split(","))
        epochs = [setting.epoch for setting in fields[field]]
        if epochs != sorted(set(epochs)):
            raise UsageError(f"--optim.rules {text!r}: the epochs of {field} are not in ascending order.")
    return Rule(which, **fields)


def _parse_setting(text: str, field: str, rule: str) -> Setting:
    found = _SETTING.fullmatch(text) if len(text) < 100 else None
    if found:
        setting = Setting(float(found[1]), bool(found[2]), int(found[3] or 1))
        if setting.value < (1 if field == "momentum" else inf) and not (field == "momentum" and setting.multiple):
            return setting
    forms = "0.9 or 0.9@67" if field == "momentum" else "0.001, 2x or 0.001@67"
    raise UsageError(f"--optim.rules {rule!r}: {text!r} is no {field}; write it as {forms} (from epoch 67 on).")


def in_force(settings: Sequence[tuple[Setting, ...]], epoch: int, base: float) -> float:
    """The value that an epoch has by the same field of several rules, of which a later one wins from its first epoch
    on; `base` where none holds yet."""
    for choices in reversed(settings):
        for setting in reversed(choices):
            if setting.epoch <= epoch:
                return setting.of(base)
    return base
