"""Leading eigenvectors of the normalised affinity, the coordinates in which a split looks for clusters.

The eigenvectors of D^-1/2 W D^-1/2 with the largest eigenvalues are those of the normalised Laplacian with the
smallest (von Luxburg 2007). A block of vectors is multiplied by Chebyshev polynomials of the matrix, which damp the
unwanted part of the spectrum (Zhou et al. 2006), and rotated to Ritz vectors in between. Clustering needs no
more than two digits, so few multiplications are enough, in float32: O(nnz * k) each, and 3 * N * k * 4 bytes.

The multiplications run in the threads of this process, or in torch on a GPU; everything else is written once for both.

Legend: n nodes, k eigenvectors.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float32

from selection.errors import ConfigError
from selection.prefetch import AHEAD, prefetch
from selection.threads import in_ranges

Step = Callable[[Any, Any, float, float, float], Any]
"""(block, previous, factor, shift, backward) -> factor * matrix @ block - shift * block - backward * previous."""

_NUM_CYCLES = 3
_DEGREE = 6
_GRAM_ROWS = 1 << 16
_LEAST_SINE = 1e-3  # float32 then leaves columns orthogonal to 1e-4
_EXTRA_VECTORS = 4  # a few more than asked for make the last ones converge as well


def leading_eigenvectors(
    affinity: sp.csr_array,
    num_eigenvectors: int,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor | None = None,
    device: str = "cpu",
) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "e"]]:
    """Approximate leading eigenvectors of the normalised affinity, and their eigenvalues.

    Args:
        affinity: symmetric, non-negative; nodes without a link get zero rows.
        num_eigenvectors: k, the trivial first one included; at most n are returned.
        rng: makes the starting block.
        pool: threads that multiply; None takes this one.
        device: `cpu`, or the name that torch has for a GPU.

    Returns:
        Eigenvectors [n, k], orthonormal, and eigenvalues in descending order, at most 1: theirs and, less exact, those
        of a few more.

    Raises:
        ConfigError: there is no such device.
    """
    num_nodes = affinity.shape[0]
    width = min(num_eigenvectors + _EXTRA_VECTORS, num_nodes)
    matrix = normalized(affinity)
    scale = inverse_sqrt_degrees(affinity)
    block = rng.standard_normal((num_nodes, width), np.float32)
    block[:, 0] = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)  # the trivial one
    if device == "cpu":
        block, values = _iterate(partial(_step, matrix, pool), orthonormal, block, np)
    else:
        block, values = iterate_in_torch(matrix, block, device)
    k = min(num_eigenvectors, num_nodes)
    return np.ascontiguousarray(block[:, :k]), values


def _iterate(step: Step, orthonormal: Callable, block: Any, library: Any) -> tuple[Any, Any]:
    """Filter and rotate; `library` is numpy or torch, whichever `block` belongs to."""
    values, lower = None, 0.5
    for _ in range(_NUM_CYCLES):
        block = orthonormal(_filter(step, block, lower))
        values, rotation = library.linalg.eigh(block.T @ step(block, block, 1, 0, 0))
        values, rotation = library.flip(values, (0,)), library.flip(rotation, (1,))
        block = block @ rotation
        lower = min(max(float(values[-1]), 0.1), 0.98)
    return block, values


def iterate_in_torch(
    matrix: sp.csr_array, block: Float32[np.ndarray, "n k"], device: str
) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k"]]:
    """The same in torch, on any of its devices; meant for a GPU."""
    import torch

    check_device(device)
    arrays = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # "in beta state"
        sparse = torch.sparse_csr_tensor(*arrays, size=matrix.shape).to(device)

    def step(block, previous, factor, shift, backward):
        product = torch.addmm(previous, sparse, block, beta=-backward, alpha=factor)
        return product.sub_(block, alpha=shift)

    def orthonormal(block):
        return torch.linalg.qr(block).Q

    found = _iterate(step, orthonormal, torch.from_numpy(block).to(device), torch)
    return tuple(part.cpu().numpy() for part in found)


def check_device(device: str) -> None:
    """Refuse a device that torch does not find.

    Raises:
        ConfigError: there is no such device.
    """
    if not device.startswith("cuda"):
        return
    import torch

    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise ConfigError(
            f"selection.spectral.device: is {device}, but torch finds {count or 'no'} CUDA device{'s' * (count > 1)} "
            "here; take another one, or cpu"
        )


def eigengap(values: Float[np.ndarray, "e"], num_parts: int) -> float:
    """How clearly a graph falls into `num_parts` parts: the gap behind the eigenvalue of that number.

    With eigenvalues 1 = mu_1 >= mu_2 >= ... of the normalised affinity D^-1/2 W D^-1/2 it is mu_k - mu_(k+1), which is
    lambda_(k+1) - lambda_k of the normalised Laplacian (von Luxburg 2007, section 8.3). It is above 1 for k separate
    cliques, and near 0 when nothing in the graph speaks for k parts rather than k + 1.

    Args:
        values: leading eigenvalues in descending order, at least `num_parts` + 1.
        num_parts: k.
    """
    if len(values) <= num_parts:
        raise ValueError(
            f"{len(values)} eigenvalues, but the gap behind number {num_parts} needs one more"
        )
    return float(values[num_parts - 1] - values[num_parts])


def normalized(affinity: sp.csr_array) -> sp.csr_array:
    """D^-1/2 W D^-1/2; the pattern is shared with `affinity`."""
    scale = inverse_sqrt_degrees(affinity)
    data = affinity.data * scale[affinity.indices]
    data *= np.repeat(scale, np.diff(affinity.indptr))
    return sp.csr_array((data, affinity.indices, affinity.indptr), shape=affinity.shape)


def inverse_sqrt_degrees(affinity: sp.csr_array) -> Float32[np.ndarray, "n"]:
    """D^-1/2 of each node, 0 where there is no link."""
    degrees = np.asarray(affinity.sum(axis=1), np.float32).ravel()
    return np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)


def orthonormal(block: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n k"]:
    """A basis of what the columns span, by Cholesky QR.

    Numpy's QR, by Householder reflections, takes twenty times as long and more than twice the memory
    (benchmarks/NOTES.md); it is left for columns that nearly depend on those before them, for which this is not exact.
    """
    gram = np.zeros((block.shape[1],) * 2)
    for start in range(0, len(block), _GRAM_ROWS):
        rows = block[start : start + _GRAM_ROWS].astype(np.float64)
        gram += rows.T @ rows
    try:
        triangle = np.linalg.cholesky(gram).T
    except np.linalg.LinAlgError:
        return np.linalg.qr(block)[0]
    sines = np.diag(triangle) / np.sqrt(np.diag(gram))  # of each column to those before it
    if sines.min() < _LEAST_SINE:
        return np.linalg.qr(block)[0]
    return block @ np.linalg.inv(triangle).astype(np.float32)


def _filter(step: Step, block: Any, lower: float) -> Any:
    """The Chebyshev polynomial that is small on [-1, lower] and grows fast above it, applied to `block`."""
    center, half_width = (lower - 1) / 2, (lower + 1) / 2
    shift = center / half_width
    previous, current = block, step(block, block, 1 / half_width, shift, 0)
    for _ in range(_DEGREE - 1):
        previous, current = current, step(current, previous, 2 / half_width, 2 * shift, 1)
    return current


def _step(
    matrix: sp.csr_array,
    pool: ThreadPoolExecutor | None,
    block: np.ndarray,
    previous: np.ndarray,
    factor: float,
    shift: float,
    backward: float,
) -> np.ndarray:
    """`Step` in threads, in one pass over the memory."""
    result = np.empty(block.shape, np.float32)
    block = np.ascontiguousarray(block)
    weights = np.float32(factor), np.float32(shift), np.float32(backward)

    def do_rows(start: int, stop: int) -> None:
        _step_rows(
            matrix.indptr, matrix.indices, matrix.data, block, previous, *weights, result, start, stop
        )  # fmt: skip

    in_ranges(do_rows, len(block), pool)
    return result


@numba.njit(nogil=True, fastmath=True, cache=True)
def _step_rows(
    indptr, indices, data, block, previous, factor, shift, backward, result, start, stop
):
    """Rows start .. stop - 1; every sum has one fixed order, whoever does it."""
    width = block.shape[1]
    for row in range(start, stop):
        for column in range(width):
            result[row, column] = -shift * block[row, column] - backward * previous[row, column]
        for entry in range(indptr[row], indptr[row + 1]):
            if entry + AHEAD < len(indices):
                prefetch(block, indices[entry + AHEAD])
            weight, neighbor = factor * data[entry], indices[entry]
            for column in range(width):
                result[row, column] += weight * block[neighbor, column]
