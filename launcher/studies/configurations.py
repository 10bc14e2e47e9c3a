"""Minimum known in advance, as their similarities: what minimisers of the loss are compared with.

Both optima that the paper proves are mutually orthogonal regular simplices: one of N points is its simplex
equiangular tight frame (N <= d + 1), d of two points each are its cross-polytope (N = 2 d).

Legend: n pairs, s runs.
"""

import numpy as np
from jaxtyping import Float64
from scipy.optimize import linear_sum_assignment

from launcher.studies.free_embeddings import contrastive_loss, off_diagonal


def orthogonal_simplices(num_pairs: int, num_simplices: int) -> Float64[np.ndarray, "n n"]:
    """Similarities of points on simplices whose sizes differ by one at most, u_i = v_i.

    Points of one simplex of k have similarity -1 / (k - 1), points of different ones 0. They fit into
    `num_pairs` - `num_simplices` dimensions.
    """
    places = np.arange(num_pairs) * num_simplices // num_pairs
    same = places[:, None] == places
    sizes = same.sum(axis=1, keepdims=True)
    return np.where(same, -1 / (sizes - 1), 0.0) + np.diag(1 + 1 / (sizes[:, 0] - 1))


def regular_polygon(num_corners: int, repeats: int = 1) -> Float64[np.ndarray, "n n"]:
    """Similarities of the corners of a regular polygon, each of them `repeats` times."""
    angles = np.repeat(np.arange(num_corners), repeats) * 2 * np.pi / num_corners
    return np.cos(angles[:, None] - angles)


def full_batch_loss(similarities: Float64[np.ndarray, "n n"]) -> float:
    """L_con of all pairs at once."""
    everyone = np.arange(len(similarities))[None, None]
    return float(contrastive_loss(similarities[None], everyone)[0])


def mismatch(similarities: Float64[np.ndarray, "n n"], others: Float64[np.ndarray, "n n"]) -> float:
    """Largest difference between the similarities of two sets of embeddings, sorted.

    It is 0 when they are the same up to rotation and numbering, and no numbering has to be searched for. That is
    necessary, not sufficient: it tells optima apart, it does not prove them equal.
    """
    positives = np.abs(np.sort(similarities.diagonal()) - np.sort(others.diagonal()))
    negatives = np.abs(np.sort(off_diagonal(similarities)) - np.sort(off_diagonal(others)))
    return float(max(positives.max(), negatives.max()))


def antipodes(similarities: Float64[np.ndarray, "n n"]) -> list[tuple[int, int]]:
    """The division of an even number of pairs into couples whose similarities are smallest in sum: exact.

    An assignment in which each picks the partner of the one that picks it is such a division. One that goes in circles
    instead, as it may far from the optimum, is only a lower bound; then a matching is searched for by blossoms.
    """
    costs = similarities + similarities.T
    np.fill_diagonal(costs, np.inf)
    _, partners = linear_sum_assignment(costs)
    if (partners[partners] == np.arange(len(costs))).all():
        return [(i, int(j)) for i, j in enumerate(partners) if i < j]
    import networkx

    graph = networkx.Graph()
    graph.add_weighted_edges_from((i, j, costs[i, j]) for i in range(len(costs)) for j in range(i))
    return sorted((min(edge), max(edge)) for edge in networkx.min_weight_matching(graph))


def distance_to_simplex(similarities: Float64[np.ndarray, "*s n n"]) -> Float64[np.ndarray, "*s"]:
    """||U*^T V* - U^T V||_F, U* = V* the simplex. It is the same for every numbering, so nothing has to be aligned."""
    target = orthogonal_simplices(similarities.shape[-1], 1)
    return np.linalg.norm(similarities - target, axis=(-2, -1))


def distance_to_cross_polytope(
    similarities: Float64[np.ndarray, "s n n"],
) -> Float64[np.ndarray, "s"]:
    """||U*^T V* - U^T V||_F, U* = V* the cross-polytope that is nearest.

    Which points are antipodes is free, but one division into couples holds for all rows and columns. The authors' code
    sorts each row by itself instead, and so counts a u_i that is aligned with another v_j as right.
    """
    return np.array([np.linalg.norm(one - cross_polytope(antipodes(one))) for one in similarities])


def cross_polytope(couples: list[tuple[int, int]]) -> Float64[np.ndarray, "n n"]:
    """Similarities of points of which the couples are antipodes, u_i = v_i."""
    similarities = np.eye(2 * len(couples))
    first, second = np.transpose(couples)
    similarities[first, second] = similarities[second, first] = -1
    return similarities
