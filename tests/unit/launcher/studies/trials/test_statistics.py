import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from launcher.studies.trials.statistics import (
    CONFIDENCE,
    mean_interval,
    paired_interval,
    time_to_reach,
)

SCORES = [0.21, 0.22, 0.19, 0.24, 0.2]
OTHERS = [0.2, 0.2, 0.18, 0.21, 0.2]


def test_an_interval_is_scipys():
    reference = stats.ttest_1samp(SCORES, 0).confidence_interval(CONFIDENCE)
    found = mean_interval(SCORES)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert found.mean == pytest.approx(np.mean(SCORES))


def test_an_interval_by_hand():
    """Mean 2, standard deviation 1, three values: 2 +- 4.3027 / sqrt(3), from a table of Student's t."""
    found = mean_interval([1, 2, 3])
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)


def test_a_difference_is_scipys_paired_one():
    reference = stats.ttest_rel(SCORES, OTHERS).confidence_interval(CONFIDENCE)
    found = paired_interval(SCORES, OTHERS)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


def test_pairing_cancels_what_seeds_share():
    shift = [0.0, 0.5, 1.0]
    plain = mean_interval([s + 0.1 for s in shift])
    paired = paired_interval([s + 0.1 for s in shift], shift)
    assert not plain.excludes(0)
    assert paired.excludes(0)
    assert paired.mean == pytest.approx(0.1)


def test_one_seed_says_nothing_of_the_spread():
    found = mean_interval([0.3])
    assert (found.mean, found.low, found.high) == (0.3, None, None)
    assert not found.excludes(0)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_intervals_cover_what_they_promise(num_seeds):
    rng = np.random.default_rng(0)
    trials = [mean_interval(rng.normal(1, 1, num_seeds).tolist()) for _ in range(2000)]
    covered = np.mean([not interval.excludes(1) for interval in trials])
    assert covered == pytest.approx(CONFIDENCE, abs=4 * (0.05 * 0.95 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.05, 10),  # before the first evaluation nothing is known
        (0.1, 10),
        (0.15, 15),
        (0.2, 20),
        (0.25, 35),  # the dip in between does not count
        (0.3, 40),
        (0.31, None),
    ],
)
def test_time_to_reach(target, expected):
    found = time_to_reach([0, 10, 20, 30], [10, 20, 30, 40], [0.1, 0.2, 0.2, 0.3], target)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_score_that_is_lost_again_was_reached():
    assert time_to_reach([0, 1, 2], [1, 2, 3], [0.1, 0.3, 0.2], 0.2) == pytest.approx(1.5)


def test_nothing_is_reached_while_batches_are_selected():
    found = time_to_reach([0, 8, 18], [2, 10, 20], [0.1, 0.2, 0.3], 0.15)
    assert found == pytest.approx(9)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_the_curve_has_the_target_where_it_is_reached(scores, target):
    seconds = [10.0 * (number + 1) for number in range(len(scores))]
    starts = [0.0, *seconds[:-1]]
    found = time_to_reach(starts, seconds, scores, target)
    if found is None:
        assert max(scores) < target
    elif scores[0] >= target:
        assert found == seconds[0]
    else:
        assert np.interp(found, seconds, scores) == pytest.approx(target, abs=1e-6)
        before = [score for at, score in zip(seconds, scores, strict=True) if at < found]
        assert all(score <= target + 1e-6 for score in before)
