"""Rules that several experiments judge by, so that a word means the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from statistics import mean, median

from alexnet.paper.experiment import Verdict
from alexnet.paper.statistics import Estimate, Sample, detectable, one_more, paired_t, ratio_of_medians

SIGNIFICANT = 0.05  # two-sided
EFFECT = (
    "By the paired t-test over the seeds, two-sided, with a 95 % interval of the difference: where p < 0.05, "
    '"reproduced" if the difference has the paper\'s sign and its interval reaches {least}, "direction only" if it '
    'has the sign and is smaller, "not reproduced" if it has the other sign. Where p is larger, the spread of the '
    'pairs says how small a difference these seeds would show with a probability of 80 %: "inconclusive" if that is '
    'more than {least}, and else "not reproduced".'
)
DIFFERENCE = (
    'By the 95 % interval of the difference: "reproduced" if it lies above 0 and contains the paper\'s figure, '
    '"direction only" if it lies above 0 and does not; "inconclusive" if it reaches from 0 or below to the paper\'s '
    'figure, so that the two cannot be told apart; "not reproduced" if it reaches down to 0 and not up to that figure. '
    "Where the paper gives no figure, an interval above 0 is enough, and one below 0 contradicts it; where it says "
    '"more than", an interval that lies above the figure is "reproduced" too.'
)
DOUBLE = 2.0
RATIO = (
    'The ratio of the medians with and without dropout has a bootstrap interval of 95 %: "reproduced" if it lies '
    'above 1, reaches into 1.5 to 2.5, which we take "roughly doubles" to mean, and not beyond 4, "direction '
    'only" if it lies above 1 elsewhere; if it reaches down to 1, "inconclusive" if it reaches up to 1.5 and "not '
    'reproduced" otherwise.'
)
SUBSTANTIAL = 2.0
"""Points from which on a difference is what the paper calls substantial, without a figure."""
CEILING = (
    'Where the epochs at the constant rate are fewer than 1.5 times that median without dropout, "roughly doubles" '
    'could not have been seen, and what would be "not reproduced" is "inconclusive" (added after S5 had been run; '
    "of the photographs no arm had ended, but two trainings of the search for its rate had)."
)
LEVEL = (
    "By the interval in which one more network of this kind would lie, with 95 % probability, from the mean and spread "
    'of the seeds: "reproduced" if the paper\'s figure lies within it or above (the network is better than the '
    'paper\'s), "not reproduced" if it lies below, and "inconclusive" with fewer than two runs or where the interval '
    "is wider than 2 points to either side."
)


def judge_effect(more: Sequence[float], less: Sequence[float], least: float, what: str, claimed: str = "") -> Verdict:
    """The verdict on a claim that `more` is larger than `less`, pair by pair, by the rule `EFFECT`, where a difference
    of `least` is the smallest that would matter.

    `what` says what the difference is of, with its unit, and `claimed` what the paper has for it.
    """
    what = what[0].upper() + what[1:]
    if len(more) < 2:
        return Verdict("inconclusive", f"{what}: fewer than two pairs of runs ended.")
    smallest = detectable(more, less)
    numbers = {"difference": mean(more) - mean(less), "smallest": smallest, "pairs": float(len(more))}
    if smallest < 1e-9:  # of rounding
        return Verdict(
            "inconclusive", f"{what}: {numbers['difference']:.2f} in every pair of runs, no spread.", numbers
        )
    found = paired_t(more, less)
    assert found.p is not None
    numbers |= {"low": found.low, "high": found.high, "p": found.p}
    paper = f"; the paper has {claimed}" if claimed else ""
    sentence = (
        f"{what}: {found}, p = {found.p:.2g}, {len(more)} pairs, at whose spread a difference of {smallest:.2g} is "
        f"found four times in five{paper}."
    )
    if found.p < SIGNIFICANT and found.value > 0:
        return Verdict("reproduced" if found.high >= least else "direction only", sentence, numbers)
    weak = found.p >= SIGNIFICANT and smallest > least
    return Verdict("inconclusive" if weak else "not reproduced", sentence, numbers)


def judge_difference(found: Estimate, claimed: float, what: str, or_more: bool = False, least: float = 0.0) -> Verdict:
    """The verdict on a difference that the paper says to be above 0, and `claimed` (0 where it gives no figure) or,
    with `or_more`, more than that, by the rule `DIFFERENCE`. Without a figure of the paper's a difference of `least` is
    the smallest that would matter.

    `what` says what the difference is of and of how many runs, as in "top-1 error without normalisation less that with
    it, points, 5 seeds each".
    """
    sentence = f"{what}: {found}" + (f"; the paper has {claimed:g}." if claimed else ".")
    numbers = {"difference": found.value, "low": found.low, "high": found.high, "claimed": claimed}
    if found.p is not None:
        numbers["p"] = found.p
    if not isfinite(found.high - found.low) or found.low == found.high:
        return Verdict("inconclusive", f"{what}: {found.value:.2f}, without a spread to judge it by.", numbers)
    reaches = found.high >= (claimed or least)
    if found.low > 0:
        within = reaches and (or_more or not claimed or found.low <= claimed)
        return Verdict("reproduced" if within else "direction only", sentence, numbers)
    return Verdict("inconclusive" if reaches else "not reproduced", sentence, numbers)


def judge_ratio(slow: Sample, fast: Sample, longest: float = inf) -> Verdict:
    """The verdict on the epochs with dropout being twice those without, by the rule `RATIO`; where none could be more
    than `longest`, by `CEILING` too."""
    if min(len(slow), len(fast)) < 2:
        return Verdict("inconclusive", "Fewer than two runs of each ended.")
    ratio = ratio_of_medians(slow, fast)
    sentence = (
        f"With dropout it takes {ratio.value:.2f} times as many epochs (95 % interval {ratio.low:.2f} to "
        f"{ratio.high:.2f}, medians {median(slow):.0f} and {median(fast):.0f} of {len(slow)} seeds); the paper has "
        f"roughly {DOUBLE:.0f}."
    )
    numbers = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    ceiling = longest / median(fast)
    if ratio.low <= 1 and ceiling < 0.75 * DOUBLE:
        return Verdict("inconclusive", f"{sentence} {longest:.0f} epochs could show {ceiling:.2f} at most.", numbers)
    roughly = ratio.low <= 1.25 * DOUBLE and 0.75 * DOUBLE <= ratio.high <= 2 * DOUBLE
    if ratio.low > 1:
        return Verdict("reproduced" if roughly else "direction only", sentence, numbers)
    return Verdict("inconclusive" if ratio.high >= 0.75 * DOUBLE else "not reproduced", sentence, numbers)


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
