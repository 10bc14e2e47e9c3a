import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.subgraph import strongest_links, subgraph
from tests.unit.selection.test_spectral import random_graph


@given(st.integers(0, 300), st.sets(st.integers(0, 39), min_size=1), st.integers(0, 99))
def test_the_graph_of_some_nodes(num_links, chosen, seed):
    graph = random_graph(40, num_links, seed).astype(np.float32)
    nodes, places = np.array(sorted(chosen)), np.full(40, -1, np.int32)
    part = subgraph(graph, nodes, places)
    np.testing.assert_array_equal(part.toarray(), graph.toarray()[nodes][:, nodes])
    assert part.has_sorted_indices
    assert (places == -1).all()


@pytest.mark.parametrize("num_links", [1, 3, 8])
def test_strongest_links_of_either_end_are_kept(num_links):
    graph = random_graph(60, 700, seed=num_links).astype(np.float32)
    dense = graph.toarray()
    strong = np.argsort(-dense, axis=1)[:, :num_links]
    kept = np.zeros_like(dense, bool)
    np.put_along_axis(kept, strong, True, axis=1)
    expected = np.where(kept | kept.T, dense, 0)
    thin = strongest_links(graph, num_links)
    np.testing.assert_array_equal(thin.toarray(), expected)
    assert thin.has_sorted_indices
