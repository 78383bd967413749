"""What becomes of a few images on their way into the network, one row an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.figures import Image, label, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Stages = Sequence[tuple[str, Image, str]]


def draw_stages(rows: Sequence[Stages], names: Sequence[str]) -> Figure:
    """A figure with a row for every image: its stages, each a column's title, an image, and a remark or "".

    Raises UsageError without matplotlib.
    """
    columns = len(rows[0])
    figure = new_figure(2.1 * columns + 0.3, 2.25 * len(rows) + 0.2)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (stages, name) in enumerate(zip(rows, names, strict=True)):
        for column, (title, image, remark) in enumerate(stages):
            axes = grid[row][column]
            show_image(axes, image)
            axes.set_anchor("N")  # so that the titles stand in line
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            size = f"{image.shape[1]}x{image.shape[0]}"
            axes.set_xlabel(f"{size}, {remark}" if remark else size, fontsize=7, color="0.4", labelpad=2)
            if row == 0:
                axes.set_title(title, fontsize=9)
        grid[row][0].set_ylabel(label(name, 24), fontsize=8)
    return figure
