"""Statistics against values worked out by hand."""

import math

import pytest

from asarm.metrics.statistics import (
    Comparison,
    Estimate,
    clustered_estimate,
    compare,
    estimate,
    ratio_of_means,
)


def test_mean_and_standard_error():
    found = estimate([1, 2, 3, 4])
    assert found.mean == 2.5
    assert found.error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert estimate([7]) == Estimate(7.0, None)


def test_paired_t_by_hand():
    # differences 1, 1, 2, 0: mean 1, variance 2/3, t = 1 / sqrt(2/3 / 4), 3 degrees of freedom
    t = math.sqrt(6)
    angle = math.atan(t / math.sqrt(3))
    two_sided = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    found = compare([2, 3, 5, 4], [1, 2, 3, 4])
    assert found.paired_t == pytest.approx(two_sided)


def test_independent_t_by_hand():
    # means 1.5 and 3.5, pooled variance 1/2, t = 2 / sqrt(1/2), 2 degrees of freedom
    t = 2 / math.sqrt(0.5)
    found = compare([1, 2], [3, 4])
    assert found.independent_t == pytest.approx(1 - t / math.sqrt(2 + t**2))


def test_rank_tests_by_hand():
    # all of 3 differences positive: 2 of the 8 signs are as extreme; U = 0 of 20 orders, twice
    found = compare([11, 12, 14], [1, 3, 6])
    assert found.wilcoxon == pytest.approx(2 / 8)
    assert found.mann_whitney == pytest.approx(2 / 20)


def test_zero_differences_are_split_between_the_signs():
    # differences 0 four times, then 1 to 16. The zeros' ranks, 10 together, go to both sides in
    # halves: T = 5, its mean is 105 and its variance (20 * 21 * 41 - (4**3 - 4) / 2) / 24
    found = compare([0] * 4 + list(range(1, 17)), [0] * 20)
    z = 100 / math.sqrt((20 * 21 * 41 - 30) / 24)
    assert found.wilcoxon == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_identical_samples_differ_in_nothing():
    same = Comparison(1.0, 1.0, 1.0, 1.0)
    assert compare([1, 2, 3], [1, 2, 3]) == same
    assert compare([243.0] * 20, [243.0] * 20) == same


def test_the_same_values_in_another_order_are_no_difference():
    found = compare([1, 2, 3, 4], [4, 3, 2, 1])
    assert (found.independent_t, found.paired_t, found.mann_whitney) == (1.0, 1.0, 1.0)
    assert found.wilcoxon == 1.0


def test_degenerate_samples_neither_crash_nor_warn():
    constants = compare([200.0] * 8, [243.0] * 8)
    assert constants.independent_t == constants.paired_t == 0.0
    assert constants.wilcoxon < 0.05
    assert constants.mann_whitney < 0.05
    assert compare([1.0], [2.0]) == compare([], []) == Comparison(None, None, None, None)
    assert compare([math.inf] * 3, [1.0, 2.0, 3.0]).paired_t is None
    near = compare([0.1 + 0.2] * 5, [0.3] * 4 + [0.3 + 1e-16])
    assert all(0 <= p <= 1 for p in vars(near).values())


def test_pairs_must_match():
    with pytest.raises(ValueError, match="2 values and 3"):
        compare([1, 2], [1, 2, 3])


def test_ratio_of_means_and_its_error():
    found = ratio_of_means([2, 4, 6], [1, 2, 3])
    assert found.mean == 2
    assert found.error == pytest.approx(0, abs=1e-15)
    # ratio 2, residuals 2 - 2, 6 - 4, 4 - 6 over mean 2: 0, 1, -1
    found = ratio_of_means([2, 6, 4], [1, 2, 3])
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert ratio_of_means([1, 2], [0, 0]).mean == math.inf


def test_a_cluster_for_each_value_changes_nothing():
    values = [3.0, -1.0, 4.0, 1.5, 9.0]
    found, expected = clustered_estimate(values, range(5)), estimate(values)
    assert found.mean == expected.mean
    assert found.error == pytest.approx(expected.error)


def test_values_given_again_say_nothing_new():
    values = [3.0, -1.0, 4.0, 1.5, 9.0]
    found, expected = clustered_estimate(values * 7, list("abcde") * 7), estimate(values)
    assert found.mean == pytest.approx(expected.mean)
    assert found.error == pytest.approx(expected.error)
    assert found.error > 2 * estimate(values * 7).error


def test_unequal_clusters_by_hand():
    # mean 3; sums of deviations -3 and 1 and 2: sqrt((9 + 1 + 4) * 3 / 2) / 4
    found = clustered_estimate([1, 4, 2, 5], ["a", "b", "a", "c"])
    assert found == Estimate(3.0, pytest.approx(math.sqrt(21) / 4))


def test_one_cluster_has_no_error_and_every_value_needs_its_own():
    assert clustered_estimate([1, 2, 3], ["a"] * 3) == Estimate(2.0, None)
    with pytest.raises(ValueError, match="argument 2"):
        clustered_estimate([1, 2, 3], ["a", "b"])
