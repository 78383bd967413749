"""What the experiments judge by, each against a computation of another kind."""

from math import comb

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from alexnet.paper import statistics as s
from alexnet.paper.experiment import Verdict
from alexnet.paper.rules import judge_difference, judge_level
from alexnet.paper.statistics import Estimate

A, B = [10.1, 9.7, 10.6, 11.0, 10.2], [9.2, 9.9, 9.1, 9.0, 9.6]


def t_tail(t, freedom):
    """P(|T| > t) of Student's t, by integrating its density from the definition."""
    from math import gamma, pi, sqrt

    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    return 2 * quad(lambda x: scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2), t, np.inf)[0]


def test_welch():
    va, vb = np.var(A, ddof=1) / 5, np.var(B, ddof=1) / 5
    freedom = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 4)
    t = (np.mean(A) - np.mean(B)) / np.sqrt(va + vb)
    found = s.welch(A, B)
    assert found.p == pytest.approx(t_tail(t, freedom), rel=1e-6)
    assert found.value == pytest.approx(np.mean(A) - np.mean(B))
    half = found.high - found.value
    assert found.value - found.low == pytest.approx(half)
    assert t_tail(half / np.sqrt(va + vb), freedom) == pytest.approx(0.05, rel=1e-6)


def test_paired_t():
    difference = np.subtract(A, B)
    error = difference.std(ddof=1) / np.sqrt(5)
    found = s.paired_t(A, B)
    assert found.p == pytest.approx(t_tail(difference.mean() / error, 4), rel=1e-6)
    assert t_tail((found.high - found.value) / error, 4) == pytest.approx(0.05, rel=1e-6)


def test_one_more():
    found = s.one_more(A)
    unit = np.std(A, ddof=1) * np.sqrt(1.2)
    assert t_tail((found.high - found.value) / unit, 4) == pytest.approx(0.05, rel=1e-6)


def test_one_more_covers_one_more():
    rng = np.random.default_rng(1)
    draws = rng.normal(5, 2, (2000, 6))
    inside = [(f := s.one_more(row[:5])).low <= row[5] <= f.high for row in draws]
    assert 0.93 < np.mean(inside) < 0.97


def test_ratio_of_medians_against_all_resamples():
    """Of three values there are 27 resamples: the bootstrap's distribution is known exactly."""
    a, b = [6.0, 7.0, 9.0], [1.0, 1.5, 2.0]
    medians = lambda x: [np.median([x[i], x[j], x[k]]) for i in range(3) for j in range(3) for k in range(3)]  # noqa: E731
    exact = np.quantile([p / q for p in medians(a) for q in medians(b)], [0.025, 0.975], method="inverted_cdf")
    found = s.ratio_of_medians(a, b)
    assert found.value == pytest.approx(7 / 1.5)
    assert (found.low, found.high) == tuple(exact)


def test_ratio_with_what_was_never_reached():
    found = s.ratio_of_medians([20, 30, np.inf, np.inf, 25], [5, 6, 5, 6, 5])
    assert found.value == 6
    assert found.high == np.inf
    assert 3 < found.low < 6


def test_paired_bootstrap_has_the_error_of_a_mean():
    rng = np.random.default_rng(0)
    a, b = rng.random(5000) < 0.8, rng.random(5000) < 0.75
    found = s.paired_bootstrap(a, b)
    difference = a.astype(float) - b
    error = difference.std() / np.sqrt(5000)
    assert found.value == pytest.approx(difference.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.03)


@pytest.mark.parametrize(("larger", "smaller"), [(0, 0), (5, 0), (9, 3), (3, 9), (6, 6)])
def test_mcnemar_counts_coins(larger, smaller):
    n = larger + smaller
    tail = sum(comb(n, k) for k in range(max(larger, smaller), n + 1)) / 2**n
    expected = min(1.0, 2 * tail)
    a = [1] * larger + [0] * smaller + [1, 1, 0]
    b = [0] * larger + [1] * smaller + [1, 1, 0]
    assert s.mcnemar(a, b) == pytest.approx(expected)


def test_dunnett_with_one_other_is_the_t_test():
    """Against one sample alone it is Student's t-test with pooled variance."""
    found = s.dunnett(A, {"b": B})["b"]
    error = np.sqrt((np.var(A, ddof=1) + np.var(B, ddof=1)) / 2 * (2 / 5))
    assert found.value == pytest.approx(np.mean(B) - np.mean(A))
    assert found.p == pytest.approx(t_tail(abs(found.value) / error, 8), rel=3e-2)
    assert found.low < found.value < found.high < 0


def test_dunnett_holds_for_all_together():
    """Of experiments without any effect one in twenty finds one, however many networks are compared."""
    rng = np.random.default_rng(2)
    found = [
        min(e.p for e in s.dunnett(rng.normal(size=5), {str(i): rng.normal(size=5) for i in range(4)}).values()) < 0.05
        for _ in range(20)
    ]
    assert np.mean(found) < 0.25


def test_permutation_test_against_all_permutations():
    from itertools import permutations

    values = [1.0, 4.0, 2.0, 9.0, 7.0]

    def difference(x):
        return abs(np.mean(x[3:]) - np.mean(x[:3]))

    exact = np.mean([difference(p) >= difference(values) for p in permutations(values)])
    assert s.permutation_test(values[:3], values[3:]) == pytest.approx(exact)


def test_permutation_test_of_more_numbers_is_near_the_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 48), rng.normal(0.4, 1, 48)
    assert s.permutation_test(a, b) == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=0.01)
    assert s.permutation_test(a, b) == s.permutation_test(a, b)


@pytest.mark.parametrize(
    ("low", "high", "claimed", "state"),
    [
        (0.5, 2.0, 1.4, "reproduced"),
        (0.5, 1.0, 1.4, "direction only"),
        (2.0, 3.0, 1.4, "direction only"),
        (-1.0, 2.0, 1.4, "inconclusive"),
        (-1.0, 1.0, 1.4, "not reproduced"),
        (-2.0, -1.0, 1.4, "not reproduced"),
        (0.1, 0.2, 0.0, "reproduced"),
        (-0.1, 0.2, 0.0, "inconclusive"),
        (-0.2, -0.1, 0.0, "not reproduced"),
    ],
)
def test_rule_of_differences(low, high, claimed, state):
    """Never "not reproduced" where the interval still holds what the paper says."""
    assert judge_difference(Estimate((low + high) / 2, low, high), claimed, "x").state == state


def test_more_than_a_figure_is_reached_by_an_interval_beyond_it():
    found = Estimate(2.5, 2.0, 3.0)
    assert judge_difference(found, 1.4, "x").state == "direction only"
    assert judge_difference(found, 1.4, "x", or_more=True).state == "reproduced"
    assert judge_difference(Estimate(0.7, 0.5, 1.0), 1.4, "x", or_more=True).state == "direction only"


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize("test", [s.welch, s.paired_t])
def test_rule_of_differences_without_any_spread(test):
    assert judge_difference(test([1.0, 1.0], [0.5, 0.5]), 1.4, "x").state == "inconclusive"
    assert Verdict("inconclusive", "x", {"p": float("nan"), "low": 1.0}).numbers == {"low": 1.0}


def test_rule_of_levels():
    assert judge_level([40.6, 40.7, 40.9], 40.7, "x").state == "reproduced"
    assert judge_level([43.0, 43.1, 43.2], 40.7, "x").state == "not reproduced"
    assert judge_level([38.0, 38.1, 38.2], 40.7, "x").state == "reproduced"
    assert judge_level([30.0, 50.0], 40.7, "x").state == "inconclusive"
    assert judge_level([40.7], 40.7, "x").state == "inconclusive"


def test_an_estimate_in_words_has_no_negative_zero():
    assert str(Estimate(0.05, -0.001, 0.1)) == "0.05 (95 % interval 0.00 to 0.10)"
    assert str(Estimate(-0.05, -0.101, -0.006)) == "-0.05 (95 % interval -0.10 to -0.01)"


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_what_is_detectable_is_found_four_times_in_five(count):
    pairs = np.linspace(-1, 1, count)
    smallest = s.detectable(pairs, np.zeros(count)) / np.std(pairs, ddof=1)  # of differences with a deviation of 1
    rng = np.random.default_rng(0)
    drawn = rng.normal(smallest, 1, (20000, count))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


def test_what_dunnetts_test_detects():
    unit = np.array([-1.0, 0, 0, 0, 1]) / np.sqrt(0.5)  # a deviation of 1
    smallest = s.detectable_from(unit, dict.fromkeys("abcd", unit))
    rng = np.random.default_rng(1)
    critical = (s.dunnett(unit, dict.fromkeys("abcd", unit))["a"].high) / np.sqrt(2 / 5)
    drawn = rng.normal(0, 1, (20000, 5, 5))
    drawn[:, 1] += smallest
    means, error = drawn.mean(axis=2), np.sqrt(drawn.var(axis=2, ddof=1).mean(axis=1) * 2 / 5)
    found = np.mean(np.abs(means[:, 1] - means[:, 0]) / error > critical)
    assert found == pytest.approx(0.8, abs=0.015)
    assert s.detectable_from([1, 1], {"a": [1, 1]}) == 0
