import numpy as np
import pytest

from selection.cells import Cells, Coarse, divide, nearest_cells
from selection.threads import thread_pool
from selection.visits import Rule, find_meetings, rule_for, visits
from tests.conftest import planted_pairs

NUM_CELLS = 40
SAMPLE = np.arange(0, 600, 5)


@pytest.fixture(scope="module")
def pairs():
    U, V, _ = planted_pairs(num_clusters=30, per_cluster=20, dim=12)
    return U, V


@pytest.fixture(scope="module")
def cells(pairs):
    with thread_pool() as pool:
        return [divide(side, NUM_CELLS, np.random.default_rng(0), pool) for side in pairs]


@pytest.fixture(scope="module")
def truth(pairs):
    similarities = pairs[0] @ pairs[1].T
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities[SAMPLE], axis=1)[:, :24].astype(np.int32)


def looks(queries, query_cells, base_cells, rule):
    """Slow reference: [queries, cells], who looks into what."""
    found = np.zeros((len(queries), NUM_CELLS), bool)
    for number, query in enumerate(queries):
        coarse = query_cells.coarse.centroids[query_cells.coarse.owner[number]]
        near = np.argsort(-base_cells.centroids @ coarse)[: rule.reach]
        similarities = base_cells.centroids[near] @ query
        found[number, near] = similarities >= rule.nearness * similarities.max()
    return found


@pytest.mark.parametrize("reach", [3, 15, NUM_CELLS])
def test_queries_look_into_those_that_are_near_and_within_reach(pairs, cells, reach):
    order = np.argsort(cells[0].coarse.owner, kind="stable")
    near = nearest_cells(cells[0].coarse.centroids, cells[1].centroids)[:, :reach]
    found, starts = visits(
        pairs[0][order], cells[0].coarse.owner[order], near, cells[1], nearness=0.6
    )
    expected = looks(pairs[0], *cells, Rule(reach, 0.6))[order]
    for cell in range(NUM_CELLS):
        visitors = found[starts[cell] : starts[cell + 1]]
        np.testing.assert_array_equal(visitors, np.flatnonzero(expected[:, cell]))


def share_met(pairs, cells, truth, rule):
    """Counted by hand: who looks into whose cell."""
    u_looks = looks(pairs[0], cells[0], cells[1], rule)
    v_looks = looks(pairs[1], cells[1], cells[0], rule)
    met = [
        u_looks[k, cells[1].owner[others]] | v_looks[others, cells[0].owner[k]]
        for k, others in zip(SAMPLE, truth, strict=True)
    ]
    return np.mean(met)


@pytest.mark.parametrize("min_recall", [0.5, 0.9, 1.0])
def test_nearness_is_the_largest_that_is_enough(pairs, cells, truth, min_recall):
    meetings = find_meetings(SAMPLE, truth, *pairs, *cells)
    nearness = meetings.nearness(NUM_CELLS, min_recall)
    assert share_met(pairs, cells, truth, Rule(NUM_CELLS, nearness - 1e-5)) >= min_recall
    more = share_met(pairs, cells, truth, Rule(NUM_CELLS, nearness + 1e-3))
    assert more < min(min_recall + 0.005, 1)


def test_a_short_reach_takes_more_of_what_is_left_or_is_not_enough(pairs, cells, truth):
    meetings = find_meetings(SAMPLE, truth, *pairs, *cells)
    nearness = meetings.nearness(10, 0.95)
    assert share_met(pairs, cells, truth, Rule(10, nearness - 1e-5)) >= 0.95
    assert nearness < meetings.nearness(NUM_CELLS, 0.95)
    assert meetings.nearness(10, 1.0) == -np.inf


def test_points_are_those_that_a_query_looks_at(pairs, cells, truth):
    meetings = find_meetings(SAMPLE, truth, *pairs, *cells)
    sizes = np.diff(cells[1].starts)
    for rule in (Rule(NUM_CELLS, 0.6), Rule(10, 0.9)):
        looked = looks(pairs[0], *cells, rule)[SAMPLE] @ sizes
        assert meetings.points(rule) == pytest.approx(looked.mean(), rel=0.02)


@pytest.mark.parametrize("min_recall", [0.5, 0.9, 1.0])
def test_the_rule_is_enough_and_the_cheapest_of_its_kind(pairs, cells, truth, min_recall):
    meetings = [find_meetings(SAMPLE, truth, *pairs, *cells)]
    rule = rule_for(min_recall, meetings)
    assert share_met(pairs, cells, truth, rule) >= min_recall
    everything = Rule(NUM_CELLS, meetings[0].nearness(NUM_CELLS, min_recall))
    assert rule.reach + 6 * meetings[0].points(rule) <= (
        NUM_CELLS + 6 * meetings[0].points(everything)
    )


def test_structure_shortens_the_reach_and_its_absence_does_not(pairs, cells, truth):
    assert rule_for(0.9, [find_meetings(SAMPLE, truth, *pairs, *cells)]).reach < NUM_CELLS
    rng = np.random.default_rng(0)
    sides = [np.float32(rng.normal(size=(600, 32))) for _ in range(2)]
    sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    with thread_pool() as pool:
        cells = [divide(side, NUM_CELLS, rng, pool) for side in sides]
    truth = np.argsort(-(sides[0][SAMPLE] @ sides[1].T), axis=1)[:, :24].astype(np.int32)
    assert rule_for(0.95, [find_meetings(SAMPLE, truth, *sides, *cells)]).reach == NUM_CELLS


def test_the_best_cell_is_near_even_where_rounding_makes_it_negative():
    """Equal centroids minus their mean in float32 are noise."""
    nobody = np.zeros(0, np.int32)
    coarse = Coarse(np.zeros((1, 3), np.float32), nobody)
    cells = Cells(np.full((5, 3), -1e-8, np.float32), nobody, nobody, np.zeros(6, np.int64), coarse)
    queries = np.float32([[1, 0, 0], [0, 0.6, 0.8]])
    near = np.arange(5, dtype=np.int32)[None]
    visitors, starts = visits(queries, np.zeros(2, np.int32), near, cells, 0.9)
    assert sorted(visitors.tolist()) == [0] * 5 + [1] * 5
    assert starts.tolist() == [0, 2, 4, 6, 8, 10]


def test_equal_points_all_meet():
    points = np.tile(np.float32([1, 0, 0]), (30, 1))
    with thread_pool() as pool:
        cells = divide(points, 5, np.random.default_rng(0), pool)
    truth = np.ones((1, 1), np.int32)
    meetings = find_meetings(np.zeros(1, int), truth, points, points, cells, cells)
    rule = rule_for(0.9, [meetings])
    near = nearest_cells(cells.coarse.centroids, cells.centroids)[:, : rule.reach]
    visitors, _ = visits(points[:4], cells.coarse.owner[:4], near, cells, rule.nearness)
    assert len(visitors) == 4 * rule.reach
