import numpy as np
import pytest
import scipy.sparse as sp

from selection.spectral import inverse_sqrt_degrees, leading_eigenvectors


def random_graph(num_nodes, num_links, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(num_nodes, size=(2, num_links))
    keep = rows != columns
    weights = rng.random(keep.sum(), np.float32)
    graph = sp.coo_array(
        (weights, (rows[keep], columns[keep])), shape=(num_nodes, num_nodes)
    ).tocsr()
    return sp.csr_array(graph + graph.T)


def blocks(num_blocks, size, seed):
    """Dense blocks with weak links between them: as many eigenvalues near 1 as there are blocks."""
    parts = [random_graph(size, size * 20, seed + b) for b in range(num_blocks)]
    weak = random_graph(num_blocks * size, num_blocks * size, seed + 99) * 0.05
    return sp.csr_array(
        sp.block_diag(parts, format="csr").astype(np.float32) + weak.astype(np.float32)
    )


def normalized(graph):
    scale = inverse_sqrt_degrees(graph).astype(np.float64)
    return scale[:, None] * graph.toarray() * scale


def test_eigenvalues_equal_those_of_a_dense_solver():
    graph = blocks(6, 100, 0)
    _, values = leading_eigenvectors(graph, 6, np.random.default_rng(0))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(normalized(graph))[::-1][:6], atol=1e-4)


def test_eigenvectors_span_the_leading_subspace():
    graph = blocks(6, 100, 0)
    vectors, _ = leading_eigenvectors(graph, 6, np.random.default_rng(0))
    exact = np.linalg.eigh(normalized(graph))[1][:, -6:]
    cosines = np.linalg.svd(exact.T @ vectors, compute_uv=False)
    assert cosines.min() > 0.999


def test_orthonormal_and_deterministic():
    graph = random_graph(300, 2000, 1)
    first, _ = leading_eigenvectors(graph, 8, np.random.default_rng(5))
    second, _ = leading_eigenvectors(graph, 8, np.random.default_rng(5))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.T @ first, np.eye(8), atol=1e-4)


@pytest.mark.parametrize("num_nodes", [1, 2, 5])
def test_tiny_graphs_and_graphs_without_links(num_nodes):
    vectors, values = leading_eigenvectors(
        sp.csr_array((num_nodes, num_nodes), dtype=np.float32), 8, np.random.default_rng(0)
    )
    assert vectors.shape == (num_nodes, num_nodes)
    assert np.isfinite(vectors).all()
    assert np.isfinite(values).all()
