"""Claims 10 to 16: what two GPUs, normalisation, overlapping pooling and ReLUs bring (section 3)."""

from __future__ import annotations

from alexnet.paper.claims.claim import Check, Claim, rounds_to
from alexnet.paper.claims.logs import LOGGED


def gain(without: str, with_it: str, top1: float, top5: float) -> tuple[Check, ...]:
    """By how many points the logged errors of one network lie above another's, beside the paper's figures."""
    a, b = LOGGED[without], LOGGED[with_it]
    source = f"nets {without} and {with_it}"
    return (
        rounds_to("top-1 gain", a.top1 - b.top1, top1, " points", source),
        rounds_to("top-5 gain", a.top5 - b.top5, top5, " points", source),
    )


ARCHITECTURE = (
    Claim(
        10,
        "3.2",
        "two GPUs: -1.7/-1.2 points",
        "Two columns on two GPUs lower the errors by 1.7 and 1.2 points against one column with half the kernels.",
        "log",
        lambda: gain("145-half", "145-2010", 1.7, 1.2),
    ),
    Claim(
        11,
        "3.3",
        "normalisation: -1.4/-1.2 points",
        "Local response normalisation lowers the errors by 1.4 and 1.2 points.",
        "log",
        lambda: gain("148", "145", 1.4, 1.2),
        note="Net 148 lacks all three norms of the released network; one without conv2's two is no worse, with "
        "another schedule (net 167).",
        without="its counterpart on CIFAR-10 is claim 12",
    ),
    Claim(
        12,
        "3.3",
        "CIFAR-10: 13 % with LRN 11 %",
        "On CIFAR-10 a four-layer network has 13 % test error without normalisation and 11 % with it.",
        "CIFAR-10",
        note="The released networks for 13 and 11 % differ in three things besides: the width of local3, the output "
        "layer's decay and the drops of the rate (the 13 % network with drops is the release's 12 % network).",
    ),
    Claim(
        13,
        "3.4",
        "overlapping pooling: -0.4/-0.3",
        "Pooling windows of 3 that overlap by 1 lower the errors by 0.4 and 0.3 points against windows of 2.",
        "log",
        lambda: gain("147", "145", 0.4, 0.3),
        note="Net 147 has other padding too; nets that differ in the schedule alone spread by 0.3 points.",
    ),
    Claim(
        14,
        "3.4",
        "overlapping overfits a little less",
        "Networks with overlapping pooling are slightly more difficult to overfit.",
        "ImageNet",
    ),
    Claim(
        15,
        "3.1, fig. 1",
        "ReLU: 25 % error 6 times sooner",
        "A four-layer network reaches 25 % training error on CIFAR-10 six times sooner with ReLUs than with tanh.",
        "CIFAR-10",
        note="The paper's data are CIFAR-10, and so are the experiment's: it is at the paper's own scale.",
    ),
    Claim(
        16,
        "3.1, fig. 1",
        "ReLU: several times, in any net",
        "Whatever the network, it learns several times faster with ReLUs.",
        "CIFAR-10",
        note="The paper shows one network.",
    ),
)
