import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.config import GraphConfig
from selection.knn import drop_self, find_neighbors, recall_at_k
from tests.conftest import planted_pairs

VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def brute_force(queries, base, k):
    similarities = queries.astype(np.float64) @ base.T.astype(np.float64)
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities, axis=1)[:, :k]


def test_flat_search_equals_brute_force(random_pairs):
    U, V = random_pairs
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=7, index="flat"))
    assert recall_at_k(neighbors.v_of_u, brute_force(U, V, 7)) == 1
    assert recall_at_k(neighbors.u_of_v, brute_force(V, U, 7)) == 1
    assert neighbors.recall == 1


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_one_pair_has_no_neighbours(random_pairs, index):
    U, V = (side[:1].copy() for side in random_pairs)
    found = find_neighbors(U, V, GraphConfig(index=index))
    assert found.v_of_u.shape == found.u_of_v.shape == (1, 0)


def test_ivf_search_reports_the_recall_it_has():
    U, V, _ = planted_pairs(num_clusters=40, per_cluster=50, dim=16)
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=8, index="ivf", min_recall=0.9))
    true = min(
        recall_at_k(neighbors.v_of_u, brute_force(U, V, 8)),
        recall_at_k(neighbors.u_of_v, brute_force(V, U, 8)),
    )
    assert neighbors.recall >= 0.9
    assert true == pytest.approx(neighbors.recall, abs=0.04)  # a sample of 512 of 2,000 queries


def test_never_its_own_neighbor_even_among_equal_points():
    U = np.zeros((20, 4), np.float32)
    U[:, 0] = 1
    neighbors = find_neighbors(U, U, GraphConfig(num_neighbors=5))
    assert not (neighbors.v_of_u == np.arange(20)[:, None]).any()


def test_k_is_at_most_the_number_of_others(random_pairs):
    U, V = random_pairs
    assert find_neighbors(U[:4], V[:4], GraphConfig(num_neighbors=16)).v_of_u.shape == (4, 3)


@given(st.integers(1, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_drop_self(k, num_rows, random):
    ids = np.array([random.sample(range(20), k + 1) for _ in range(num_rows)])
    own = np.array([random.randrange(20) for _ in range(num_rows)])
    for row, mine, kept in zip(ids, own, drop_self(ids, own), strict=True):
        assert list(kept) == [i for i in row if i != mine][:k]


PROGRAM = """
import numpy as np
from selection.config import GraphConfig
from selection.knn import find_neighbors
from tests.conftest import unit_rows
rng = np.random.default_rng(0)
U, V = (unit_rows(rng.standard_normal((3000, 100))) for _ in range(2))
U[1500:1800], V[1500:1800] = U[:300], V[:300]
found = find_neighbors(U, V, GraphConfig(index={index!r}))
print([np.sort(side, axis=1).tolist() for side in (found.v_of_u, found.u_of_v)])
"""


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_the_neighbours_do_not_depend_on_the_number_of_threads(index):
    """Of equals, too: here are 300 pairs twice."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(index=index)], capture_output=True, text=True, check=True,
            env={**os.environ, **dict.fromkeys(VARIABLES, num_threads), "PYTHONPATH": "."},
        ).stdout
        for num_threads in ("1", "2")
    ]  # fmt: skip
    assert len(outputs[0]) > 100_000
    assert outputs[0] == outputs[1]
