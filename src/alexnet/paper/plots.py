"""What several experiments draw: every run a dot with means and intervals, and curves with the range of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from alexnet.figures import new_figure
from alexnet.paper.statistics import interval_of_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


def draw_strips(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A panel for each figure, by its axis label, with a line for each arm, as `strips` draws it."""
    arms = max((len(groups) for groups in panels.values()), default=1)
    figure = new_figure(5.4, (0.7 + 0.42 * arms) * len(panels) + 0.2)
    for axes, (label, groups) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        strips(axes, groups, label)
    return figure


def strips(axes: Axes, groups: Mapping[str, Sequence[float]], label: str) -> None:
    """A line for each arm: every run a dot, and below them their mean with its 95 % interval."""
    for place, numbers in enumerate(groups.values()):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(numbers, [place - 0.14] * len(numbers), "o", ms=5, color=colour, alpha=0.6, mew=0)
        if len(numbers) > 1:
            axes.plot(interval_of_mean(numbers), [place + 0.17] * 2, lw=2, color=colour, solid_capstyle="butt")
            axes.plot([mean(numbers)], [place + 0.17], "|", ms=11, mew=2.5, color=colour)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    tidy(axes)


def draw_curves(axes: Axes, x: Sequence[float], runs: Sequence[Sequence[float]], label: str, colour: str) -> None:
    """The mean of several runs' curves over the same x, and shaded the range from the lowest to the highest."""
    curves = np.asarray(runs, dtype=float)
    axes.plot(x, curves.mean(axis=0), lw=1.8, color=colour, label=label)
    axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.18, lw=0)


def tidy(axes: Axes) -> None:
    """Take away the frame where it says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
