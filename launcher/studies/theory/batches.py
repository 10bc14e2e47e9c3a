"""Theorems 4 and 5: which sets of batches have the minimiser of the full batch."""

import numpy as np
from jaxtyping import Int64

from launcher.studies.claims import Claim
from launcher.studies.configurations import (
    full_batch_loss,
    mismatch,
    orthogonal_simplices,
    regular_polygon,
)
from launcher.studies.designs import (
    FANO_PLANE,
    PLANE_OF_ORDER_3,
    all_batches,
    cyclic_design,
    fixed_batches,
    full_batch,
    meetings,
)
from launcher.studies.free_embeddings import (
    Minimum,
    contrastive_loss,
    free,
    minimise,
    off_diagonal,
)
from launcher.studies.theory.optima import best_simplex_loss

_CLEARLY = 0.01
"""By how much similarities must differ for embeddings to count as others."""

_LOWER = 1e-3
"""By how much a loss must be lower, far more than the minimiser leaves undone."""


def all_batches_suffice(seed: int) -> list[Claim]:
    """Theorem 4: all C(N, B) batches have the full-batch minimiser, for N <= d + 1 and for N = 2 d."""
    claims = []
    for batch_size in (2, 3, 4):
        best = minimise(all_batches(7, batch_size), free(7), 6, seed=seed)[0]
        where = f"all batches of {batch_size}, N = 7, d = 6"
        claims += [
            Claim("Theorem 4", f"{where}: L*", best.loss, best_simplex_loss(7, batch_size)),
            Claim("Theorem 4", f"{where}: difference from the simplex", _off_simplex(best), 0),
        ]
    for num_pairs in (4, 8, 16):
        dim = num_pairs // 2
        best = minimise(all_batches(num_pairs, 2), free(num_pairs), dim, seed=seed)[0]
        difference = mismatch(best.similarities, orthogonal_simplices(num_pairs, dim))
        what = f"all pairs, N = {num_pairs}, d = {dim}: difference from the cross-polytope"
        claims.append(Claim("Theorem 4", what, difference, 0))
    return claims


def fewer_pairs_do_not(seed: int) -> list[Claim]:
    """Theorem 5: for B = 2 every strict subset of the pairs has another minimiser."""
    pairs = all_batches(7, 2)
    rng = np.random.default_rng(seed)
    claims = []
    for num_kept in (20, 15, 10):
        kept = rng.permutation(len(pairs))[:num_kept]
        best = minimise(pairs[kept], free(7), 6, seed=seed)[0]
        where = f"{num_kept} of 21 pairs, N = 7, d = 6"
        claims += _claim_better_than_simplex("Theorem 5", where, pairs[kept], best)
        if num_kept == 20:
            missing = pairs[np.setdiff1d(np.arange(len(pairs)), kept)[0]]
            claims += _claim_missing_pair(best, missing)
    return claims


def _claim_missing_pair(best: Minimum, missing: Int64[np.ndarray, "2"]) -> list[Claim]:
    found, lowest = best.similarities[tuple(missing)], best.similarities.min()
    return [
        Claim("Theorem 5", "20 of 21: similarity of the missing pair", float(found), 1),
        Claim("Theorem 5", "20 of 21: lowest similarity", float(lowest), -0.336, tolerance=5e-4),
    ]


def _claim_better_than_simplex(
    statement: str, where: str, batches: Int64[np.ndarray, "m b"], best: Minimum
) -> list[Claim]:
    """The simplex is no minimiser on these batches: something else has a lower loss there."""
    simplex = orthogonal_simplices(len(best.U), 1)
    gap = contrastive_loss(simplex[None], batches[None])[0] - best.loss
    return [
        Claim(statement, f"{where}: difference from the simplex", _off_simplex(best), _CLEARLY, ">="),
        Claim(statement, f"{where}: loss of the simplex above the lowest", float(gap), _LOWER, ">="),
    ]  # fmt: skip


def fewer_triples_may(seed: int) -> list[Claim]:
    """Beyond the paper: for B >= 3 it is enough that every two pairs meet equally often, a balanced design.

    Jensen's inequality over the batches needs no more than that. For B = 2 it means all pairs, so there theorem 5 is
    exact; for B = 3 seven of the 35 batches will do, while 34 of the 35 do not, nor do seven that are no design.
    """
    triples = all_batches(7, 3)
    most = minimise(triples[1:], free(7), 6, seed=seed)[0]
    negatives = off_diagonal(most.similarities)
    claims = [
        Claim("designs", "34 of 35 triples: lowest similarity", negatives.min(), -0.2146),
        Claim("designs", "34 of 35 triples: highest similarity", negatives.max(), -0.0391),
    ]
    for name, (base_block, num_pairs) in {
        "Fano plane, 7 of 35 triples": FANO_PLANE,
        "plane of order 3, 13 of 715 quadruples": PLANE_OF_ORDER_3,
    }.items():
        blocks = cyclic_design(base_block, num_pairs)
        best = minimise(blocks, free(num_pairs), num_pairs - 1, seed=seed)[0]
        best_loss = best_simplex_loss(num_pairs, len(base_block))
        claims += [
            Claim("designs", f"{name}: spread of the meetings", _spread(blocks, num_pairs), 0),
            Claim("designs", f"{name}: L*", best.loss, best_loss),
            Claim("designs", f"{name}: difference from the simplex", _off_simplex(best), 0),
        ]
    unbalanced = cyclic_design((0, 1, 2), 7)
    best = minimise(unbalanced, free(7), 6, seed=seed)[0]
    where = "7 triples that are no design"
    return claims + _claim_better_than_simplex("designs", where, unbalanced, best)


def _spread(batches: Int64[np.ndarray, "m b"], num_pairs: int) -> float:
    """How much more often some two pairs meet than others."""
    counts = meetings(batches, num_pairs)[~np.eye(num_pairs, dtype=bool)]
    return float(np.ptp(counts))


def circle_breaks_it(seed: int) -> list[Claim]:
    """Beyond the paper: in the setting of its figure 1(a), N = 10, d = 2, all pairs have another minimiser."""
    full = minimise(full_batch(10), free(10), 2, num_starts=20, seed=seed)[0]
    pairs = minimise(all_batches(10, 2), free(10), 2, num_starts=20, seed=seed)[0]
    decagon, pentagon = regular_polygon(10), regular_polygon(5, repeats=2)
    name = "circle"
    return [
        Claim(name, "full batch: L*", full.loss, 3.076999),
        Claim(name, "full batch: difference from the decagon", mismatch(full.similarities, decagon), 0),
        Claim(name, "full batch: L* in figure 1(a), one direction", full.loss / 2, 1.5385),
        Claim(name, "all pairs in figure 1(a), one direction, their sum / N",
              45 * loss_of_pairs(full) / 2 / 10, 1.4627),
        Claim(name, "full batch: loss of its optimum on all pairs", loss_of_pairs(full), 0.650065),
        Claim(name, "all pairs: L*", pairs.loss, 0.649935),
        Claim(name, "all pairs: difference from the pentagon, each corner twice",
              mismatch(pairs.similarities, pentagon), 0),
        Claim(name, "all pairs: full-batch loss of its optimum",
              full_batch_loss(pairs.similarities), 3.077856),
    ]  # fmt: skip


def loss_of_pairs(minimum: Minimum) -> float:
    """Mean L_con of all batches of two."""
    batches = all_batches(len(minimum.U), 2)[None]
    return float(contrastive_loss(minimum.similarities[None], batches)[0])


def fixed_batches_vary(seed: int) -> list[Claim]:
    """Fixed disjoint batches: each becomes a simplex of its own, how they lie to each other is left to chance.

    Lee et al. 2025 (arXiv 2506.09781, theorem 5.5): similarities of different pairs have the mean -1 / (n - 1) and a
    variance between two bounds, which are reached by orthogonal simplices and by one simplex that all batches share.
    """
    claims = []
    for num_pairs, batch_size in ((4, 2), (12, 3)):
        batches = fixed_batches(num_pairs, batch_size)
        found = minimise(batches, free(num_pairs), num_pairs, seed=seed)
        where = f"n = {num_pairs}, m = {batch_size}"
        variances = [float(off_diagonal(one.similarities).var()) for one in found]
        low, high = variance_bounds(num_pairs, batch_size)
        mean = float(off_diagonal(found[0].similarities).mean())
        apart = orthogonal_simplices(num_pairs, num_pairs // batch_size)
        shared = np.tile(orthogonal_simplices(batch_size, 1), (num_pairs // batch_size,) * 2)
        name = "fixed batches"
        claims += [
            Claim(name, f"{where}: L*", found[0].loss, best_simplex_loss(batch_size, batch_size)),
            Claim(name, f"{where}: lowest u_i.v_i", found[0].similarities.diagonal().min(), 1),
            Claim(name, f"{where}: mean similarity", mean, -1 / (num_pairs - 1)),
            Claim(name, f"{where}: lowest variance of {len(found)} starts", min(variances), low, ">="),
            Claim(name, f"{where}: highest variance", max(variances), high, "<="),
            Claim(name, f"{where}: spread of the variances", np.ptp(variances), _CLEARLY, ">="),
            Claim(name, f"{where}: variance of orthogonal simplices", off_diagonal(apart).var(), low),
            Claim(name, f"{where}: variance of a shared simplex", off_diagonal(shared).var(), high),
        ]  # fmt: skip
    return claims


def variance_bounds(num_pairs: int, batch_size: int) -> tuple[float, float]:
    """(n - m) / ((m - 1) (n - 1)^2) and n times that."""
    low = (num_pairs - batch_size) / ((batch_size - 1) * (num_pairs - 1) ** 2)
    return low, num_pairs * low


def _off_simplex(minimum: Minimum) -> float:
    return mismatch(minimum.similarities, orthogonal_simplices(len(minimum.U), 1))
