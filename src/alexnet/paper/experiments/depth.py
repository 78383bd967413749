"""S11: the network without one of its middle convolutions (section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.paper.arms import WHERE100, Arms, final_error, table_of, top5_error, values
from alexnet.paper.experiment import Experiment, Row, Table, Verdict
from alexnet.paper.experiments.columns import CIFAR100, REHEARSAL
from alexnet.paper.rules import SIGNIFICANT
from alexnet.paper.statistics import detectable_from, dunnett

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = "whole"
REMOVED = ("conv2", "conv3", "conv4", "conv5")
CLAIMED = 2.0  # points of top-1 error
ARMS = Arms(
    CIFAR100,
    {FULL: {}, **{f"without-{layer}": {"model.without": layer} for layer in REMOVED}},
    seeds=5,
    rehearsal=REHEARSAL,
)


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    whole = values(rows, FULL, "test")
    others = {layer: values(rows, f"without-{layer}", "test") for layer in REMOVED}
    if min(map(len, (whole, *others.values()))) < 2:
        return {32: Verdict("inconclusive", "Fewer than two seeds ended with each network and the whole one.")}
    found = dunnett(whole, others)
    smallest = detectable_from(whole, others)
    worse = [layer for layer, estimate in found.items() if estimate.value > 0 and (estimate.p or 0) < SIGNIFICANT]
    better = [layer for layer, estimate in found.items() if estimate.value < 0 and (estimate.p or 0) < SIGNIFICANT]
    shown = ", ".join(f"{layer} {estimate}" for layer, estimate in found.items())
    counts = sorted({len(whole), *map(len, others.values())})
    seeds = " or ".join(map(str, counts))  # where some diverged
    sentence = f"Test error without a layer less that of the whole network, points, {seeds} seeds each: {shown}"
    sentence += f"; the paper has about {CLAIMED:g} on ImageNet."
    numbers = {layer: estimate.value for layer, estimate in found.items()} | {"smallest": smallest}
    about = all(found[layer].low <= CLAIMED <= found[layer].high for layer in REMOVED)
    if len(worse) == len(REMOVED) and about:
        return {32: Verdict("reproduced", sentence, numbers)}
    if worse and not better:
        return {32: Verdict("direction only", sentence, numbers)}
    weak = smallest > CLAIMED and not better
    return {32: Verdict("inconclusive" if weak else "not reproduced", sentence, numbers)}


def draw(rows: Sequence[Row]) -> Figure:
    """Every run's test error."""
    return ARMS.draw(rows, {"test": "test error, %"})


def table(rows: Sequence[Row]) -> Table:
    """Test errors of the five networks."""
    return table_of(rows, {"test": "top-1 error, %", "top5": "top-5 error, %"})


EXPERIMENT = Experiment(
    id="S11",
    title="without one of the middle layers",
    claims=(32,),
    method="The `cifar` network, the paper's layers for images of 32 pixels, at a quarter of its width, with crops, "
    "reflections and dropout: whole, and without its second, third, fourth or fifth convolution. Where a layer with "
    "pooling goes, the pooling stays, so that all that follows keeps its size; nothing else makes up for the layer, as "
    "in the paper. He's initial weights with an output layer near zero, 30 epochs, a rate of 0.02 divided by ten "
    "after 20 and 27, five seeds.",
    rule="Each network without a layer is compared with the whole one by Dunnett's test, whose four p-values hold "
    'together. "Reproduced" if all four are worse with p < 0.05 and all four intervals hold the paper\'s '
    f'{CLAIMED:g} points, "direction only" if some are worse and none is better, "not reproduced" if one is better '
    'with p < 0.05. If none differs, "inconclusive" where, at the spread that all five networks share, that test would '
    f"miss a difference of {CLAIMED:g} points, the paper's, more often than one time in five, and else \"not "
    'reproduced".',
    data="CIFAR-100 in the place of ImageNet: all 50,000 training images and the 10,000 of the test. " + WHERE100,
    hours=3.6,
    plan=ARMS.plan,
    measure=ARMS.measuring({"test": final_error, "top5": top5_error}),
    judge=judge,
    draw=draw,
    table=table,
    run_by_run=True,
    open_questions=(
        "The paper does not say which layers were removed, nor whether the others grew.",
        "Without conv3 the two columns meet in the fully connected layers alone.",
        "On maps of 7 pixels a layer more sees the whole image sooner than on ImageNet's.",
    ),
)
