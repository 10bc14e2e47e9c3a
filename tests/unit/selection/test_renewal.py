import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.renewal import measure_renewal


def slow_renewal(batches, previous_batches):
    """Kept mates of each pair, from sets."""
    before = {int(i): set(map(int, batch)) for batch in previous_batches for i in batch}
    return [
        len((set(map(int, batch)) & before.get(int(i), set())) - {int(i)})
        for batch in batches
        for i in batch
    ]


def divide(num_pairs, batch_size, rng):
    num_batches = num_pairs // batch_size
    return rng.permutation(num_pairs)[: num_batches * batch_size].reshape(-1, batch_size)


@given(st.integers(2, 40), st.integers(2, 8), st.integers(2, 8), st.integers(0, 99))
def test_equals_sets(num_pairs, batch_size, size_before, seed):
    if num_pairs < max(batch_size, size_before):
        return
    rng = np.random.default_rng(seed)
    batches, before = divide(num_pairs, batch_size, rng), divide(num_pairs, size_before, rng)
    kept = np.array(slow_renewal(batches, before))
    found = measure_renewal(batches, before, num_pairs)
    assert found["kept_mates"] == pytest.approx(kept.mean() / (batch_size - 1))
    assert found["changed_pairs"] == pytest.approx(np.mean(kept < (batch_size - 1) / 2))


def test_order_and_numbers_of_batches_do_not_matter():
    rng = np.random.default_rng(0)
    batches = divide(102, 8, rng)
    again = rng.permuted(rng.permutation(batches), axis=1)
    found = measure_renewal(again, batches, 102)
    assert (found["kept_mates"], found["changed_pairs"]) == (1, 0)


@pytest.mark.parametrize(("num_pairs", "batch_size"), [(60, 12), (64, 12), (24, 12), (12, 12)])
def test_random_rounds_keep_the_expected_share(num_pairs, batch_size):
    rng = np.random.default_rng(0)
    found = [
        measure_renewal(
            divide(num_pairs, batch_size, rng), divide(num_pairs, batch_size, rng), num_pairs
        )
        for _ in range(400)
    ]
    kept = np.mean([signals["kept_mates"] for signals in found])
    assert kept == pytest.approx(found[0]["random_kept_mates"], rel=0.05)


def test_pairs_that_were_left_over_have_kept_nobody():
    found = measure_renewal(np.array([[4, 5], [0, 1]]), np.array([[0, 1], [2, 3]]), 6)
    assert (found["kept_mates"], found["changed_pairs"]) == (0.5, 0.5)


def test_nothing_to_compare():
    batches = np.arange(6).reshape(2, 3)
    assert measure_renewal(batches, None, 6) == {}
    every = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    assert measure_renewal(every, every, 4) == {}  # a pair has no one batch
