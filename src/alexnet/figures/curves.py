"""Loss and accuracy over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alexnet.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(epochs: list[dict[str, Any]]) -> Figure:
    """A figure of loss, accuracy and learning rate from a run's epoch rows; empty without rows.

    Raises UsageError without matplotlib.
    """
    figure = new_figure(11, 3.4)
    if not epochs:
        return figure
    loss, accuracy, rate = figure.subplots(1, 3)
    x = [row["epoch"] for row in epochs]
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "top1", 100)):
        for split, colour in (("train", "tab:gray"), ("val", "tab:blue")):
            if f"{split}_{name}" in epochs[0]:
                label = {"train": "training", "val": "validation"}[split]
                axes.plot(x, [row[f"{split}_{name}"] * scale for row in epochs], "o-", ms=3, color=colour, label=label)
        axes.legend(frameon=False)
    rate.plot(x, [row["lr"] for row in epochs], "o-", ms=3, color="tab:orange")
    rates = [row["lr"] for row in epochs]
    if min(rates) > 1e-4 * max(rates):  # drops by ten are even steps; a rate that ends at zero would fill the axis
        rate.set_yscale("log")
    for axes, title in ((loss, "loss"), (accuracy, "top-1 accuracy, %"), (rate, "learning rate at the epoch's end")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure
