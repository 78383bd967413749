"""Rules that several experiments judge by, so that a word means the same in all of them."""

from __future__ import annotations

from math import isfinite

from alexnet.paper.experiment import Verdict
from alexnet.paper.statistics import Estimate, Sample, one_more

DIFFERENCE = (
    'By the 95 % interval of the difference: "reproduced" if it lies above 0 and contains the paper\'s figure, '
    '"direction only" if it lies above 0 and does not; "inconclusive" if it reaches from 0 or below to the paper\'s '
    'figure, so that the two cannot be told apart; "not reproduced" if it reaches down to 0 and not up to that figure. '
    "Where the paper gives no figure, an interval above 0 is enough, and one below 0 contradicts it."
)
LEVEL = (
    "By the interval in which one more network of this kind would lie, with 95 % probability, from the mean and spread "
    'of the seeds: "reproduced" if the paper\'s figure lies within it or above (the network is better than the '
    'paper\'s), "not reproduced" if it lies below, and "inconclusive" with fewer than two runs or where the interval '
    "is wider than 2 points to either side."
)


def judge_difference(found: Estimate, claimed: float, what: str) -> Verdict:
    """The verdict on a difference that the paper says to be above 0, and `claimed` (0 where it gives no figure), by the
    rule `DIFFERENCE`.

    `what` says what the difference is of and of how many runs, as in "top-1 error without normalisation less that with
    it, points, 5 seeds each".
    """
    sentence = f"{what}: {found}" + (f"; the paper has {claimed:g}." if claimed else ".")
    numbers = {"difference": found.value, "low": found.low, "high": found.high, "claimed": claimed}
    if found.p is not None:
        numbers["p"] = found.p
    if not isfinite(found.high - found.low) or found.low == found.high:
        return Verdict("inconclusive", f"{what}: {found.value:.2f}, without a spread to judge it by.", numbers)
    if found.low > 0:
        within = not claimed or found.low <= claimed <= found.high
        return Verdict("reproduced" if within else "direction only", sentence, numbers)
    return Verdict("inconclusive" if found.high >= claimed else "not reproduced", sentence, numbers)


def judge_level(sample: Sample, claimed: float, what: str) -> Verdict:
    """The verdict on an error that the paper says to be `claimed`, by the rule `LEVEL`."""
    if len(sample) < 2:
        return Verdict("inconclusive", f"{what}: fewer than two runs.")
    found = one_more(sample)
    sentence = (
        f"{what}: {found.value:.2f} of {len(sample)} seeds, one more within {found.low:.2f} to {found.high:.2f}; "
    )
    sentence += f"the paper has {claimed:g}."
    numbers = {"mean": found.value, "low": found.low, "high": found.high, "claimed": claimed}
    if found.high - found.low > 4:
        return Verdict("inconclusive", sentence, numbers)
    return Verdict("reproduced" if found.low <= claimed else "not reproduced", sentence, numbers)
