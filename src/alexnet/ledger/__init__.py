"""The ledger: 32 points at which implementations of AlexNet part, and what a given network or run does at each.

`examine(facts)` gives a line for every point: what the paper says, what the released source does (net 145), what this
one does, and whether that departs from the two. What this one does is read from the configuration and from the network
as built, never from a name. No torch here, but in `built`, which reads a module.
"""

from __future__ import annotations

from alexnet.ledger.facts import Facts, Pixels, Stage, Training
from alexnet.ledger.lines import POINTS, as_rows, examine, summarise

__all__ = [
    "POINTS",
    "Facts",
    "Pixels",
    "Stage",
    "Training",
    "as_rows",
    "examine",
    "summarise",
]
