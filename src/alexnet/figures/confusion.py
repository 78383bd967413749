"""The confusion matrix as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet.figures import label, new_figure
from alexnet.metrics import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED = 25  # up to this many classes, cells and ticks carry text


def draw_confusion(result: Result) -> Figure:
    """A figure of the matrix in percent of each true class. Raises UsageError without matplotlib."""
    counts = result.confusion
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k, names = len(result.classes), [label(name, 30) for name in result.classes]
    side = max(3.2, min(0.55 * k, 11))
    room = 0.8 + (0.075 * max(map(len, names)) if k <= NUMBERED else 0)  # for the names, in inches
    figure = new_figure(side + room + 1.0, side + room + 0.3)
    axes = figure.subplots()
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03, label="% of the true class")
    if k <= NUMBERED:
        axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), names)
        for (row, column), value in np.ndenumerate(percent):
            if value > 0.5:
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{result.split}: top-1 {result.top1:.2%} of {result.count} images", fontsize=10)
    return figure
