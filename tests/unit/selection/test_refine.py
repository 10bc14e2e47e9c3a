import numba
import numpy as np
import pytest

from selection.affinity import build_affinity
from selection.config import GraphConfig
from selection.knn import find_neighbors
from selection.quality import batch_losses, captured_affinity
from selection.refine import places, swap_refine
from tests.conftest import planted_pairs

TEMPERATURE = 0.1


def problem(seed, batch_size=8):
    U, V, _ = planted_pairs(num_clusters=30, per_cluster=16, dim=12, seed=seed)
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=8))
    affinity = build_affinity(U, V, neighbors, batch_size, TEMPERATURE)
    batches = np.random.default_rng(seed).permutation(480).reshape(-1, batch_size)
    return affinity, U, V, batches


def objective(affinity, U, V, batches, share):
    """What exact swaps raise, in float64 from the losses themselves."""
    loss = 2 * batches.shape[1] * batch_losses(U, V, batches, TEMPERATURE).sum(dtype=np.float64)
    inside = captured_affinity(affinity, batches) * affinity.data.sum(dtype=np.float64) / 2
    return loss + share * inside


@pytest.mark.parametrize("share", [0.0, 0.06, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_rises_sweep_by_sweep(share, seed):
    affinity, U, V, start = problem(seed)
    values = [objective(affinity, U, V, start, share)]
    for num_sweeps in (1, 2, 3):
        batches = swap_refine(affinity, U, V, start, TEMPERATURE, share, num_sweeps)
        np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(480))
        values.append(objective(affinity, U, V, batches, share))
    assert values[0] < values[1] <= values[2] * (1 + 1e-6) <= values[3] * (1 + 2e-6)


def test_swaps_by_the_loss_alone_make_batches_harder():
    affinity, U, V, start = problem(0)
    exact = swap_refine(affinity, U, V, start, TEMPERATURE, 0.0, 5)
    assert (
        batch_losses(U, V, exact, TEMPERATURE).mean()
        > 1.01 * batch_losses(U, V, start, TEMPERATURE).mean()
    )


def test_the_loss_gains_where_affinity_has_no_more_to_gain():
    affinity, U, V, start = problem(0)
    by_affinity = swap_refine(affinity, U, V, start, TEMPERATURE, 1e3, 20)
    after = swap_refine(affinity, U, V, by_affinity, TEMPERATURE, 0.0, 5)
    losses = [batch_losses(U, V, each, TEMPERATURE).mean() for each in (start, by_affinity, after)]
    assert losses[0] < losses[1] < losses[2] / 1.005


def test_deterministic_and_the_start_is_kept():
    affinity, U, V, start = problem(1)
    before = start.copy()
    first = swap_refine(affinity, U, V, start, TEMPERATURE, 0.06, 2)
    np.testing.assert_array_equal(first, swap_refine(affinity, U, V, start, TEMPERATURE, 0.06, 2))
    np.testing.assert_array_equal(start, before)
    np.testing.assert_array_equal(swap_refine(affinity, U, V, start, TEMPERATURE, 0.06, 0), before)


def test_random_swaps_do_not_gain_at_the_end():
    affinity, U, V, start = problem(2)
    end = swap_refine(affinity, U, V, start, TEMPERATURE, 0.06, 50)
    best = objective(affinity, U, V, end, 0.06)
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = rng.choice(len(end), 2, replace=False)
        other = end.copy()
        x, y = rng.integers(8, size=2)
        other[a, x], other[b, y] = end[b, y], end[a, x]
        assert objective(affinity, U, V, other, 0.06) <= best + 1e-2


@pytest.mark.parametrize("temperature", [0.01, 0.005])
def test_low_temperatures_and_equal_points_stay_finite(temperature):
    affinity, U, V, start = problem(0)
    V = V.copy()
    V[:20] = V[0]
    U[:20] = -V[0]
    batches = swap_refine(affinity, U, V, start, temperature, 0.06, 2)
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(480))
    before, after = (batch_losses(U, V, each, temperature).mean() for each in (start, batches))
    assert before < after < np.inf


def test_the_number_of_threads_changes_nothing():
    affinity, U, V, start = problem(3)
    most = numba.get_num_threads()
    results = []
    for num_threads in (1, most):
        numba.set_num_threads(num_threads)
        results.append(swap_refine(affinity, U, V, start, TEMPERATURE, 0.1, 2))
    np.testing.assert_array_equal(*results)


def test_negative_affinity_keeps_nodes_apart():
    affinity, U, V, start = problem(4)
    apart = affinity.copy()
    batches = swap_refine(affinity, U, V, start, TEMPERATURE, 0.1, 3)
    together = {tuple(sorted(batch[:2])) for batch in batches}
    rows = np.repeat(np.arange(480), np.diff(apart.indptr))
    links = [tuple(sorted(pair)) for pair in zip(rows, apart.indices, strict=True)]
    banned = np.array([pair in together for pair in links])
    assert banned.sum() > 20
    apart.data[banned] = -1e4
    result = swap_refine(apart, U, V, start, TEMPERATURE, 0.1, 6)
    batch_of, _ = places(result)
    met = sum(batch_of[i] == batch_of[j] for (i, j), ban in zip(links, banned, strict=True) if ban)
    assert met == 0
