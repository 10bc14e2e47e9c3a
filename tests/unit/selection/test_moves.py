import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from selection import moves
from selection.moves import SWEEPS_PER_ROUND, Graph, Seats, move_nodes, rising_steps, sweep
from tests.unit.selection.test_spectral import blocks, random_graph


def seated(graph, num_batches, seed):
    """Kernels' view of a graph and of random batches of any size."""
    num_nodes = graph.shape[0]
    batch_of = np.random.default_rng(seed).integers(num_batches, size=num_nodes).astype(np.int32)
    sizes = np.bincount(batch_of, minlength=num_batches)
    rival, lead = np.full(num_nodes, -1, np.int32), np.zeros(num_nodes, np.float32)
    return Graph(graph.indptr, graph.indices, graph.data), Seats(batch_of, sizes, rival, lead)


def affinities(dense, seats):
    """Of each node to each batch, [n, m]."""
    return dense @ (seats.batch_of[:, None] == np.arange(len(seats.sizes)))


def objective(dense, seats, step):
    """What a move raises, in float64."""
    same = seats.batch_of[:, None] == seats.batch_of
    mean_size = len(seats.batch_of) / len(seats.sizes)
    return dense[same].sum() / 2 - step / 2 * ((seats.sizes - mean_size) ** 2).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 1500), st.floats(0, 2), st.integers(0, 99))
def test_the_objective_rises_until_no_move_gains(num_batches, num_links, step, seed):
    graph = random_graph(100, num_links, seed).astype(np.float32)
    dense = graph.toarray().astype(np.float64)
    arrays, seats = seated(graph, num_batches, seed)
    value = objective(dense, seats, step)
    while True:
        seats.rival[:] = -1  # everybody looks around
        if not sweep(arrays, seats, np.float32(step), None):
            break
        np.testing.assert_array_equal(
            seats.sizes, np.bincount(seats.batch_of, minlength=num_batches)
        )
        assert objective(dense, seats, step) > value
        value = objective(dense, seats, step)
    nodes = np.arange(100)
    worth = affinities(dense, seats)
    stay = worth[nodes, seats.batch_of] - step * (seats.sizes[seats.batch_of] - 1)
    values = np.where(worth > 0, worth - step * seats.sizes, -np.inf)
    values[nodes, seats.batch_of] = -np.inf
    assert (values.max(axis=1) <= stay + 1e-3).all()


@pytest.mark.parametrize("negative_share", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_a_lead_is_never_larger_than_it_is(seed, negative_share):
    graph = random_graph(120, 1500, seed).astype(np.float32)
    signs = np.random.default_rng(seed).random(graph.shape) < negative_share
    dense = np.where(signs | signs.T, -1, 1) * graph.toarray()
    arrays, seats = seated(sp.csr_array(dense), 8, seed)
    nodes = np.arange(120)
    for step in (0.0, 0.02, 0.1, 0.3):
        sweep(arrays, seats, np.float32(step), None)
        worth = affinities(dense, seats)
        lead = worth[nodes, seats.batch_of] - worth[nodes, seats.rival]
        assert (seats.lead <= lead + 1e-3)[seats.rival >= 0].all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(2, 6), st.integers(0, 300), st.integers(0, 99))
def test_sizes_are_exact_whatever_the_graph(num_batches, batch_size, num_links, seed):
    graph = random_graph(num_batches * batch_size, num_links, seed).astype(np.float32)
    start = np.random.default_rng(seed).permutation(graph.shape[0]).reshape(-1, batch_size)
    before = start.copy()
    batches = move_nodes(graph, start, 2)
    assert batches.shape == start.shape
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(graph.shape[0]))
    np.testing.assert_array_equal(start, before)


def test_planted_blocks_are_mended():
    truth = np.arange(300).reshape(12, 25)
    start = truth.copy()
    start[:, :8] = np.roll(start[:, :8].ravel(), 11).reshape(12, 8)  # chains, not pairs, lead back
    batches = move_nodes(blocks(12, 25, 0), start, 2)
    assert {frozenset(batch) for batch in batches} == {frozenset(batch) for batch in truth}


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(moves, "_MANY_MOVES", 0)  # so that threads tell of them as well
    graph = random_graph(4000, 40_000, 0).astype(np.float32)
    start = np.arange(4000).reshape(-1, 16)
    most = numba.get_num_threads()
    results = []
    for num_threads in (1, most):
        numba.set_num_threads(num_threads)
        results.append(move_nodes(graph, start, 2))
    np.testing.assert_array_equal(*results)


def test_no_round_changes_nothing():
    graph = random_graph(40, 200, 0).astype(np.float32)
    start = np.arange(40).reshape(-1, 8)
    np.testing.assert_array_equal(move_nodes(graph, start, 0), start)


def test_negative_affinity_keeps_nodes_apart():
    graph = random_graph(200, 2000, 1).astype(np.float32)
    start = np.arange(200).reshape(-1, 10)
    dense = graph.toarray()
    for batch in start:  # the first two of each batch must part
        dense[batch[0], batch[1]] = dense[batch[1], batch[0]] = -1e4
    batches = move_nodes(sp.csr_array(dense), start, 3)
    batch_of = np.empty(200, np.int64)
    batch_of[batches.ravel()] = np.repeat(np.arange(20), 10)
    assert (batch_of[start[:, 0]] != batch_of[start[:, 1]]).all()


@pytest.mark.parametrize("batch_size", [2, 8, 64, 1024])
def test_steps_rise_within_a_round_and_begin_higher_in_the_next(batch_size):
    rounds = [rising_steps(batch_size, number, 4) for number in range(4)]
    assert {len(steps) for steps in rounds} == {SWEEPS_PER_ROUND}
    assert all((np.diff(steps) >= 0).all() for steps in rounds)
    assert rounds[0][0] == pytest.approx(1 / batch_size)
    starts = [steps[0] for steps in rounds]
    assert starts == sorted(starts)
    assert rising_steps(batch_size, 0, 1)[0] == pytest.approx(1 / batch_size)


def test_a_crowd_costs_something_when_some_are_repelled(monkeypatch):
    graph = random_graph(64, 600, seed=0).astype(np.float32).tolil()
    graph[0, 1] = graph[1, 0] = np.float32(-1e4)  # more than all others have together
    steps, real = [], sweep

    def noting(graph, seats, step, pool):
        steps.append(step)
        return real(graph, seats, step, pool)

    monkeypatch.setattr(moves, "sweep", noting)
    move_nodes(sp.csr_array(graph), np.arange(64).reshape(8, 8), num_rounds=2)
    assert len(steps) == 2 * SWEEPS_PER_ROUND
    assert min(steps) > 0
