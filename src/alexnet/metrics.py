"""Figures of merit: accuracy, confidence interval, confusion matrix (numpy only)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """An evaluation. Accuracies and errors are fractions; the interval is Wilson's 95 % for top1."""

    split: str
    top1: float
    top5: float
    loss: float
    count: int
    views: int
    classes: tuple[str, ...]
    confusion: np.ndarray[Any, np.dtype[np.int64]] = field(compare=False)
    """[K, K] counts: row = true class, column = prediction."""
    measured: dict[str, Any] = field(default_factory=dict, compare=False)
    """What was measured on what: the weights' file and SHA-256, data and fingerprint, arithmetic, images that were left
    out, version and time. Empty where nothing but the figures is known."""
    notes: tuple[str, ...] = ()
    """What somebody should know who compares the figures with others, in sentences."""

    @property
    def top1_error(self) -> float:
        """1 - top1."""
        return 1 - self.top1

    @property
    def top5_error(self) -> float:
        """1 - top5."""
        return 1 - self.top5

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of top1."""
        return wilson_interval(round(self.top1 * self.count), self.count)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % confidence interval of top5."""
        return wilson_interval(round(self.top5 * self.count), self.count)

    @property
    def per_class(self) -> dict[str, float]:
        """Top-1 accuracy of every class; nan for a class without samples."""
        counts = self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):
            accuracy = np.diag(self.confusion) / counts
        return dict(zip(self.classes, accuracy.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the confusion matrix, for JSON; a class without samples is null."""
        values = {k: v for k, v in asdict(self).items() if k not in ("confusion", "classes")}
        return values | {
            "notes": list(self.notes),
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "top1_interval": list(self.interval),
            "top5_interval": list(self.top5_interval),
            "per_class": {k: None if math.isnan(v) else v for k, v in self.per_class.items()},
        }


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, at 95 %."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    p = successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
