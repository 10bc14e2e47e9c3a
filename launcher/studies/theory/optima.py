"""Theorems 1 and 2: where the full-batch loss is smallest, and that the way there is no slope without bumps."""

import math

import numpy as np

from launcher.studies.claims import Claim
from launcher.studies.configurations import full_batch_loss, mismatch, orthogonal_simplices
from launcher.studies.designs import full_batch
from launcher.studies.free_embeddings import Minimum, free, minimise

_SIZES = (4, 8, 16)
_WELL_ABOVE = 0.1


def best_simplex_loss(num_pairs: int, batch_size: int) -> float:
    """L_con of a batch of points of the simplex of N: 2 log(1 + (B - 1) e^(-N / (N - 1)))."""
    return 2 * math.log1p((batch_size - 1) * math.exp(-num_pairs / (num_pairs - 1)))


def best_cross_polytope_loss(num_pairs: int) -> float:
    """L_con of the whole cross-polytope: 2 log(1 + (N - 2) e^-1 + e^-2)."""
    return 2 * math.log1p((num_pairs - 2) / math.e + math.exp(-2))


def simplex_is_best(seed: int) -> list[Claim]:
    """Theorem 1: for N <= d + 1 the full-batch minimiser is the simplex equiangular tight frame, u_i = v_i."""
    claims = []
    for num_pairs, dim in ((4, 8), (8, 16), (16, 32), (4, 3), (8, 7), (16, 15)):
        found = minimise(full_batch(num_pairs), free(num_pairs), dim, seed=seed)
        where = f"N = {num_pairs}, d = {dim}"
        claims += _claim_optimum(
            "Theorem 1", where, found, best_simplex_loss(num_pairs, num_pairs),
            "the simplex", orthogonal_simplices(num_pairs, 1),
        )  # fmt: skip
    return claims


def cross_polytope_is_best(seed: int) -> list[Claim]:
    """Theorem 2: for N = 2 d it is the cross-polytope, among all U and V and not only the symmetric and antipodal."""
    claims = []
    for num_pairs in _SIZES:
        dim = num_pairs // 2
        found = minimise(full_batch(num_pairs), free(num_pairs), dim, seed=seed)
        claims += _claim_optimum(
            "Theorem 2", f"N = {num_pairs}, d = {dim}", found, best_cross_polytope_loss(num_pairs),
            "the cross-polytope", orthogonal_simplices(num_pairs, dim),
        )  # fmt: skip
    return claims


def _claim_optimum(
    statement: str,
    where: str,
    found: list[Minimum],
    best_loss: float,
    name: str,
    similarities: np.ndarray,
) -> list[Claim]:
    """The optimum found has the loss and the similarities that it should have, from every start."""
    best, worst = found[0], found[-1]
    apart = float(np.abs(best.U - best.V).max())
    return [
        Claim(statement, f"{where}: L*", best.loss, best_loss),
        Claim("no other minimum met", f"{where}: L of the worst of {len(found)} starts", worst.loss, best_loss),
        Claim(statement, f"{where}: difference from {name}",
              mismatch(best.similarities, similarities), 0),
        Claim(statement, f"{where}: largest difference of u_i and v_i", apart, 0),
    ]  # fmt: skip


def not_quasi_convex(seed: int) -> list[Claim]:
    """L_con is not geodesically quasi-convex: halfway between two optima it is higher than at both.

    Two triangles on the circle that differ by the names of two corners, each corner moving along the shorter arc: these
    two meet halfway.
    """
    corners = np.array([0, 1, -1]) * 2 * np.pi / 3
    swapped = np.array([0, 2, 1]) * 2 * np.pi / 3  # the third one is at -2 pi / 3 + 2 pi
    halfway = (np.array([0, 1, 2]) * 2 * np.pi / 3 + swapped) / 2
    ends, middle = (
        [full_batch_loss(np.cos(angles[:, None] - angles)) for angles in those]
        for those in ((corners, swapped), (halfway,))
    )
    what = "L halfway between two optima above L*, N = 3, d = 2"
    return [
        Claim("not quasi-convex", "L at both ends, N = 3, d = 2", max(ends), best_simplex_loss(3, 3)),
        Claim("not quasi-convex", what, middle[0] - max(ends), _WELL_ABOVE, ">="),
    ]  # fmt: skip
