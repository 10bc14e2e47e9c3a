"""Leading eigenvectors of the normalised affinity, the coordinates in which a split looks for clusters.

The eigenvectors of D^-1/2 W D^-1/2 with the largest eigenvalues are those of the normalised Laplacian with the
smallest (von Luxburg 2007). A block of vectors is multiplied by Chebyshev polynomials of the matrix, which damp the
unwanted part of the spectrum (Zhou et al. 2006), and rotated to Ritz vectors in between. Clustering needs no
more than two digits, so few multiplications are enough, in float32: O(nnz * k) each, and 3 * N * k * 4 bytes.

Legend: n nodes, k eigenvectors.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32

_NUM_CYCLES = 4
_DEGREE = 8
_EXTRA_VECTORS = 4  # a few more than asked for make the last ones converge as well


def leading_eigenvectors(
    affinity: sp.csr_array, num_eigenvectors: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k"]]:
    """Approximate leading eigenvectors of the normalised affinity, and their eigenvalues.

    Args:
        affinity: symmetric, non-negative; nodes without a link get zero rows.
        num_eigenvectors: k, the trivial first one included; at most n are returned.
        rng: makes the starting block.

    Returns:
        Eigenvectors [n, k], orthonormal, and their eigenvalues [k] in descending order, at most 1.
    """
    num_nodes = affinity.shape[0]
    width = min(num_eigenvectors + _EXTRA_VECTORS, num_nodes)
    scale = inverse_sqrt_degrees(affinity)
    block = rng.standard_normal((num_nodes, width), np.float32)
    block[:, 0] = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)  # the trivial one
    values, lower = np.zeros(width, np.float32), np.float32(0.5)
    for _ in range(_NUM_CYCLES):
        block, _ = np.linalg.qr(_filter(affinity, scale, block, lower))
        values, rotation = np.linalg.eigh(block.T @ _multiply(affinity, scale, block))
        values, rotation = values[::-1], rotation[:, ::-1]
        block = block @ rotation
        lower = np.clip(values[-1], 0.1, 0.98)
    k = min(num_eigenvectors, num_nodes)
    return np.ascontiguousarray(block[:, :k]), values[:k]


def inverse_sqrt_degrees(affinity: sp.csr_array) -> Float32[np.ndarray, "n"]:
    """D^-1/2 of each node, 0 where there is no link."""
    degrees = np.asarray(affinity.sum(axis=1), np.float32).ravel()
    return np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)


def _filter(
    affinity: sp.csr_array, scale: np.ndarray, block: np.ndarray, lower: np.float32
) -> np.ndarray:
    """The Chebyshev polynomial that is small on [-1, lower] and grows fast above it, applied to `block`."""
    center, half_width = (lower - 1) / 2, (lower + 1) / 2
    previous = block
    current = (_multiply(affinity, scale, block) - center * block) / half_width
    for _ in range(_DEGREE - 1):
        following = _multiply(affinity, scale, current)
        following -= center * current
        following *= 2 / half_width
        following -= previous
        previous, current = current, following
    return current


def _multiply(affinity: sp.csr_array, scale: np.ndarray, block: np.ndarray) -> np.ndarray:
    """D^-1/2 W D^-1/2 times `block`."""
    scaled = np.ascontiguousarray(block) * scale[:, None]
    product = np.empty_like(scaled)
    _multiply_rows(affinity.indptr, affinity.indices, affinity.data, scaled, product)
    product *= scale[:, None]
    return product


@numba.njit(parallel=True, fastmath=True, cache=True)
def _multiply_rows(indptr, indices, data, block, product):
    """Product = W @ block, a thread per range of rows; every sum has one fixed order."""
    width = block.shape[1]
    for row in numba.prange(len(indptr) - 1):
        for column in range(width):
            product[row, column] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            weight, neighbor = data[entry], indices[entry]
            for column in range(width):
                product[row, column] += weight * block[neighbor, column]
