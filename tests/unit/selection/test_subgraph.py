import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selection.subgraph import subgraph
from tests.unit.selection.test_spectral import random_graph


@given(st.integers(0, 300), st.sets(st.integers(0, 39), min_size=1), st.integers(0, 99))
def test_the_graph_of_some_nodes(num_links, chosen, seed):
    graph = random_graph(40, num_links, seed).astype(np.float32)
    nodes, places = np.array(sorted(chosen)), np.full(40, -1, np.int32)
    part = subgraph(graph, nodes, places)
    np.testing.assert_array_equal(part.toarray(), graph.toarray()[nodes][:, nodes])
    assert part.has_sorted_indices
    assert (places == -1).all()
