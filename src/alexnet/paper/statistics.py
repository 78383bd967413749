"""The tests and intervals that the experiments judge by: SciPy's where it has them.

Samples are one number a seed or one a picture. Every interval is of 95 %, every p-value two-sided, unless said
otherwise; what draws random numbers has a seed and gives the same figures each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from alexnet.errors import UsageError

Sample = Sequence[float] | np.ndarray[Any, Any]
_DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity with its interval, and the p-value of the hypothesis that it is none (0, or a ratio of 1)
    where there is one."""

    value: float
    low: float
    high: float
    p: float | None = None

    def __str__(self) -> str:
        return f"{self.value:z.2f} (95 % interval {self.low:z.2f} to {self.high:z.2f})"  # z: no -0.00


def welch(a: Sample, b: Sample) -> Estimate:
    """mean(a) - mean(b) of independent samples whose variances may differ: Welch's t-test. Needs two of each."""
    result = _stats().ttest_ind(a, b, equal_var=False)
    low, high = result.confidence_interval()
    return Estimate(float(np.mean(a) - np.mean(b)), float(low), float(high), float(result.pvalue))


def paired_t(a: Sample, b: Sample) -> Estimate:
    """The mean of a - b, pair by pair (the same seed, the same split): Student's t-test. Needs two pairs."""
    result = _stats().ttest_rel(a, b)
    low, high = result.confidence_interval()
    return Estimate(float(np.mean(np.subtract(a, b))), float(low), float(high), float(result.pvalue))


def one_more(sample: Sample) -> Estimate:
    """The mean, with the interval in which one more value of the same kind lies (a prediction interval, Student's t):
    for a figure that somebody else has of one network."""
    count = len(sample)
    half = _stats().t.ppf(0.975, count - 1) * np.std(sample, ddof=1) * np.sqrt(1 + 1 / count)
    return Estimate(float(np.mean(sample)), float(np.mean(sample) - half), float(np.mean(sample) + half))


def ratio_of_medians(a: Sample, b: Sample) -> Estimate:
    """median(a) / median(b) with a bootstrap interval (percentiles; both samples drawn anew, independently).

    Infinite numbers stand for what was never reached, and the interval may be unbounded above.
    """
    rng = np.random.default_rng(0)
    x, y = (np.asarray(sample, dtype=float) for sample in (a, b))
    ratios = np.median(_resampled(x, rng), axis=1) / np.median(_resampled(y, rng), axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(np.median(x) / np.median(y)), float(low), float(high))


def paired_bootstrap(a: Sample, b: Sample) -> Estimate:
    """The mean of a - b over images, each with its two numbers (1 where the network was right), and its bootstrap
    interval: the images are drawn anew, both numbers of each together."""
    rng = np.random.default_rng(0)
    difference = np.subtract(a, b, dtype=float)
    # Only how often each value was drawn matters, and a difference of two hits has three values: millions of images
    # would otherwise be drawn one by one.
    values, counts = np.unique(difference, return_counts=True)
    drawn = rng.multinomial(len(difference), counts / len(difference), size=_DRAWS)
    low, high = np.quantile(drawn @ values / len(difference), [0.025, 0.975])
    return Estimate(float(difference.mean()), float(low), float(high))


def mcnemar(a: Sample, b: Sample) -> float:
    """The p-value that two networks are equally often right, from which of the same images each has right (1 or 0):
    McNemar's exact test, of the images on which they differ."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    return _binomial(only_a, only_a + only_b)


def dunnett(control: Sample, others: Mapping[str, Sample]) -> dict[str, Estimate]:
    """The mean of each of several samples less the control's, with intervals and p-values that hold for all of them
    together: Dunnett's test, which assumes one common variance."""
    result = _stats().dunnett(*others.values(), control=control, rng=np.random.default_rng(0))
    interval = result.confidence_interval()
    return {
        name: Estimate(
            float(np.mean(sample) - np.mean(control)),
            float(interval.low[i]),
            float(interval.high[i]),
            float(result.pvalue[i]),
        )
        for i, (name, sample) in enumerate(others.items())
    }


def successive(samples: Mapping[str, Sample]) -> dict[str, Estimate]:
    """The mean of each of several samples less that of the sample before it, by name, with intervals and p-values of
    its own (not of all together), from the variance that all samples are taken to have in common: Student's t.

    A sample of fewer than two has no difference, and the next one is compared with the sample before it.
    """
    whole = {name: np.asarray(sample, dtype=float) for name, sample in samples.items() if len(sample) > 1}
    freedom = sum(len(sample) - 1 for sample in whole.values())
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in whole.values())
    found = {}
    for before, name in pairwise(whole):
        a, b = whole[name], whole[before]
        error = np.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
        value, half = float(a.mean() - b.mean()), float(_stats().t.ppf(0.975, freedom) * error)
        p = 2 * float(_stats().t.sf(abs(value) / error, freedom)) if error else float(value == 0)
        found[name] = Estimate(value, value - half, value + half, p)
    return found


def permutation_test(a: Sample, b: Sample) -> float:
    """The p-value that it does not matter which numbers stand in which of two samples: how often the difference of
    their means is as large as it is, or larger, either way, when the numbers are shuffled."""
    result = _stats().permutation_test(
        (a, b),
        lambda x, y, axis: np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis)),
        vectorized=True,
        n_resamples=_DRAWS,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def detectable(a: Sample, b: Sample) -> float:
    """The smallest true difference that `paired_t` of as many pairs, which spread as these do, finds at a level of 5 %
    with a chance of 80 %. Needs two pairs; 0 if all have the same difference."""
    error = float(np.std(np.subtract(a, b, dtype=float), ddof=1)) / np.sqrt(len(a))
    return float(_found_mostly(_stats().t.ppf(0.975, len(a) - 1), len(a) - 1) * error)


def detectable_from(control: Sample, others: Mapping[str, Sample]) -> float:
    """The smallest true difference from the control of any one of several samples, of as many numbers, which spread as
    these do, that `dunnett` finds at a level of 5 % with a chance of 80 %. Needs two numbers in each; 0 if none differ.
    """
    samples = [np.asarray(sample, dtype=float) for sample in (control, *others.values())]
    freedom = sum(map(len, samples)) - len(samples)
    deviation = np.sqrt(sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom)
    if not deviation:
        return 0.0
    found = []
    for name, estimate in dunnett(control, others).items():
        error = deviation * np.sqrt(1 / len(control) + 1 / len(others[name]))
        found.append(float(_found_mostly((estimate.high - estimate.low) / 2 / error, freedom) * error))
    return max(found)


def _found_mostly(critical: float, freedom: int) -> float:
    """The true difference, in standard errors, at which a t statistic is beyond a critical value, either way, with a
    chance of 80 %: from the noncentral t distribution."""
    stats = _stats()
    low, high = 0.0, 2 * float(critical) + 10
    for _ in range(60):
        middle = (low + high) / 2
        # The lower tail as the mirror image of an upper one: nct.cdf far from the centre is often NaN.
        found = stats.nct.sf(critical, freedom, middle) + stats.nct.sf(critical, freedom, -middle)
        low, high = (low, middle) if found >= 0.8 else (middle, high)
    return high


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The probabilities [..., K] of logits [..., K]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray[Any, Any] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def interval_of_mean(sample: Sample) -> tuple[float, float]:
    """The 95 % interval of the mean of two numbers or more, from Student's t."""
    half = float(_stats().t.ppf(0.975, len(sample) - 1) * np.std(sample, ddof=1) / np.sqrt(len(sample)))
    return float(np.mean(sample)) - half, float(np.mean(sample)) + half


def _resampled(sample: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return sample[rng.integers(0, len(sample), (_DRAWS, len(sample)))]


def _binomial(successes: int, count: int) -> float:
    return float(_stats().binomtest(successes, count).pvalue) if count else 1.0


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise UsageError("the paper's experiments need SciPy: pip install 'alexnet[paper]'") from None
    return stats
