"""S6: whether weight decay lowers the training error (section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.config.values import override
from alexnet.paper.arms import WHERE100, Arms, error, final_error, paired, table_of
from alexnet.paper.experiment import Experiment, Row, Table, Verdict
from alexnet.paper.experiments.columns import CIFAR100, REHEARSAL
from alexnet.paper.rules import EFFECT, judge_effect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE, SMALL, PAPER = "none", "a-tenth", "the-papers"
LEAST = 0.5  # points of training error
ARMS = Arms(
    override(CIFAR100, {"name": "decay", "epochs": 40, "model.width": 0.125, "optim.drops": (30, 36)}),
    {arm: {"optim.weight_decay": decay} for arm, decay in ((NONE, 0.0), (SMALL, 5e-5), (PAPER, 5e-4))},
    seeds=5,
    rehearsal=REHEARSAL,
)


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    what = "{} error without weight decay less that with 0.0005, points"
    train, test = (
        judge_effect(*paired(rows, NONE, PAPER, split), LEAST, what.format(name))
        for split, name in (("train", "training"), ("test", "test"))
    )
    return {23: Verdict(train.state, f"{train.sentence} Beside it: {test.sentence}", train.numbers)}


def draw(rows: Sequence[Row]) -> Figure:
    """Every run's training and test error."""
    labels = {"train": "training error, %", "test": "test error, %"}
    return ARMS.draw(rows, labels)


def table(rows: Sequence[Row]) -> Table:
    """Errors of the three."""
    return table_of(rows, {"train": "training error, %", "test": "test error, %"})


EXPERIMENT = Experiment(
    id="S6",
    title="weight decay and the training error",
    claims=(23,),
    method="The `cifar` network, the paper's layers for images of 32 pixels, at an eighth of its width, on 100 classes "
    "with crops, reflections and dropout, so that it cannot fit its training images: there alone can the claim hold "
    "or fail. Weight decay 0, 0.00005 or the paper's 0.0005, on weights and not on biases, as released; He's initial "
    "weights with an output layer near zero, 40 epochs, a rate of 0.02 divided by ten after 30 and 36, five seeds.",
    rule="The error on the training split in evaluation mode (central crops, no dropout), without decay less with "
    f"0.0005. {EFFECT.format(least=f'{LEAST:g} points')} We expected before the run that decay raises the training "
    "error of a network so small.",
    data="CIFAR-100 in the place of ImageNet: all 50,000 training images and the 10,000 of the test. " + WHERE100,
    hours=1.6,
    plan=ARMS.plan,
    measure=ARMS.measuring({"train": error("train"), "test": final_error}),
    judge=judge,
    draw=draw,
    table=table,
    run_by_run=True,
    open_questions=(
        "With the paper's initial weights and rate, decay may help by keeping a network in the range where it learns; "
        "He's weights need no such help.",
        "Ninety epochs of 1.2 million images are more than fifty times the steps that are made here, over which decay "
        "acts.",
    ),
)
