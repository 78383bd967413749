"""Ranges of settings, each of which both checks a number and says in words what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from alexnet.config.values import flag
from alexnet.errors import UsageError


@dataclass(frozen=True)
class Range:
    """The finite numbers from `least` to `most`, between `above` and `below`, which do not belong to it themselves.

    `value in Range(least=1)` checks, and `str` of it is "at least 1".
    """

    least: float = -inf
    most: float = inf
    above: float = -inf
    below: float = inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if abs(bound) != inf) or "finite"


def check_ranges(settings: Any, prefix: str, **ranges: Range) -> None:
    """Check the fields of a dataclass of settings, called by their dotted names with `prefix` before. A field that is
    None is not checked, of a tuple every value is. Raises UsageError that names the flag, its value and the range."""
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(v in allowed for v in values):
            raise UsageError(f"{flag(prefix + name)} {value} is out of range: it must be {allowed}.")
