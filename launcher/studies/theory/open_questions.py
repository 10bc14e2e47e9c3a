"""What the paper leaves open: N beyond d + 1, and one encoder for both sides.

What was found here is numerical: the lowest of several local minima, not a proof.

The best codes known, the points on a sphere whose nearest two are farthest apart, are from H. Cohn's table of spherical
codes (hdl.handle.net/1721.1/142661).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from launcher.studies.claims import Table
from launcher.studies.configurations import (
    full_batch_loss,
    mismatch,
    orthogonal_simplices,
    regular_polygon,
)
from launcher.studies.designs import all_batches, full_batch
from launcher.studies.free_embeddings import Minimum, free, minimise, off_diagonal, tied
from launcher.studies.theory.optima import best_simplex_loss

_SAME, _EQUAL_LOSS = 1e-4, 1e-9
_NUM_STARTS = 16
_DEPENDENT = 1e-9  # what is left of a feature that others already say
_BEST_COSINES = {
    (7, 3): 0.210138, (8, 3): 0.261204, (9, 3): 1 / 3, (10, 3): 0.404394, (12, 3): 1 / math.sqrt(5),
    (9, 4): 0.162011, (10, 4): 1 / 6, (12, 4): 1 / 4, (24, 4): 1 / 2,
    (11, 5): 0.132856, (12, 5): 0.153927, (16, 5): 1 / 5, (27, 6): 1 / 4,
}  # fmt: skip
"""Largest cosine between two of N points in d dimensions, by (N, d). For d + 1 < N <= 2 d it is 0."""

SIZES = (
    *((num_pairs, 2) for num_pairs in range(5, 11)),
    *((num_pairs, 3) for num_pairs in (5, 7, 8, 9, 10, 12)),
    *((num_pairs, 4) for num_pairs in (6, 7, 9, 10, 12, 24)),
    *((num_pairs, 5) for num_pairs in (7, 8, 9, 11, 12, 16)),
    (27, 6),
)


def best_cosine(num_pairs: int, dim: int) -> float:
    """Largest cosine between two of the points of the best code known."""
    if dim == 2:
        return math.cos(2 * math.pi / num_pairs)
    return 0.0 if num_pairs <= 2 * dim else _BEST_COSINES[num_pairs, dim]


def beyond_the_simplex(seed: int, progress: Callable[[int, int], None]) -> Table:
    """Optima for N > d + 1: against the best codes, of all pairs, with u_i = v_i."""
    rows = []
    for number, (num_pairs, dim) in enumerate(SIZES, start=1):
        rows.append(_compare_optima(num_pairs, dim, seed))
        progress(number, len(SIZES))
    return Table(
        "General N > d + 1",
        f"The lowest full-batch loss of {_NUM_STARTS} starts; its largest cosine beside that of the best code known "
        "(`simplices`: N - d mutually orthogonal regular simplices of sizes as equal as can be, "
        "of which the simplex of theorem 1 and the cross-polytope of theorem 2 are the ends); how much higher the "
        "full-batch loss is at the optimum of all pairs (B = 2), where that is another one; how much higher the "
        "optimum is when u_i = v_i is demanded.",
        ("size", "L*", "largest cosine", "best code", "what it is", "all pairs", "u = v"),
        rows,
    )  # fmt: skip


def _compare_optima(num_pairs: int, dim: int, seed: int) -> list[str]:
    full, pairs, shared = (
        minimise(batches, features, dim, _NUM_STARTS, seed)[0]
        for batches, features in (
            (full_batch(num_pairs), free(num_pairs)),
            (all_batches(num_pairs, 2), free(num_pairs)),
            (full_batch(num_pairs), tied(num_pairs)),
        )
    )
    same = mismatch(full.similarities, pairs.similarities) < _SAME
    of_pairs = full_batch_loss(pairs.similarities) - full.loss
    of_shared = shared.loss - full.loss
    return [
        f"N = {num_pairs}, d = {dim}", f"{full.loss:.6f}", f"{off_diagonal(full.similarities).max():.4f}",
        f"{best_cosine(num_pairs, dim):.4f}", _name(full, dim),
        "the same" if same else f"+ {of_pairs:.1e}",
        "the same" if abs(of_shared) < _EQUAL_LOSS else f"+ {of_shared:.1e}",
    ]  # fmt: skip


def _name(optimum: Minimum, dim: int) -> str:
    """What the optimum is known as."""
    num_pairs, known = len(optimum.U), {}
    if dim == 2:
        known["regular polygon"] = regular_polygon(num_pairs)
    elif num_pairs <= 2 * dim:
        known["simplices"] = orthogonal_simplices(num_pairs, num_pairs - dim)
    for name, similarities in known.items():
        if mismatch(optimum.similarities, similarities) < _SAME:
            return name
    largest = off_diagonal(optimum.similarities).max()
    return "best code" if abs(largest - best_cosine(num_pairs, dim)) < _SAME else "no best code"


def shared_encoder(seed: int) -> Table:
    """One linear encoder for two views of every pair, with more and fewer features than there are views."""
    num_pairs, dim = 8, 16
    best_loss = best_simplex_loss(num_pairs, num_pairs)
    rows = []
    for noise in (0.0, 0.1, 0.5):
        for num_features in (16, 12, 8, 6):
            features = noisy_views(num_pairs, num_features, noise, seed)
            best = minimise(full_batch(num_pairs), encodable(features), dim, _NUM_STARTS, seed)[0]
            rows.append([
                str(num_features), f"{noise:g}", f"{best.loss:.6f}",
                f"{max(0.0, best.loss - best_loss):.6f}",
                f"{best.similarities.diagonal().mean():.4f}",
            ])  # fmt: skip
    return Table(
        "A shared encoder",
        f"u_i = W x_i / |W x_i| and v_i = W x'_i / |W x'_i| with one matrix W; N = {num_pairs}, d = {dim}, L* = "
        f"{best_loss:.6f}; x random, x' = x + noise. With as many features as there are views (16) L* is reached "
        f"whatever the noise, and with {num_pairs} when both views are the same; with fewer, something is left.",
        ("features", "noise", "loss", "L - L*", "mean u_i.v_i"),
        rows,
    )


def encodable(features: Float64[np.ndarray, "2*n p"]) -> Float64[np.ndarray, "2*n r"]:
    """Features of the same linear encoders in an orthonormal basis, in which they are found in far fewer steps.

    r is their rank, which is halved where both views are the same.
    """
    basis, triangle = np.linalg.qr(features)
    return basis[:, np.abs(triangle.diagonal()) > _DEPENDENT]


def noisy_views(
    num_pairs: int, num_features: int, noise: float, seed: int
) -> Float64[np.ndarray, "2*n p"]:
    """Features of x_1 .. x_n and of x'_1 .. x'_n."""
    rng = np.random.default_rng(seed)
    x, errors = rng.standard_normal((2, num_pairs, num_features))
    return np.vstack([x, x + noise * errors])
