"""The ledger's points about how a result is obtained (no torch here)."""

from __future__ import annotations

from alexnet.ledger.facts import Facts, Training
from alexnet.ledger.points import Answer, training_point


@training_point(
    25,
    "views in the test",
    paper="softmax outputs averaged over ten views (4.1); 39.0/18.3 % with one, 37.5/17.0 with ten (6, footnote)",
    release="likewise, as an option (layer.cu:1806-1822; layer.py: multiview test)",
    effect="-1.5 to -2.1 points of top-1, -1.2 to -1.7 of top-5",
)
def _views(facts: Facts, training: Training) -> Answer:
    return Answer(
        "the central crop, in the test that ends a run; ten views with alexnet evaluate --views 10",
        paper=True,
        release=False,
    )


@training_point(
    31,
    "ensembles: weights",
    paper="predictions are averaged (6)",
    release="a sum with coefficients fitted on the validation set is there (avg-valid.py: find_coeffs)",
    effect="not known, nor whether the paper's figures used it",
)
def _ensembles(facts: Facts, training: Training) -> Answer:
    return Answer("one network: does not apply; alexnet evaluate RUN RUN averages, as the paper")


POINTS = (_views, _ensembles)
