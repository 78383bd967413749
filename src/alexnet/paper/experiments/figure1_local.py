"""S1b: figure 1 once more, with the other network that the paper may mean."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from alexnet.config.values import override
from alexnet.paper.experiments import figure1
from alexnet.paper.experiments.figure1 import FOUR_LAYERS, Net

LOCAL = Net("two local layers", override(FOUR_LAYERS.config, {"model.variant": "convnet-13pct"}))

EXPERIMENT = replace(
    figure1.EXPERIMENT,
    id="S1b",
    title="ReLU against tanh in the network of section 3.3",
    method="As S1, with the four layers of section 3.3 in the place of its network: two convolutions and two locally "
    "connected layers before the output layer, cuda-convnet's 13 % network, which has no normalisation.",
    hours=4.0,
    plan=partial(figure1.plan, (LOCAL,)),
    measure=partial(figure1.measure, (LOCAL,)),
    open_questions=("It is not known which of the two networks figure 1 is of.",),
)
