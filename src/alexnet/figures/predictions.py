"""A sheet of images, each above the bars of its most probable classes, as the paper's figure 4 (left)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4


def draw_predictions(
    images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]],
    titles: Sequence[str],
    answers: Sequence[Sequence[tuple[str, float]]],
) -> Figure:
    """A figure of images [H, W, C], each with a title (its true class or a name) and (class, probability) best first.

    The bar of the class that the title names is red, the others blue. Raises UsageError without matplotlib.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    bars = max(len(a) for a in answers)
    figure = new_figure(2.6 * columns, (2.35 + 0.24 * bars) * rows)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.35, 0.24 * bars] * rows)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (image, title, answer) in enumerate(zip(images, titles, answers, strict=True)):
        row, column = divmod(number, columns)
        above, below = grid[2 * row][column], grid[2 * row + 1][column]
        above.imshow(image.squeeze(), cmap="gray" if image.shape[2] == 1 else None)
        above.set_anchor("S")  # upon its bars, whatever its shape
        above.set_title(_short(title, 30), fontsize=9, pad=3)
        for place, (name, probability) in enumerate(answer):
            colour = "#e08a82" if name == title else "#8fb3d9"
            below.barh(place, probability, height=0.86, color=colour)
            below.text(0.02, place, _short(name, 26), va="center", fontsize=8)
            below.text(1.0, place, f"{probability:.1%}", va="center", ha="right", fontsize=7, color="0.35")
        below.set_xlim(0, 1)
        below.set_ylim(bars - 0.5, -0.5)
    return figure


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
