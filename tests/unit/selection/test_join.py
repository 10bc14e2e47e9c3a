import numba
import numpy as np
import pytest

from selection import join
from selection.cells import divide
from selection.join import look_into_cells, nothing_found, sort_nearest
from selection.threads import thread_pool
from selection.visits import Rule
from tests.conftest import planted_pairs

K = 6
EVERYWHERE = -1e9


@pytest.fixture(scope="module")
def pairs():
    U, V, _ = planted_pairs(num_clusters=30, per_cluster=20, dim=12)
    return U, V


def search(U, V, nearness, num_cells=25, both=True, reach=None):
    """Both lists, sorted, and the cells of both sides."""
    rule = Rule(reach or num_cells, nearness)
    found = nothing_found(len(U), K), nothing_found(len(U), K)
    with thread_pool() as pool:
        cells = [divide(side, num_cells, np.random.default_rng(0), pool) for side in (U, V)]
        look_into_cells(U, V, *cells, rule, *found, pool, lambda done: None)
        if both:
            look_into_cells(V, U, *cells[::-1], rule, *found[::-1], pool, lambda done: None)
        for nearest in found:
            sort_nearest(nearest, pool)
    return found, cells


def best_allowed(similarities, allowed):
    """Slow reference: similarities of the K best in each row, among those that are allowed."""
    similarities = np.where(allowed & ~np.eye(len(allowed), dtype=bool), similarities, -np.inf)
    return -np.sort(-similarities, axis=1)[:, :K]


def check(nearest, similarities, allowed):
    """The best in order, each once, and the ids are those of the similarities."""
    np.testing.assert_allclose(nearest.similarities, best_allowed(similarities, allowed), atol=1e-5)
    for row, (ids, values) in enumerate(zip(nearest.ids, nearest.similarities, strict=True)):
        known = ids[ids >= 0]
        assert len(set(known)) == len(known)
        assert (ids < 0).sum() == np.isinf(values).sum()
        np.testing.assert_allclose(similarities[row, known], values[ids >= 0], atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_looking_everywhere_is_exact_in_both_directions(pairs, both):
    found, _ = search(*pairs, EVERYWHERE, both=both)
    everyone = np.ones((600, 600), bool)
    check(found[0], pairs[0] @ pairs[1].T, everyone)
    check(found[1], pairs[1] @ pairs[0].T, everyone)


def looks(queries, query_cells, base_cells, nearness, reach):
    """Slow reference: [queries, base], who looks into whose cell."""
    coarse = query_cells.coarse.centroids[query_cells.coarse.owner]
    distant = np.argsort(-(coarse @ base_cells.centroids.T), axis=1)[:, reach:]
    similarities = queries @ base_cells.centroids.T
    np.put_along_axis(similarities, distant, -np.inf, axis=1)
    best = similarities.max(axis=1, keepdims=True)
    return (similarities >= nearness * best)[:, base_cells.owner]


@pytest.mark.parametrize("block", [join._BLOCK, 7])
@pytest.mark.parametrize(("nearness", "reach"), [(0.4, 25), (0.8, 25), (1.0, 25), (0.4, 5)])
def test_finds_the_best_of_those_that_meet(pairs, nearness, reach, block, monkeypatch):
    """k and l meet when u_k looks into the cell of v_l, or v_l into that of u_k; both learn of it."""
    monkeypatch.setattr(join, "_BLOCK", block)
    monkeypatch.setattr(join, "_NUM_GROUPS", 4)
    (U, V), ((v_of_u, u_of_v), (in_u, in_v)) = pairs, search(*pairs, nearness, reach=reach)
    u_looks = looks(U, in_u, in_v, nearness, reach)
    v_looks = looks(V, in_v, in_u, nearness, reach)
    check(v_of_u, U @ V.T, u_looks | v_looks.T)
    check(u_of_v, V @ U.T, u_looks.T | v_looks)


def test_same_result_for_any_number_of_threads(pairs, monkeypatch):
    monkeypatch.setattr(join, "_BLOCK", 50)
    before, results = numba.get_num_threads(), []
    for num_threads in {1, before}:
        numba.set_num_threads(num_threads)
        results.append([nearest.ids for nearest in search(*pairs, 0.7)[0]])
    numba.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_equal_points_are_found_once_each_and_never_themselves():
    points = np.tile(np.float32([1, 0, 0]), (30, 1))
    (nearest, _), _ = search(points, points, 0.9, num_cells=3)
    assert (nearest.ids >= 0).all()
    assert all(len(set(row)) == K for row in nearest.ids)
    assert not (nearest.ids == np.arange(30)[:, None]).any()
