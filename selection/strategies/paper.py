"""Spectral batch selection as the paper does it (arXiv 2307.05906, section 5.3; github.com/krafton-ai/mini-batch-cl).

Pairs are cut at random into groups of 40 batches. In each group the loss weights w(k, l) of all pairs are one dense
matrix; the eigenvectors of its normalised Laplacian are clustered by k-means, one cluster per batch; and the pairs are
assigned to B seats around each centre at the least total distance. Pairs of different groups never meet, which is what
`spectral` does better.

Followed here is the paper's formula. The authors' code (`sc_even_kb_loose`) takes exp(W) in place of W, of which the
formula knows nothing and which measured no better. It drops what is over when N is no multiple of 40 B; here the last
group is smaller.

Time per group of n pairs: O(n^3), in the eigensolver and in the assignment. Memory: 8 n^2 bytes, a few times. Groups do
not depend on each other: `map_tasks` may send them to other machines.

Legend: n pairs of a group, d dimensions, m batches, b batch size.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float32, Float64, Int64
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from selection.problem import Problem
from selection.threads import one_blas_thread

_KMEANS_STEPS = 100


@dataclass(frozen=True)
class Group:
    """What clustering one group needs, wherever it runs."""

    U: Float32[np.ndarray, "n d"]
    V: Float32[np.ndarray, "n d"]
    group_size: int
    batch_size: int
    temperature: float
    seed: tuple[int, ...]


def paper_spectral(problem: Problem) -> Int64[np.ndarray, "m b"]:
    """Random groups, each cut into batches by spectral clustering and a balanced assignment."""
    nodes = problem.rng().permutation(problem.num_nodes)
    per_group = problem.config.paper_spectral.batches_per_group * problem.group_size
    members = [nodes[start : start + per_group] for start in range(0, len(nodes), per_group)]
    groups = (
        Group(
            problem.U[rows], problem.V[rows], problem.group_size, problem.batch_size,
            problem.temperature, (*problem.seed, number),
        )
        for number, rows in enumerate(members)
    )  # fmt: skip
    batches: list[Int64[np.ndarray, "m b"]] = []
    with problem.timed("partition_s"), one_blas_thread():
        for rows, clusters in zip(members, problem.map_tasks(cluster_group, groups), strict=True):
            batches.append(rows[clusters])
            problem.progress("cluster", len(batches), len(members), "groups")
    return np.concatenate(batches)


def cluster_group(group: Group) -> Int64[np.ndarray, "m b"]:
    """Batches of the places 0 .. n-1 of one group."""
    num_batches = len(group.U) // group.group_size
    weights = dense_weights(group.U, group.V, group.batch_size, group.temperature)
    vectors = laplacian_vectors(weights, num_batches)
    return seats_around(vectors, _centers(vectors, num_batches, np.random.default_rng(group.seed)))


def dense_weights(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batch_size: int,
    temperature: float,
) -> Float64[np.ndarray, "n n"]:
    """w(k, l) of all pairs, as `selection.affinity` defines it, with an empty diagonal."""
    similarities = U.astype(np.float64) @ V.T.astype(np.float64)
    positives = similarities.diagonal()[:, None]
    shift = np.log(batch_size - 1) - positives / temperature
    one_way = np.logaddexp(0, similarities / temperature + shift)
    one_way += np.logaddexp(0, similarities.T / temperature + shift)
    weights = one_way + one_way.T
    np.fill_diagonal(weights, 0)
    return weights


def laplacian_vectors(
    weights: Float64[np.ndarray, "n n"], num_vectors: int
) -> Float64[np.ndarray, "n m"]:
    """Eigenvectors of the normalised Laplacian with the smallest eigenvalues, from the trivial one on, times D^-1/2."""
    degrees = weights.sum(axis=1)
    scale = np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    normalised = weights * scale[:, None] * scale
    last = len(weights) - 1
    _, vectors = scipy.linalg.eigh(normalised, subset_by_index=(last - num_vectors + 1, last))
    return vectors[:, ::-1] * scale[:, None]


def _centers(
    vectors: Float64[np.ndarray, "n m"], num_clusters: int, rng: np.random.Generator
) -> Float64[np.ndarray, "m m"]:
    """The centers of k-means++; one that loses its last row stays where it is."""
    first = np.empty((num_clusters, vectors.shape[1]))
    distances = np.ones(len(vectors))  # squared, to the nearest center so far
    for cluster in range(num_clusters):
        total = distances.sum()
        weights = distances / total if total else None
        first[cluster] = vectors[rng.choice(len(vectors), p=weights)]
        to_this = ((vectors - first[cluster]) ** 2).sum(axis=1)
        distances = np.minimum(distances, to_this) if cluster else to_this
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        return kmeans2(vectors, first, _KMEANS_STEPS, minit="matrix")[0]


def seats_around(
    vectors: Float64[np.ndarray, "n m"], centers: Float64[np.ndarray, "m m"]
) -> Int64[np.ndarray, "m b"]:
    """As many rows around each center, such that the sum of the distances to it is least."""
    size = len(vectors) // len(centers)
    distances = np.repeat(cdist(vectors, centers), size, axis=1)  # a column per seat
    _, seats = linear_sum_assignment(distances)
    return np.argsort(seats // size, kind="stable").reshape(len(centers), size)
