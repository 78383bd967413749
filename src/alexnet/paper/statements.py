"""What claims on ImageNet say of measurements, each kind of statement with its rule and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from alexnet.paper.experiment import Row, Verdict
from alexnet.paper.experiments.averages import ALIKE, judge_neighbours
from alexnet.paper.experiments.specialisation import COLUMNS, judge_columns
from alexnet.paper.rules import DIFFERENCE, LEVEL, RATIO, SUBSTANTIAL, judge_difference, judge_level, judge_ratio
from alexnet.paper.statistics import paired_t, welch

Side = tuple[str, str]
"""An arm, and the name of a figure of it."""


def values_of(rows: Sequence[Row], side: Side) -> list[Any]:
    """A figure of an arm, one a seed in the order of these; diverged runs are left out."""
    chosen = [row for row in rows if (row["arm"], row["figure"]) == side and row["value"] is not None]
    return [row["value"] for row in sorted(chosen, key=lambda row: int(row["seed"]))]


class Statement(Protocol):
    """Something that a claim says of figures."""

    rule: ClassVar[str]
    """By which the measurements are judged."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The figures that it speaks of."""

    def judge(self, rows: Sequence[Row]) -> Verdict:
        """The verdict on it."""


@dataclass(frozen=True)
class _OfTwo:
    more: Side
    less: Side

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.more, self.less


@dataclass(frozen=True)
class _OfOne:
    of: Side

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.of,)


@dataclass(frozen=True)
class Difference(_OfTwo):
    """The first figure is larger than the second, perhaps by how much (0: the claim does not say)."""

    rule: ClassVar[str] = DIFFERENCE
    claimed: float = 0.0
    or_more: bool = False
    """Whether the claim says more than that."""
    least: ClassVar[float] = 0.0
    """The smallest difference that matters, where the paper gives none."""

    def judge(self, rows: Sequence[Row]) -> Verdict:
        more, less = values_of(rows, self.more), values_of(rows, self.less)
        if min(len(more), len(less)) < 2:
            return Verdict("inconclusive", f"{self.more[0]}: fewer than two runs to compare.")
        found = paired_t(more, less) if self.more[0] == self.less[0] else welch(more, less)
        seeds = f"{len(less)}" if len(more) == len(less) else f"{len(more)} and {len(less)}"
        what = f"{self.more[1]} of {self.more[0]} less {self.less[1]} of {self.less[0]}, {seeds} seeds"
        return judge_difference(found, self.claimed, what, self.or_more, self.least)


class Substantial(Difference):
    """The first figure is substantially larger than the second."""

    rule: ClassVar[str] = (
        f'{DIFFERENCE} Here it says "substantially", for which we take {SUBSTANTIAL:g} points: "direction only" if the '
        'interval lies above 0 and does not reach them, "inconclusive" if it reaches from 0 or below to them.'
    )
    least: ClassVar[float] = SUBSTANTIAL


@dataclass(frozen=True)
class Doubling(_OfTwo):
    """The first figure is about twice the second (claim 20), of runs of so many epochs."""

    rule: ClassVar[str] = (
        f"Epochs until the validation error stays within a point of its last value. {RATIO} Where a run has fewer than "
        '1.5 times the epochs of that median without dropout, "roughly doubles" could not be seen, and what would be '
        '"not reproduced" is "inconclusive".'
    )
    longest: float

    def judge(self, rows: Sequence[Row]) -> Verdict:
        return judge_ratio(values_of(rows, self.more), values_of(rows, self.less), self.longest)


@dataclass(frozen=True)
class Level(_OfOne):
    """A figure has a value."""

    rule: ClassVar[str] = LEVEL
    claimed: float

    def judge(self, rows: Sequence[Row]) -> Verdict:
        return judge_level(values_of(rows, self.of), self.claimed, f"{self.of[0]}, {self.of[1]}")


@dataclass(frozen=True)
class Specialising(_OfOne):
    """The columns of conv1 differ in their share of colour (claim 30)."""

    rule: ClassVar[str] = COLUMNS

    def judge(self, rows: Sequence[Row]) -> Verdict:
        return judge_columns(values_of(rows, self.of))


@dataclass(frozen=True)
class Alike(_OfOne):
    """Neighbours by the last hidden layer show the same things, and are not near in pixels (claim 31)."""

    rule: ClassVar[str] = ALIKE

    def judge(self, rows: Sequence[Row]) -> Verdict:
        found = values_of(rows, self.of)
        return judge_neighbours(found) if found else Verdict("inconclusive", f"{self.of[0]}: no run ended.")
