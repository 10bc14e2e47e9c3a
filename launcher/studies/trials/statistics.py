"""Numbers over seeds: intervals, and the time to reach a score.

Intervals are Student's t. With five seeds or so a bootstrap has too few different resamples, and its intervals cover
less than they promise; differences between arms of one seed are sums of many small things and near normal. Arms are
compared seed by seed (paired): first weights and first batches are shared, so most of the spread between seeds cancels.
Every interval stands alone; among twenty arms one misses by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where the true one is likely to be."""

    mean: float
    low: float | None
    """None where one value says nothing about the spread."""

    high: float | None

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of independent values, with Student's interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def paired_interval(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Mean of `values` minus `others`, pair by pair."""
    return mean_interval([a - b for a, b in zip(values, others, strict=True)])


def time_to_reach(
    starts: Sequence[float], seconds: Sequence[float], scores: Sequence[float], target: float
) -> float | None:
    """When a score first reaches `target`, if it changes evenly while steps are taken, and not between rounds.

    Args:
        starts: seconds by the first step of each round, ascending.
        seconds: by its last one, where it is evaluated.
        scores: at those evaluations.
        target: what is to be reached.

    Returns:
        None where it never does. Where the first evaluation does, its time, which is then an upper bound.
    """
    if scores[0] >= target:
        return seconds[0]
    for (low, high), start, end in zip(pairwise(scores), starts[1:], seconds[1:], strict=True):
        if low < target <= high:
            return start + (end - start) * (target - low) / (high - low)
    return None
