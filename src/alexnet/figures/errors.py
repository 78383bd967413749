"""Training error over epochs of one or several runs, as the paper's figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from alexnet.figures import label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")  # solid and dashed first: ReLU and tanh in the paper
COLOURS = ("black", "#b03a2e", "#2e6da4", "#4a8f3c", "#8e5aa8", "#b8860b")


@dataclass(frozen=True)
class ErrorCurve:
    """A run's training error: `errors` (fractions) after so many `epochs`, which need not be whole; `measured` says how
    it was measured, in words that follow "training error:"."""

    name: str
    epochs: Sequence[float]
    errors: Sequence[float]
    measured: str

    def crossing(self, level: float) -> float | None:
        """After how many epochs the error first comes down to a level (`crossing`), as the picture shows it."""
        return crossing(list(zip(self.epochs, self.errors, strict=True)), level)


def crossing(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """Where a curve of points (x, y) first comes down to a level: on the straight line between the two points around
    it. None where it never does."""
    if points and points[0][1] <= level:
        return points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= level:
            return x0 + (x1 - x0) * (y0 - level) / (y0 - y1)
    return None


def draw_errors(curves: Sequence[ErrorCurve], level: float = 0.25) -> Figure:
    """A figure of the curves, each in a line style of its own, with a line at `level` and a mark where each curve first
    comes down to it.

    Raises UsageError without matplotlib.
    """
    figure = new_figure(6.2, 4.4)
    axes = figure.subplots()
    axes.axhline(level, color="0.6", lw=0.8, zorder=0)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        reached = curve.crossing(level)
        found = f"{level:.0%} after {reached:.1f} epochs" if reached is not None else f"{level:.0%} not reached"
        axes.plot(
            curve.epochs,
            curve.errors,
            STYLES[number % len(STYLES)],
            color=colour,
            lw=1.6,
            marker="o" if len(curve.epochs) == 1 else None,
            label=f"{label(curve.name, 40)}: {found}",
        )
        if reached is not None:
            axes.plot([reached, reached], [0, level], color=colour, lw=0.8, ls=":")
            axes.plot(reached, level, "o", ms=4, color=colour)
    highest = max((error for curve in curves for error in curve.errors), default=level)
    axes.set_ylim(0, max(highest, 1.4 * level) * (1.05 + 0.06 * len(curves)))  # with room for the names
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error, %")
    measured = list(dict.fromkeys(curve.measured for curve in curves))
    axes.set_title("training error: " + "; ".join(measured), fontsize=8, color="0.35", loc="left", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(frameon=False, fontsize=9)
    return figure
