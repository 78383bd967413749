"""A sheet of images, each above the bars of its most probable classes, as the paper's figure 4 (left)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet.figures import Image, label, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
PAGE = 5 * COLUMNS
"""As many images as one figure is drawn of."""
SIDE = 800
"""What an image's longer side needs at most here: a page of photographs as cameras take them would fill gigabytes."""
MISSED = "#b03a2e"
"""The colour of a class that should have been answered and was not."""


@dataclass(frozen=True)
class Answer:
    """An image with its (class, probability), best first, and its true class or, where that is not known, a title."""

    image: Image
    bars: Sequence[tuple[str, float]]
    title: str
    truth: str | None = None


def draw_predictions(answers: Sequence[Answer]) -> Figure:
    """A figure of images, each under its true class (bold) or title. The bar of the true class is red, the others blue;
    a true class that is not among the bars has its name in red.

    Raises UsageError without matplotlib.
    """
    columns = min(COLUMNS, len(answers))
    rows = -(-len(answers) // columns)
    bars = max(len(answer.bars) for answer in answers)
    figure = new_figure(2.6 * columns, (2.35 + 0.24 * bars) * rows)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.35, 0.24 * bars] * rows)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, answer in enumerate(answers):
        row, column = divmod(number, columns)
        above, below = grid[2 * row][column], grid[2 * row + 1][column]
        draw_picture(above, answer)
        above.set_anchor("S")  # upon its bars, whatever its shape
        draw_bars(below, answer, bars)
    return figure


def draw_picture(axes: Axes, answer: Answer) -> None:
    """Draw an answer's image under its true class or title."""
    show_image(axes, answer.image)
    known, missed = answer.truth is not None, answer.truth not in [name for name, _ in answer.bars]
    axes.set_title(
        label(answer.truth or answer.title, 30),
        fontsize=9,
        pad=3,
        fontweight="bold" if known else "normal",
        color=(MISSED if missed else "black") if known else "0.35",
    )


def draw_bars(axes: Axes, answer: Answer, most: int) -> None:
    """Draw an answer's classes as bars with their probabilities, in the room of `most` bars."""
    for place, (name, probability) in enumerate(answer.bars):
        colour = "#e08a82" if name == answer.truth else "#8fb3d9"
        axes.barh(place, probability, height=0.86, color=colour)
        axes.text(0.02, place, label(name, 26), va="center", fontsize=8)
        axes.text(1.0, place, f"{probability:.1%}", va="center", ha="right", fontsize=7, color="0.35")
    axes.set_xlim(0, 1)
    axes.set_ylim(most - 0.5, -0.5)
