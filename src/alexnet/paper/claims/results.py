"""Claims 26 to 32: the results, what the network has learned, and its depth (sections 6 and 7)."""

from __future__ import annotations

from alexnet.paper.claims.claim import Check, Claim, about, rounds_to
from alexnet.paper.claims.logs import LOGGED


def errors(net: str, top1: float, top5: float, within: float | None = None) -> tuple[Check, ...]:
    """The logged errors of a network beside the paper's, to the paper's rounding or within a part of them."""
    logged = LOGGED[net]
    figures = (("top-1", logged.top1, top1), ("top-5", logged.top5, top5))
    if within is None:
        return tuple(rounds_to(f"net {net}, {name}", a, b, " %", logged.source) for name, a, b in figures)
    return tuple(about(f"net {net}, {name}", a, b, within, " %", logged.source) for name, a, b in figures)


def validation_and_test() -> tuple[Check, ...]:
    """Claim 28: table 2's pairs of validation and test error, and the pair that is logged."""
    val, test = LOGGED["137-2010, validation"], LOGGED["137-2010, test"]
    pairs = {
        "table 2, five nets, top-5": (16.4, 16.4),
        "table 2, seven nets, top-5": (15.4, 15.3),
        "net 137 (2010), top-1": (val.top1, test.top1),
        "net 137 (2010), top-5": (val.top5, test.top5),
    }
    return tuple(
        Check(f"difference of {name}", round(abs(a - b), 3), 0.1, abs(a - b) <= 0.1 + 1e-9, " points")
        for name, (a, b) in pairs.items()
    )


RESULTS = (
    Claim(
        26,
        "6, table 1",
        "ILSVRC-2010: 37.5/17.0 %",
        "On the test set of ILSVRC-2010 the errors are 37.5 and 17.0 %.",
        "log",
        lambda: errors("145-2010", 37.5, 17.0),
        without="it is a figure on ImageNet",
    ),
    Claim(
        27,
        "6, table 2",
        "ILSVRC-2012: 40.7/18.2, 36.7/15.4",
        "On ILSVRC-2012 one network has 40.7 and 18.2 %, five averaged 38.1 and 16.4, one pre-trained on Fall 2011 "
        "39.0 and 16.6, seven 36.7 and 15.4 (validation).",
        "log",
        lambda: (*errors("145", 40.7, 18.2), *errors("146-2012-2011", 39.0, 16.6)),
        partly=True,
        note="The single networks' figures are logged and agree; those of the averages are in no log.",
    ),
    Claim(
        28,
        "6",
        "validation and test within 0.1",
        "Validation and test errors differ by no more than 0.1 %.",
        "log",
        validation_and_test,
        without="arithmetic and the log settle it",
    ),
    Claim(
        29,
        "6",
        "Fall 2009: 67.4/40.9 %",
        "On ImageNet of Fall 2009 with 10,184 categories the errors are 67.4 and 40.9 %.",
        "no data",
        lambda: errors("2009-101", 67.4, 40.9, within=0.01),
        note="No log has the paper's figures, which are of a network with a sixth convolutional layer over the last "
        "pooling; these are the nearest logged ones.",
        without="the photographs of Fall 2009 with the paper's split are not to be had",
    ),
    Claim(
        30,
        "6.1, fig. 3",
        "the two columns specialise",
        "In every run the kernels of one GPU become largely colour-agnostic, those of the other colour-specific.",
        "ImageNet",
    ),
    Claim(
        31,
        "6.1, fig. 4",
        "neighbours in fc7, not in pixels",
        "Images whose last hidden activations are close show the same things and are generally not close in pixels.",
        "ImageNet",
    ),
    Claim(
        32,
        "7, 1",
        "without a middle layer: 2 points",
        "Removing any of the middle convolutional layers costs about 2 points of top-1 error.",
        "ImageNet",
    ),
)
