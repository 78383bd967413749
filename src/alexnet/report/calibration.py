"""Whether a network is as sure as it is right: reliability diagram and expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
BINS = 15  # as Guo et al. (2017)


@dataclass(frozen=True)
class Calibration:
    """Answers in bins of equal width by their confidence, the probability of the class that was answered.

    Every field is [bins]; `confidence` and `accuracy` are the means of a bin, nan where it is empty.
    """

    counts: np.ndarray[Any, np.dtype[np.int64]]
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The expected calibration error (ECE): how far accuracy and confidence are apart, on average over all answers
        (Naeini et al. 2015; Guo et al. 2017)."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float((gaps * self.counts[full]).sum() / self.counts.sum())

    @property
    def surplus(self) -> float:
        """Mean confidence minus accuracy: above 0 the network is surer than it is right."""
        full = self.counts > 0
        gaps = self.confidence[full] - self.accuracy[full]
        return float((gaps * self.counts[full]).sum() / self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the means of an empty bin are null."""
        means = {
            name: [None if np.isnan(value) else value for value in getattr(self, name).tolist()]
            for name in ("confidence", "accuracy")
        }
        return {"ece": self.error, "surplus": self.surplus, "counts": self.counts.tolist(), **means}


def calibrate(confidence: Floats, correct: np.ndarray[Any, np.dtype[np.bool_]]) -> Calibration:
    """The calibration of N answers, one or more, from the confidence [N] of each and whether it was `correct` [N].

    A bin reaches from its lower edge, which it does not contain, to its upper one, which it does.
    """
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, values, minlength=BINS) / counts for values in (confidence, correct)]
    return Calibration(counts, *means)
