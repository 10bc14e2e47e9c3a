"""Regions: related pairs that one node selects from, where a data set is too large for one.

What is lost are neighbours in other regions, so regions are made like batches: a sample is linked, and its graph is cut
by the spectral partition into one group per region. A pair belongs to the region of the prototype to which u + v is
most similar; every region has a few dozen prototypes, centroids of its part of the sample, because regions of a graph
are not round. Prices on regions, found on the sample, make them equally large.

On 30,000 pairs and ten regions, 0.74 (power law), 0.61 (equal clusters) and 0.50 (code search) of the neighbours stay
together, where balanced k-means of u + v keeps 0.57, 0.35 and 0.41, and a cut of the graph of all pairs 0.75, 0.62
and 0.57 (benchmarks/NOTES.md).

Time: one selection without swaps for the sample; O(r p d) for each pair.

Legend: n pairs, d dimensions, r regions, p prototypes of a region.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from selection.affinity import build_affinity
from selection.balanced import balanced_clusters, normalize_rows
from selection.config import GraphConfig, SpectralConfig
from selection.knn import find_neighbors
from selection.partition import partition
from selection.progress import Progress, silent
from selection.threads import one_blas_thread

FILL = 0.9
"""Of the pairs that a region may have; the rest is for what a sample cannot know."""
_SAMPLE_PER_REGION = 1024
_LEAST_SAMPLE = 1 << 14
_PAIRS_PER_PROTOTYPE = 16
MOST_PROTOTYPES = 64
_PRICE_STEPS = 200
_FIRST_STEP, _DECAY = 0.05, 0.98  # of a price; similarities are at most 1
_BLOCK = 1024


class Regions(NamedTuple):
    """Where each region is."""

    prototypes: Float32[np.ndarray, "r p d"]
    """Unit rows."""

    prices: Float32[np.ndarray, "r"]
    """What a pair's similarity to a region must exceed."""


def count_regions(num_pairs: int, max_pairs: int) -> int:
    """How many regions of at most `max_pairs` there are."""
    return math.ceil(num_pairs / (FILL * max_pairs))


def sample_size(num_pairs: int, num_regions: int) -> int:
    """Pairs whose graph is cut into regions."""
    return min(num_pairs, max(_LEAST_SAMPLE, _SAMPLE_PER_REGION * num_regions))


def find_regions(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    num_regions: int,
    batch_size: int,
    temperature: float,
    seed: tuple[int, ...],
    progress: Progress = silent,
) -> Regions:
    """Cut the graph of a sample into regions.

    Args:
        U: first embeddings of the sample, on the unit sphere.
        V: second embeddings.
        num_regions: r, at most n.
        batch_size: B in the weights of the links.
        temperature: t in the weights of the links.
        seed: same seed, same regions.
        progress: told of the search and of the cut.
    """
    rng = np.random.default_rng(seed)
    size = len(U) // num_regions
    sample = np.sort(rng.permutation(len(U))[: size * num_regions])
    U, V = U[sample], V[sample]
    neighbors = find_neighbors(U, V, GraphConfig(), seed[0], progress)
    graph = build_affinity(U, V, neighbors, batch_size, temperature)
    groups = partition(graph, size, SpectralConfig(), seed, progress=progress)
    points = normalize_rows(U + V)
    with one_blas_thread():
        prototypes = np.stack([_centroids(points[group], rng) for group in groups])
        scores = similarities_to(points, prototypes)
    return Regions(prototypes, _prices(scores))


def assign(
    U: Float[np.ndarray, "n d"], V: Float[np.ndarray, "n d"], regions: Regions
) -> Int32[np.ndarray, "n"]:
    """The region of each pair."""
    points = normalize_rows(U.astype(np.float32, copy=False) + V.astype(np.float32, copy=False))
    scores = similarities_to(points, regions.prototypes) - regions.prices
    return scores.argmax(axis=1).astype(np.int32)


def similarities_to(
    points: Float32[np.ndarray, "n d"], prototypes: Float32[np.ndarray, "r p d"]
) -> Float32[np.ndarray, "n r"]:
    """How similar each point is to the nearest prototype of each region."""
    num_regions, num_prototypes, dim = prototypes.shape
    columns = prototypes.reshape(-1, dim).T
    scores = np.empty((len(points), num_regions), np.float32)
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        products = points[rows] @ columns
        scores[rows] = products.reshape(-1, num_regions, num_prototypes).max(axis=2)
    return scores


def _centroids(
    points: Float32[np.ndarray, "n d"], rng: np.random.Generator
) -> Float32[np.ndarray, "p d"]:
    """Prototypes of a group: centroids of clusters of equal size."""
    num_prototypes = max(1, min(MOST_PROTOTYPES, len(points) // _PAIRS_PER_PROTOTYPE))
    sizes = np.full(num_prototypes, len(points) // num_prototypes)
    sizes[: len(points) % num_prototypes] += 1
    cluster_of = balanced_clusters(points, sizes, rng, num_balanced_steps=0)
    order = np.argsort(cluster_of, kind="stable")
    sums = np.add.reduceat(points[order], np.cumsum(sizes) - sizes)
    return normalize_rows(sums)


def _prices(scores: Float32[np.ndarray, "n r"]) -> Float32[np.ndarray, "r"]:
    """Prices at which the regions take about equally many: what is too full gets dearer, in ever smaller steps."""
    num_regions = scores.shape[1]
    prices = np.zeros(num_regions, np.float32)
    step = _FIRST_STEP
    for _ in range(_PRICE_STEPS):
        counts = np.bincount((scores - prices).argmax(axis=1), minlength=num_regions)
        prices += (step * (counts * num_regions / len(scores) - 1)).astype(np.float32)
        step *= _DECAY
    return prices
