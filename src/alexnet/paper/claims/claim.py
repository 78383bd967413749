"""What a claim is, and what is known of it at the paper's own scale (no torch here)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Evidence = Literal["arithmetic", "estimate", "log", "ImageNet", "CIFAR-10", "no data"]
"""What can tell whether it holds at the paper's scale: arithmetic, arithmetic that only bounds or approximates what the
claim says (an estimate), the figures that came with the released code, a training on ImageNet, one on CIFAR-10 (the
paper's own data there), or nothing, for want of the data."""


@dataclass(frozen=True)
class Check:
    """One figure that a claim stands or falls with, computed, beside the paper's."""

    what: str
    value: float
    expected: float | None
    """What the paper says; None where it gives no such figure."""
    holds: bool
    unit: str = ""
    source: str = ""
    """Where the value comes from, if not from arithmetic."""

    def __str__(self) -> str:
        what, value, expected, holds, source = self.cells
        known = ", ".join([f"the paper: {expected}"] * bool(expected) + [source] * bool(source))
        return f"{what}: {value}{f' ({known})' if known else ''}, {holds}"

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """What it is, the figure, the paper's, whether it holds, and the source, as text."""
        value, expected = (
            "" if figure is None else f"{_figure(figure)}{self.unit}" for figure in (self.value, self.expected)
        )
        return self.what, value, expected, "holds" if self.holds else "does not hold", self.source


def about(what: str, value: float, expected: float, within: float = 0.02, unit: str = "", source: str = "") -> Check:
    """A figure that the paper gives roughly: it holds within a part `within` of what the paper says."""
    return Check(what, value, expected, abs(value - expected) <= within * abs(expected), unit, source)


def rounds_to(what: str, value: float, expected: float, unit: str = "", source: str = "") -> Check:
    """A figure that the paper rounds to one decimal place."""
    return Check(what, value, expected, abs(value - expected) <= 0.05 + 1e-9, unit, source)


def equals(what: str, value: float, expected: float, source: str = "") -> Check:
    """A figure that the paper gives exactly."""
    return Check(what, value, expected, value == expected, source=source)


@dataclass(frozen=True)
class Standing:
    """What is known of a claim at the paper's scale, before anything is trained here."""

    state: str
    sentence: str


def _none() -> tuple[Check, ...]:
    return ()


@dataclass(frozen=True)
class Claim:
    """One quantitative claim of the paper."""

    number: int
    section: str
    title: str
    """In a few words, for tables: 34 characters at most."""
    says: str
    """What the paper says, in our words."""
    evidence: Evidence
    checks: Callable[[], tuple[Check, ...]] = _none
    """What arithmetic or the released code's logs say: the state follows from these, and is written nowhere."""
    partly: bool = False
    """Whether the checks, and a training on ImageNet, are about a part of what it says."""
    note: str = ""
    """What else is known, in a sentence."""
    without: str = ""
    """Why no small experiment tests it; empty where one does."""

    @property
    def place(self) -> str:
        """Where the paper says it, as words."""
        return self.section if self.section.startswith("abstract") else f"section {self.section}"

    @property
    def imagenet(self) -> Standing:
        """The state at the paper's scale, with its evidence."""
        checks = self.checks()
        holds = all(check.holds for check in checks)
        state = {
            "arithmetic": f"{'true' if holds else 'false'} by arithmetic",
            "estimate": f"{'plausible' if holds else 'implausible'} by arithmetic",
            "log": f"the released log {('agrees in part' if self.partly else 'agrees') if holds else 'differs'}",
            "ImageNet": "needs ImageNet",
            "CIFAR-10": "about CIFAR-10",
            "no data": "data not to be had",
        }[self.evidence]
        sentences = ["; ".join(map(str, checks)) + "." if checks else "", self.note]
        return Standing(state, " ".join(sentence for sentence in sentences if sentence))


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
