"""S10: two columns that meet in some layers against one column and against a network without groups (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from alexnet.paper.arms import WHERE100, Arms, final_error, paired, table_of, top5_error
from alexnet.paper.experiment import Experiment, Row, Table, Verdict
from alexnet.paper.rules import EFFECT, judge_effect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TWO, ONE, WHOLE = "two-columns", "one-column", "no-groups"
CLAIMED = 1.7  # points of top-1 error
LEAST = 1.0
CIFAR100 = TrainConfig(
    name="columns",
    epochs=30,
    data=DataConfig(source="cifar100", val_fraction=0.0, pad=4, flip=True),
    model=ModelConfig(variant="cifar", width=0.25),
    optim=OptimConfig(name="paper-sgd", lr=0.02, decay_biases=False, schedule="step", drops=(20, 27)),
)
"""The paper's layers, narrow, on 100 classes: what the experiments on its structure begin from."""
REHEARSAL = {"epochs": 2, "optim.drops": (1,), "data.fraction": 0.02}
ARMS = Arms(
    CIFAR100,
    {
        TWO: {},
        # Half of the kernels of the first four convolutions; conv5 and the fully connected layers stay whole, as the
        # footnote of section 3.2 says.
        ONE: {"model.groups": 1, "model.widths": ("conv1=12", "conv2=32", "conv3=48", "conv4=48")},
        WHOLE: {"model.groups": 1},
    },
    seeds=5,
    rehearsal=REHEARSAL,
)


def judge(rows: Sequence[Row]) -> dict[int, Verdict]:
    """By the rule of `EXPERIMENT`."""
    verdict = judge_effect(
        *paired(rows, ONE, TWO, "test"),
        LEAST,
        "test error of one column less that of two, points",
        f"{CLAIMED} points on ImageNet",
    )
    whole = judge_effect(
        *paired(rows, TWO, WHOLE, "test"), LEAST, "two columns less the network without groups, points"
    )
    return {10: Verdict(verdict.state, f"{verdict.sentence} Beside it: {whole.sentence}", verdict.numbers)}


def draw(rows: Sequence[Row]) -> Figure:
    """Every run's test errors."""
    labels = {"test": "top-1 test error, %", "top5": "top-5 test error, %"}
    return ARMS.draw(rows, labels)


def table(rows: Sequence[Row]) -> Table:
    """Test errors of the three networks."""
    return table_of(rows, {"test": "top-1 error, %", "top5": "top-5 error, %"})


EXPERIMENT = Experiment(
    id="S10",
    title="two columns, one column, no groups",
    claims=(10,),
    method="The `cifar` network, the paper's layers for images of 32 pixels, at a quarter of its width, with crops, "
    "reflections and dropout: in two columns as the paper's, whose conv2, conv4 and conv5 see their own column alone; "
    "as one column, with half of the kernels of conv1 to conv4 and whole conv5 and fully connected layers, which is "
    "the paper's one-GPU network; and without groups at the full number of kernels. He's initial weights with an "
    "output layer near zero, 30 epochs, a rate of 0.02 divided by ten after 20 and 27, five seeds.",
    rule=f"The test error of one column less that of two. {EFFECT.format(least=f'{LEAST:g} point')}",
    data="CIFAR-100 in the place of ImageNet: all 50,000 training images and the 10,000 of the test. " + WHERE100,
    hours=2.2,
    plan=ARMS.plan,
    measure=ARMS.measuring({"test": final_error, "top5": top5_error}),
    judge=judge,
    draw=draw,
    table=table,
    run_by_run=True,
    open_questions=(
        "Claim 9, that two columns train in slightly less time than one, is about two cards side by side: here both "
        "are on one processor.",
        "The network without groups has more parameters in its convolutions than that of two columns.",
    ),
)
