import numpy as np
import pytest
import scipy.sparse as sp

from selection.config import GraphConfig, HardnessConfig, SelectionConfig
from selection.forbidden import (
    LARGEST_CLIQUE,
    Forbidden,
    find_false_negatives,
    nothing_forbidden,
    rename,
)
from selection.knn import find_neighbors
from selection.problem import Problem


def slow_false_negatives(U, V, neighbors, margin):
    """The definition, for all pairs at once, and which of them are linked."""
    similarity = U @ V.T
    least = similarity.diagonal()[:, None] - margin
    false = (similarity > least) | (least < similarity.T)
    linked = np.zeros(false.shape, bool)
    for ids in (neighbors.v_of_u, neighbors.u_of_v):
        linked[np.arange(len(U))[:, None], ids] = True
    linked |= linked.T
    return linked & (false | false.T), linked


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.2, 2.0])
def test_false_negatives_are_as_defined(random_pairs, margin):
    U, V = random_pairs
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=6))
    links, share = find_false_negatives(U, V, neighbors, margin)
    expected, linked = slow_false_negatives(U, V, neighbors, margin)
    np.testing.assert_array_equal(links.toarray() != 0, expected)
    assert share == pytest.approx(expected.sum() / linked.sum())
    assert links.has_sorted_indices
    if margin == 2.0:
        assert share == 1


@pytest.fixture
def graph():
    """A symmetric graph of 60 nodes and what is forbidden in it, as a matrix too."""
    rng = np.random.default_rng(1)
    weights = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.3), 1).astype(np.float32)
    affinity = sp.csr_array(weights + weights.T)
    false = np.triu(rng.random((60, 60)) < 0.05, 1)
    links = sp.csr_array((false | false.T).astype(np.int8))
    numbers = np.full((60, 2), -1, np.int32)
    numbers[:5, 0], numbers[3:9, 1] = 0, 1
    numbers[20:22, 1] = numbers[30, 0] = 2
    same = np.zeros((60, 60), bool)
    for group in (range(5), range(3, 9), (20, 21, 30)):
        same[np.ix_(list(group), list(group))] = True
    np.fill_diagonal(same, val=False)
    return affinity, Forbidden(numbers, links), links.toarray() != 0, same


def test_the_affinity_loses_what_is_forbidden(graph):
    affinity, forbidden, false, same = graph
    before = affinity.toarray()
    kept = forbidden.remove_from(affinity)
    np.testing.assert_array_equal(kept.toarray(), np.where(false | same, 0, before))
    assert kept.nnz == (kept.toarray() != 0).sum()
    assert kept.has_sorted_indices
    assert kept.indptr.dtype == kept.indices.dtype == affinity.indices.dtype
    assert nothing_forbidden(60).remove_from(affinity) is affinity


def test_what_is_forbidden_repels(graph):
    affinity, forbidden, false, same = graph
    kept = forbidden.remove_from(affinity)
    repelling = forbidden.repel(kept)
    np.testing.assert_array_equal(
        repelling.toarray(), np.where(false | same, np.float32(-1e4), kept.toarray())
    )
    assert repelling.dtype == np.float32
    assert repelling.has_sorted_indices
    assert nothing_forbidden(60).repel(affinity) is affinity


def test_the_affinity_comes_back(graph):
    affinity, forbidden, *_ = graph
    kept = forbidden.remove_from(affinity)
    before = kept.copy()
    after = forbidden.calm(forbidden.repel(kept))
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert nothing_forbidden(60).calm(affinity) is affinity


@pytest.mark.parametrize(
    ("size", "entries"),
    [(LARGEST_CLIQUE, LARGEST_CLIQUE * (LARGEST_CLIQUE - 1)), (LARGEST_CLIQUE + 1, 0)],
)
def test_large_contents_do_not_repel(size, entries):
    numbers = np.full((100, 2), -1, np.int32)
    numbers[10 : 10 + size, 0] = 0
    nothing = sp.csr_array((100, 100), dtype=np.float32)
    forbidden = Forbidden(numbers, nothing_forbidden(100).links)
    assert forbidden.repel(nothing).nnz == entries


def test_links_under_other_names():
    links = sp.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.int8))
    renamed = rename(links, np.array([1, 4, 6]), 8)
    assert sorted(zip(*(axis.tolist() for axis in renamed.nonzero()), strict=True)) == [
        (1, 4), (4, 1), (4, 6), (6, 4),
    ]  # fmt: skip
    assert renamed.has_sorted_indices


def test_strategies_see_a_graph_without_false_negatives(random_pairs):
    def problem(margin):
        config = SelectionConfig(hardness=HardnessConfig(margin=margin))
        return Problem(*random_pairs, 20, 20, 0.1, config, (0, 1))

    free, strict = problem(None), problem(-0.1)
    graph = free.affinity
    with free.repelling() as repelling:
        assert repelling is graph
    assert free.affinity is graph
    num_links = strict.forbidden.links.nnz
    assert 0 < num_links < free.affinity.nnz
    assert strict.affinity.nnz == free.affinity.nnz - num_links
    before = strict.affinity.copy()
    with strict.repelling() as repelling:
        assert (repelling.data < 0).sum() == num_links
        assert "affinity" not in strict.__dict__  # or it would be computed again
    np.testing.assert_array_equal(strict.affinity.toarray(), before.toarray())
    assert strict.signals["num_false_negatives"] == num_links // 2
    assert strict.signals["false_negative_share"] == pytest.approx(num_links / free.affinity.nnz)
    assert "margin_s" in strict.seconds


def test_the_margin_looks_at_neighbours_that_are_not_linked(random_pairs):
    """Those before the first rank are the likeliest false negatives."""
    graph = GraphConfig(num_neighbors=4, first_rank=6)
    config = SelectionConfig(graph=graph, hardness=HardnessConfig(margin=0.1))
    problem = Problem(*random_pairs, 20, 20, 0.1, config, (0, 1))
    free = Problem(*random_pairs, 20, 20, 0.1, SelectionConfig(graph=graph), (0, 1))
    unlinked = (problem.forbidden.links.toarray() != 0) & (free.affinity.toarray() == 0)
    assert unlinked.sum() > 100
