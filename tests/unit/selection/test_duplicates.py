import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.duplicates import drop_surplus, hash_parts, hash_rows, number_contents

NOT_SHARED = -1


def slow_numbers(hashes):
    """For each pair, the pairs with which it shares a content."""
    held = [set(column) for column in hashes.T.tolist()]
    return [{l for l in range(len(held)) if l != k and held[k] & held[l]} for k in range(len(held))]  # noqa: E741


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(5, 14)), min_size=1, max_size=30))
def test_numbers_are_shared_as_contents_are(pairs):
    hashes = np.array(pairs, np.uint64).T << np.uint64(60)
    numbers = number_contents(np.ascontiguousarray(hashes))
    assert numbers.dtype == np.int32
    like = [
        {l for l in range(len(pairs)) if l != k and {*numbers[k]} & {*numbers[l]} - {NOT_SHARED}}  # noqa: E741
        for k in range(len(pairs))
    ]
    assert like == slow_numbers(hashes)
    for number in range(numbers.max() + 1):
        assert (numbers == number).any(
            axis=1
        ).sum() > 1  # none without a partner, none twice in a pair
        assert not (numbers == number).all(axis=1).any()


def test_parts_are_hashed_by_their_bytes():
    samples = [
        {"txt": b"a", "py": b"b", "json": b"1"},
        {"txt": b"a", "py": b"c", "json": b"2"},
        {"txt": b"d", "py": b"a", "json": b"1"},
    ]
    hashes = hash_parts(samples, ("txt", "py"))
    assert hashes.shape == (2, 3)
    assert hashes[0, 0] == hashes[0, 1] == hashes[1, 2]
    assert len(np.unique(hashes)) == 4
    assert hashes[0, 0] == 0x2F42665B399EF840  # BLAKE2b-64 of "a", also on the next machine


def test_zero_has_no_sign():
    U = np.array([[1, 0.0], [1, -0.0], [-1, 0.0]], np.float32)
    hashes = hash_rows(U, U)[0]
    assert hashes[0] == hashes[1] != hashes[2]


def test_rows_are_the_same_when_all_numbers_are():
    rng = np.random.default_rng(0)
    U = rng.standard_normal((500, 33)).astype(np.float32)
    V = rng.standard_normal((500, 33)).astype(np.float32)
    U[7], V[3], V[400] = U[200], U[200], V[9]
    V[5] = V[6]
    V[5, 32] = np.nextafter(V[5, 32], np.float32(9))
    hashes = hash_rows(U, V)
    assert hashes[0, 7] == hashes[0, 200] == hashes[1, 3]
    assert hashes[1, 400] == hashes[1, 9]
    assert len(np.unique(hashes)) == 1000 - 3
    np.testing.assert_array_equal(hash_rows(U, U), np.stack([hashes[0], hashes[0]]))


def test_single_view_data_has_one_content_per_pair():
    U = np.eye(6, dtype=np.float32)[[0, 1, 2, 1, 4, 5]]
    numbers = number_contents(hash_rows(U, U))
    assert numbers.tolist() == [[-1, -1], [0, -1], [-1, -1], [0, -1], [-1, -1], [-1, -1]]


def most_batches(sizes, batch_size):
    """Batches that can be formed of groups whose members must not meet: the largest m that they fill."""
    return max(m for m in range(sum(sizes) + 1) if sum(min(s, m) for s in sizes) >= m * batch_size)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(2, 6), st.integers(0, 9))
@settings(deadline=None)
def test_no_more_are_left_out_than_must_be(sizes, batch_size, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    numbers = number_contents(np.stack([groups, 100 + np.arange(len(groups))]).astype(np.uint64))
    nodes = np.random.default_rng(seed).permutation(len(groups))
    kept = drop_surplus(nodes, numbers, batch_size)
    num_batches = len(kept) // batch_size
    assert num_batches == most_batches(sizes, batch_size)
    if num_batches:
        assert np.bincount(groups[kept]).max() <= num_batches
    assert [node for node in nodes if node in set(kept)] == kept.tolist()


def test_who_comes_first_is_kept():
    numbers = number_contents(np.stack([np.zeros(6), [0, 1, 2, 3, 4, 5]]).astype(np.uint64))
    numbers = np.concatenate([numbers, np.full((12, 2), NOT_SHARED, np.int32)])
    nodes = np.array([5, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 0, 1, 2, 4])
    assert drop_surplus(nodes, numbers, 6).tolist() == [5, 3, *range(6, 18)]
