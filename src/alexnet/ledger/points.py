"""A point of the ledger: two sources' words, and a function that says what a network or a run does (no torch here)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alexnet.ledger.facts import Facts, Training
from alexnet.models.summary import Layer


@dataclass(frozen=True)
class Answer:
    """What a network or run does at a point, in words, and whether it departs from the paper and from the released
    source; None where there is nothing to depart from."""

    this: str
    paper: bool | None = None
    release: bool | None = None


@dataclass(frozen=True)
class Point:
    """Something that implementations do differently."""

    number: int
    name: str
    paper: str
    """What the paper says, with its section."""
    release: str
    """What net 145 of the released source does, with file and line."""
    effect: str
    """What is known of its effect."""
    judge: Callable[[Facts], Answer]


@dataclass(frozen=True)
class Line:
    """A point, and what a given network or run does there."""

    point: Point
    answer: Answer


Network = Callable[[Facts], Answer]
Run = Callable[[Facts, Training], Answer]


def network_point(number: int, name: str, *, paper: str, release: str, effect: str) -> Callable[[Network], Point]:
    """Make a point of a function that needs nothing but the network."""
    return lambda judge: Point(number, name, paper, release, effect, judge)


def training_point(number: int, name: str, *, paper: str, release: str, effect: str) -> Callable[[Run], Point]:
    """Make a point of a function that needs to know how the network is trained."""

    def of(judge: Run) -> Point:
        def answer(facts: Facts) -> Answer:
            if facts.training is None:
                return Answer("decided by how it is trained")
            return judge(facts, facts.training)

        return Point(number, name, paper, release, effect, answer)

    return of


def differs(departs: bool) -> dict[str, bool]:
    """The same judgement for paper and release, which agree at many points."""
    return {"paper": departs, "release": departs}


def activation(layer: Layer) -> str:
    """The name of an activation."""
    return "ReLU" if layer.row == "relu" else str(layer.row)


def number(value: float) -> str:
    """A number as people write it, to three digits."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
