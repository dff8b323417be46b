"""Means with their errors, and whether two samplers differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, which is None where there is but one value."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Comparison:
    """P-values of "no difference", two-sided; None where there are fewer than two values.

    Independent and paired t-test, Wilcoxon's signed-rank test with zero differences split, and
    the Mann-Whitney U test: those of arXiv 2504.20456.
    """

    independent_t: float | None
    paired_t: float | None
    wilcoxon: float | None
    mann_whitney: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Compute the mean and the standard error (ddof 1) of independent values."""
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else None
    return Estimate(float(array.mean()), error)


def clustered_estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Compute the mean of values, and its standard error where those of one cluster hang together.

    The cluster-robust error of a mean: clusters are independent, and G / (G - 1) corrects for
    their number G. With a cluster of its own for each value it is that of `estimate`.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    sums: dict[Hashable, float] = {}
    for cluster, deviation in zip(clusters, array - mean, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + float(deviation)
    if len(sums) < 2:
        return Estimate(mean, None)
    squares = sum(total**2 for total in sums.values())
    return Estimate(mean, math.sqrt(squares * len(sums) / (len(sums) - 1)) / len(array))


def ratio_of_means(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Compute mean(numerator) / mean(denominator) of pairs, its error by the delta method."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if not bottom.mean() > 0:
        return Estimate(math.inf, None)
    ratio = float(top.mean() / bottom.mean())
    return Estimate(ratio, estimate((top - ratio * bottom) / bottom.mean()).error)


def compare(values: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Test values against a reference, value i paired with reference i."""
    ours, theirs = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values and {len(theirs)} of the reference are not pairs")
    if len(ours) < 2:
        return Comparison(None, None, None, None)
    differences = ours - theirs
    zeros = np.zeros_like(differences)
    return Comparison(
        independent_t=_p_value(stats.ttest_ind, ours, theirs),
        paired_t=_p_value(stats.ttest_rel, differences, zeros),
        wilcoxon=_p_value(_wilcoxon, differences, zeros),
        mann_whitney=_p_value(stats.mannwhitneyu, ours, theirs),
    )


def _wilcoxon(differences: Values, zeros: Values) -> Any:
    return stats.wilcoxon(differences, zero_method="zsplit")


def _p_value(test: Callable[[Values, Values], Any], ours: Values, theirs: Values) -> float | None:
    """Return the test's p-value: 1 where nothing differs, None where it is not defined.

    The t-tests give 0 for two constants that differ, which is not a probability that chance leaves.
    """
    if np.array_equal(ours, theirs):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values that barely differ
        p_value = float(test(ours, theirs).pvalue)
    return None if math.isnan(p_value) else p_value
