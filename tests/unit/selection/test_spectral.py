import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import eigsh

from selection.errors import ConfigError
from selection.spectral import (
    eigengap,
    inverse_sqrt_degrees,
    iterate_in_torch,
    leading_eigenvectors,
    orthonormal,
)
from selection.spectral import (
    normalized as scaled,
)


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
    np.testing.assert_allclose(
        values[:6], np.linalg.eigvalsh(normalized(graph))[::-1][:6], atol=1e-4
    )


def test_eigenvectors_span_the_leading_subspace():
    graph = blocks(6, 100, 0)
    vectors, _ = leading_eigenvectors(graph, 6, np.random.default_rng(0))
    exact = np.linalg.eigh(normalized(graph))[1][:, -6:]
    cosines = np.linalg.svd(exact.T @ vectors, compute_uv=False)
    assert cosines.min() > 0.999


def agree(vectors, others):
    """Smallest cosine between two subspaces with orthonormal bases."""
    return np.linalg.svd(others.T @ vectors, compute_uv=False).min()


def test_torch_finds_what_the_threads_find():
    """On CPU tensors; the same operations on a GPU differ in nothing but the device."""
    graph = blocks(6, 100, 0)
    start = np.random.default_rng(0).standard_normal((600, 10), np.float32)
    vectors, values = iterate_in_torch(scaled(graph), start, "cpu")
    expected, by_threads = leading_eigenvectors(graph, 6, np.random.default_rng(0))
    np.testing.assert_allclose(values[:6], by_threads[:6], atol=1e-4)
    assert agree(vectors[:, :6], expected) > 0.999
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(10), atol=1e-4)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
def test_every_device_finds_what_arpack_finds(device):
    graph = blocks(6, 100, 3)
    vectors, values = leading_eigenvectors(graph, 6, np.random.default_rng(0), device=device)
    expected, exact = eigsh(scaled(graph).astype(np.float64), 6, which="LA")
    np.testing.assert_allclose(values[:6], expected[::-1], atol=1e-4)
    assert agree(vectors, exact) > 0.999


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ConfigError, match="device: is cuda, but torch finds no CUDA device"):
        leading_eigenvectors(blocks(2, 10, 0), 2, np.random.default_rng(0), device="cuda")


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


def test_eigengap_shows_the_number_of_cliques():
    """Four cliques of 6: the gap behind the fourth eigenvalue is 1 + 1/5, the others are 0; spectral.py agrees."""
    clique = np.ones((6, 6), np.float32) - np.eye(6, dtype=np.float32)
    affinity = sp.csr_array(sp.block_diag([clique] * 4, format="csr"))
    values = np.linalg.eigvalsh(affinity.toarray() / 5)[::-1]
    gaps = [eigengap(values, k) for k in range(1, 8)]
    assert np.argmax(gaps) + 1 == 4
    np.testing.assert_allclose(gaps, [0, 0, 0, 1.2, 0, 0, 0], atol=1e-6)
    _, found = leading_eigenvectors(affinity, 6, np.random.default_rng(0))
    assert eigengap(found, 4) == pytest.approx(1.2, abs=1e-3)


def test_eigengap_needs_one_value_more():
    with pytest.raises(ValueError, match="gap behind number 3 needs one more"):
        eigengap(np.array([1.0, 0.9, 0.5]), 3)


@pytest.mark.parametrize("num_rows", [10, 70_000])
@pytest.mark.parametrize("tilt", [1.0, 1e-2, 1e-6, 0.0])
def test_a_basis_of_what_the_columns_span(num_rows, tilt):
    """Also where a column is nearly, or exactly, that before it."""
    block = np.random.default_rng(0).standard_normal((num_rows, 4)).astype(np.float32)
    block[:, 2] = block[:, 1] + tilt * block[:, 2]
    basis = orthonormal(block)
    assert basis.dtype == np.float32
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(basis @ (basis.T @ block), block, atol=1e-4)
