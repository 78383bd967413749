"""Claims 17 to 25: what augmentation, dropout, decay and the start bring (sections 4 and 5)."""

from __future__ import annotations

from itertools import product

import numpy as np

from alexnet.paper.claims.claim import Check, Claim, equals, rounds_to
from alexnet.paper.claims.logs import DROPS, LOGGED
from alexnet.paper.statistics import softmax


def ten_views() -> tuple[Check, ...]:
    """Claim 19: net 145 of 2010 with the central crop and with ten views."""
    centre, views = LOGGED["145-2010, centre"], LOGGED["145-2010"]
    return (
        rounds_to("top-1, centre", centre.top1, 39.0, " %", centre.source),
        rounds_to("top-5, centre", centre.top5, 18.3, " %", centre.source),
        rounds_to("top-1, ten views", views.top1, 37.5, " %", views.source),
        rounds_to("top-5, ten views", views.top5, 17.0, " %", views.source),
    )


def geometric_mean() -> tuple[Check, ...]:
    """Claim 22: one layer and a softmax, ten inputs, every one of the 1,024 masks: the normalised geometric mean of all
    their distributions, and what the inputs times 0.5 give."""
    rng = np.random.default_rng(0)
    weights, bias, inputs = rng.normal(size=(5, 10)), rng.normal(size=5), rng.normal(size=10)
    masks = np.array(list(product((0, 1), repeat=10)))
    logs = np.log([softmax(weights @ (inputs * mask) + bias) for mask in masks])
    mean = np.exp(logs.mean(axis=0))
    halved = softmax(weights @ (0.5 * inputs) + bias)
    largest = float(np.abs(mean / mean.sum() - halved).max())
    what = f"largest difference of a probability from the geometric mean of all {len(masks):,} masks"
    return (Check(what, largest, None, largest < 1e-12),)


def drops() -> tuple[Check, ...]:
    """Claim 25: how often the rate of the weights was divided by ten."""
    return tuple(
        equals(
            f"drops of net {net}, after epochs {', '.join(map(str, epochs))}", len(epochs), 3, f"layer-params-{net}.cfg"
        )
        for net, epochs in DROPS.items()
    )


TRAINING = (
    Claim(
        17,
        "4.1",
        "without crops it overfits",
        "Without random crops and reflections the network overfits substantially.",
        "ImageNet",
    ),
    Claim(
        18,
        "4.1",
        "colour noise: more than 1 point",
        "Noise along the principal components of the colours lowers the top-1 error by more than 1 point.",
        "ImageNet",
    ),
    Claim(
        19,
        "6",
        "ten views: 39.0/18.3 to 37.5/17.0",
        "Averaging over ten views lowers the errors from 39.0 and 18.3 % to 37.5 and 17.0 %.",
        "log",
        ten_views,
    ),
    Claim(
        20,
        "4.2",
        "dropout doubles the iterations",
        "Dropout roughly doubles the iterations to convergence.",
        "ImageNet",
    ),
    Claim(
        21,
        "4.2",
        "without dropout it overfits",
        "Without dropout the network overfits substantially.",
        "ImageNet",
    ),
    Claim(
        22,
        "4.2",
        "x 0.5 is the mean of all subnets",
        "Halving the outputs at test time approximates the geometric mean of all the thinned networks' predictions.",
        "estimate",
        geometric_mean,
        note="Exact for one layer and a softmax, which is what is computed; for more layers it is an approximation.",
    ),
    Claim(
        23,
        "5",
        "decay lowers the training error",
        "A weight decay of 0.0005 is not merely a regulariser: it lowers the training error.",
        "ImageNet",
        note="Mishkin et al. (2017) have 47.1 % validation accuracy with 0.0005 and 45.0 % with 0.0001, one run each.",
    ),
    Claim(
        24,
        "5",
        "biases of 1 speed the start",
        "Biases that start at 1 accelerate the early stages of learning.",
        "ImageNet",
        note="Caffe's authors saw a flat loss with 1 in their version of this network and took 0.1; their CaffeNet "
        "keeps 1.",
    ),
    Claim(
        25,
        "5",
        "rate divided by ten three times",
        "The learning rate was divided by ten three times before the end.",
        "log",
        drops,
        without="it tells what was done",
    ),
)
