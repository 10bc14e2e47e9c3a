import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.mending import affinity_inside, mended
from tests.unit.selection.test_spectral import random_graph


def test_mending_moves_who_belongs_least_to_where_it_belongs_most():
    dense = np.zeros((9, 9), np.float32)
    for k, l, weight in ((0, 1, 9), (1, 2, 9), (0, 2, 9), (3, 0, 2), (3, 7, 1), (4, 5, 9), (7, 8, 9)):  # fmt: skip  # noqa: E741
        dense[k, l] = dense[l, k] = weight
    parts = np.array([0, 0, 0, 0, 1, 1, 0, 2, 2])  # 3 and 6 are over; 3 is drawn to 7
    groups = mended(sp.csr_array(dense), parts, 3)
    assert groups.tolist() == [[0, 1, 2], [4, 5, 6], [3, 7, 8]]


@given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 500), st.floats(0, 1))
@settings(deadline=None)
def test_mended_groups_are_exact_and_whole_parts_stay(num_parts, group_size, seed, density):
    rng = np.random.default_rng(seed)
    n = num_parts * group_size
    dense = np.triu(rng.random((n, n)) * (rng.random((n, n)) < density), 1).astype(np.float32)
    parts = rng.integers(num_parts, size=n)
    groups = mended(sp.csr_array(dense + dense.T), parts, group_size)
    np.testing.assert_array_equal(np.sort(groups.ravel()), np.arange(n))
    for part, group in enumerate(groups):
        before = set(np.flatnonzero(parts == part))
        assert len(before & set(group)) == min(len(before), group_size)


def test_nobody_is_sent_to_who_repels_it():
    dense = np.zeros((6, 6), np.float32)
    for k, l, weight in ((0, 1, 9), (2, 3, -9), (3, 4, -9)):  # noqa: E741
        dense[k, l] = dense[l, k] = weight
    groups = mended(
        sp.csr_array(dense), np.array([0, 0, 0, 1, 1, 2]), 2
    )  # 2 is over, 1 and 3 are not
    assert groups.tolist() == [[0, 1], [3, 4], [2, 5]]


def test_affinity_inside_equals_the_dense_sum():
    graph = random_graph(60, 400, 0).astype(np.float32)
    parts = np.random.default_rng(0).integers(5, size=60)
    expected = np.where(parts[:, None] == parts, graph.toarray(), 0).sum(axis=1)
    np.testing.assert_allclose(affinity_inside(graph, parts), expected, rtol=1e-5)
