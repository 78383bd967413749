"""Made-up measurements for the experiments' verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alexnet.paper.experiment import Row, Verdict

SPREAD = np.array([-0.2, -0.1, 0.0, 0.1, 0.2, -0.15, 0.15, 0.05, -0.05])


def around(mean: float, spread: float = 1.0, count: int = 9) -> list[float]:
    """Numbers with this mean (but for `count` other than 5 and 9), one a seed."""
    return list(mean + spread * SPREAD[:count])


def made_up(arms: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[Row]:
    """Rows of arms, each figure with a value for every seed."""
    return [
        {"arm": arm, "seed": seed, **dict(zip(figures, numbers, strict=True))}
        for arm, figures in arms.items()
        for seed, numbers in enumerate(zip(*figures.values(), strict=True), 1)
    ]


def states(verdicts: Mapping[int, Verdict]) -> dict[int, str]:
    """The states of verdicts, by claim."""
    return {number: verdict.state for number, verdict in verdicts.items()}
