"""pass@k without bias, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from asarm.metrics.statistics import clustered_estimate

NORMAL_QUANTILE = 1.959963984540054  # of 97.5%


@dataclass(frozen=True)
class Rate:
    """The rate of passed tasks, with its 95% confidence interval."""

    mean: float
    low: float
    high: float
    tasks: int


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the probability that one of k completions passes, if `passed` of `samples` did.

    The estimator without bias of Chen et al. 2021 (arXiv 2107.03374, equation 1),
    1 - C(samples - passed, k) / C(samples, k), as a product that does not overflow.

    Raises:
        ValueError: fewer than k completions.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} completions; expected k from 1 to {samples}")
    if samples - passed < k:
        return 1.0
    failing = range(samples - passed + 1, samples + 1)
    return 1.0 - math.prod(1.0 - k / n for n in failing)


def rate(values: Sequence[float], problems: Sequence[Hashable]) -> Rate | None:
    """Average pass rates over tasks, and say where the mean lies with 95% confidence.

    Wilson's score interval with the effective number of tasks: gaps in the same function pass and
    fail together, so the error is that of whole functions (`clustered_estimate`), and
    mean (1 - mean) / error ** 2 is how many independent tasks would have the same. Where it is not
    defined, for nothing or everything passes, each function counts as one task.

    Args:
        values: the pass@k of each task.
        problems: the function that the gap of each task is in.
    """
    if not values:
        return None
    estimate = clustered_estimate(values, problems)
    mean = min(1.0, max(0.0, estimate.mean))
    effective = float(len(set(problems)))
    if estimate.error and 0 < mean < 1:
        effective = mean * (1 - mean) / estimate.error**2
    low, high = wilson(mean, effective)
    return Rate(mean, low, high, len(values))


def wilson(mean: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a rate that was seen in `count` independent trials."""
    z = NORMAL_QUANTILE**2 / count
    center = (mean + z / 2) / (1 + z)
    half = math.sqrt(z * mean * (1 - mean) + z * z / 4) / (1 + z)
    return max(0.0, center - half), min(1.0, center + half)
