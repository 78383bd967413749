"""Images with the classes that a network sees in them and their nearest neighbours, as the paper's figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet.figures import Image, label, new_figure, show_image
from alexnet.figures.predictions import MISSED, Answer, draw_bars, draw_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 1.25  # inches
BARS = 1.9  # the bars are that many images wide


@dataclass(frozen=True)
class Retrieval:
    """An image with what a network answers to it, and its neighbours with their true classes, nearest first."""

    answer: Answer
    neighbours: Sequence[tuple[Image, str]]


def draw_neighbours(rows: Sequence[Retrieval]) -> Figure:
    """A figure with a row for each image: the image under its true class (bold; red where it is not among the answers)
    or title, the bars of its most probable classes with that of the true class in red, and the neighbours, whose class
    is red where it is not the image's own.

    Raises UsageError without matplotlib.
    """
    most = max(len(row.neighbours) for row in rows)
    bars = max(len(row.answer.bars) for row in rows)
    height = max(TILE, 0.2 * bars) + 0.28
    figure = new_figure(TILE * (1 + BARS + most) + 0.3, height * len(rows) + 0.25)
    grid = figure.subplots(len(rows), 2 + most, squeeze=False, width_ratios=[1, BARS] + [1] * most)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, row in zip(grid, rows, strict=True):
        draw_picture(place[0], row.answer)
        draw_bars(place[1], row.answer, bars)
        for axes, (image, name) in zip(place[2:], row.neighbours, strict=False):
            show_image(axes, image)
            other = row.answer.truth not in (None, name)
            axes.set_title(label(name, 16), fontsize=7, pad=3, color=MISSED if other else "0.35")
    title = "image, most probable classes" + (", nearest images by the last hidden layer" if most else "")
    figure.suptitle(title, fontsize=8, color="0.35", x=0.005, ha="left")
    return figure
