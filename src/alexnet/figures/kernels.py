"""The first layer's kernels as pictures, column by column, as the paper's figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]
ACROSS = 16
"""Kernels side by side, as in the paper."""
FAINT = 4  # a kernel this many times weaker than the median one is shown no stronger than that


def draw_kernels(kernels: Array, columns: int = 1, shares: Array | None = None) -> Figure:
    """A figure of kernels [N, C, h, w], of three colours or, where C is another number, of grey (the mean over C), in
    as many blocks as the layer has columns; `shares` are each kernel's share of colour (`colour_shares`), written under
    it.

    Zero is mid-grey, and every kernel is scaled by its own largest weight, so that weak ones can be seen too; but one
    that has learned next to nothing, four times weaker than the median, stays faint. Raises UsageError without
    matplotlib.
    """
    across, rows = _measure(len(kernels), columns)
    side = 0.62
    figure = new_figure(side * across + 0.2, (side + (0.12 if shares is not None else 0.0)) * sum(rows) + 0.3 * columns)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    fill_kernels(figure, kernels, columns, shares)
    return figure


def fill_kernels(figure: FigureBase, kernels: Array, columns: int = 1, shares: Array | None = None) -> None:
    """Draw kernels, as `draw_kernels` does, into a figure or a part of one."""
    tiles = kernel_tiles(kernels)
    blocks = np.array_split(np.arange(len(tiles)), columns)
    across, rows = _measure(len(tiles), columns)
    parts = figure.subfigures(columns, 1, squeeze=False, height_ratios=rows)[:, 0]
    first = 1
    for number, (part, block, height) in enumerate(zip(parts, blocks, rows, strict=True), 1):
        grid = part.subplots(height, across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, kernel in zip(grid.flat, block, strict=False):
            axes.imshow(tiles[kernel], interpolation="nearest")
            if shares is not None:
                text = f"{100 * shares[kernel]:.0f}"
                axes.text(0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", fontsize=6, color="0.45")
        title = f"kernels {first} to {first + len(block) - 1}"
        if columns > 1:
            title = f"column {number}, {title}"
        if shares is not None and len(block):
            title += f": on average {100 * shares[block].mean():.0f} % of the energy is colour"
        part.suptitle(title, fontsize=8, x=0.01, ha="left")
        first += len(block)


def _measure(kernels: int, columns: int) -> tuple[int, list[int]]:
    """How many kernels stand side by side, and in how many rows those of each column."""
    blocks = np.array_split(np.arange(kernels), columns)
    across = min(ACROSS, max(map(len, blocks)))
    return across, [-(-len(block) // across) for block in blocks]


def kernel_tiles(kernels: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels [N, h, w, 3] of kernels [N, C, h, w], scaled as `draw_kernels` says."""
    colours = kernels if kernels.shape[1] == 3 else kernels.mean(axis=1, keepdims=True).repeat(3, axis=1)
    peaks = np.abs(colours).max(axis=(1, 2, 3), initial=0)
    scale = np.maximum(peaks, np.median(peaks) / FAINT)
    scale[scale == 0] = 1
    pixels = 127.5 * (1 + colours / scale[:, None, None, None])
    return np.moveaxis(pixels.round().astype(np.uint8), 1, -1)
