"""Who must not share a batch: pairs that share a content, and pairs that look like false negatives of each other.

A false negative is another pair's v that answers u_k as well as its own. The margin takes v_l for one when

    u_k.v_l > u_k.v_k - margin        or        v_k.u_l > v_k.u_k - margin,

which is `absolute_margin` of sentence-transformers' `mine_hard_negatives` and TopK-MarginPos of NV-Retriever
(arXiv 2407.15831), for both sides. It looks at the neighbours that were found, not at all pairs.

A content of g pairs would be g^2 / 2 links, so it is kept as one number per pair instead.
Memory: 8 bytes per pair, 5 per link and direction.

Legend: n nodes, d dimensions, e links.
"""

from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int32, Int64

from selection.affinity import link, similarities
from selection.duplicates import no_contents
from selection.knn import Neighbors
from selection.threads import in_ranges, thread_pool

LARGEST_CLIQUE = 32
"""Contents of more pairs than this are left out of `Forbidden.repel`, where they would be too many entries."""

_REPULSION = np.float32(-1e4)  # an affinity is at most 4 (2 / t + ln(B - 1)), 850 at t = 0.01


@dataclass(frozen=True)
class Forbidden:
    """Which of the nodes 0 .. n-1 must not share a batch."""

    contents: Int32[np.ndarray, "n 2"]
    """Nodes that share a number must not meet; -1 is no number. See `selection.duplicates.number_contents`."""

    links: sp.csr_array
    """Symmetric [n, n] with sorted indices: ones between nodes that are taken for false negatives."""

    @property
    def is_empty(self) -> bool:
        """Whether any two nodes may meet."""
        return not self.links.nnz and not (self.contents >= 0).any()

    def remove_from(self, affinity: sp.csr_array) -> sp.csr_array:
        """`affinity` without its entries between nodes that must not meet; its own arrays are overwritten."""
        if self.is_empty:
            return affinity
        allowed = np.empty(affinity.nnz, np.bool_)
        find = partial(
            _find_allowed, affinity.indptr, affinity.indices,
            self.contents, self.links.indptr, self.links.indices, allowed,
        )  # fmt: skip
        with thread_pool() as pool:
            in_ranges(find, affinity.shape[0], pool)
        return _keep(affinity, allowed)

    def repel(self, affinity: sp.csr_array) -> sp.csr_array:
        """`affinity` with a large negative weight between nodes that must not meet, for who swaps nodes by weight.

        Without it, a step that maximises the loss pulls near-duplicates together again. Contents of more than
        `LARGEST_CLIQUE` pairs are left out; `selection.guard` sees to them.
        """
        if self.is_empty:
            return affinity
        repelled = self.links.maximum(_cliques(self.contents)).astype(np.float32)
        graph = sp.csr_array(affinity + repelled * _REPULSION)
        graph.sort_indices()
        return graph

    def calm(self, repelling: sp.csr_array) -> sp.csr_array:
        """The affinity of which `repel` made this; its arrays are overwritten."""
        return repelling if self.is_empty else _keep(repelling, repelling.data >= 0)


def nothing_forbidden(num_nodes: int) -> Forbidden:
    """For nodes of which any two may meet."""
    return Forbidden(no_contents(num_nodes), sp.csr_array((num_nodes, num_nodes), dtype=np.int8))


def find_false_negatives(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    neighbors: Neighbors,
    margin: float,
) -> tuple[sp.csr_array, float]:
    """Tell false negatives by the margin.

    Args:
        U: first embeddings, on the unit sphere.
        V: second embeddings.
        neighbors: those that were found.
        margin: how much more similar than others the own partner must be.

    Returns:
        `Forbidden.links`, and their share of all links between neighbours.
    """
    with thread_pool() as pool:
        graph = link(neighbors, pool)
        is_false = np.zeros(graph.nnz, np.bool_)
        judge = partial(
            _judge_upper, graph.indptr, graph.indices, U, V, np.einsum("nd,nd->n", U, V),
            np.float32(margin), is_false,
        )  # fmt: skip
        in_ranges(judge, len(U), pool)
    rows = np.repeat(np.arange(len(U), dtype=np.int32), np.diff(graph.indptr))
    links = _symmetric(rows[is_false], graph.indices[is_false], len(U))
    return links, links.nnz / max(1, graph.nnz)


def rename(links: sp.csr_array, nodes: Int64[np.ndarray, "n"], num_nodes: int) -> sp.csr_array:
    """The same links where node i is called `nodes[i]`, one of 0 .. num_nodes - 1."""
    rows = np.repeat(nodes, np.diff(links.indptr))
    graph = sp.coo_array((links.data, (rows, nodes[links.indices])), shape=(num_nodes, num_nodes))
    return graph.tocsr()


def _symmetric(
    rows: Int32[np.ndarray, "e"], columns: Int32[np.ndarray, "e"], num_nodes: int
) -> sp.csr_array:
    """Ones at the given places and at their mirror images."""
    places = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    ones = np.ones(2 * len(rows), np.int8)
    graph = sp.coo_array((ones, places), shape=(num_nodes, num_nodes)).tocsr()
    graph.data[:] = 1  # two nodes may share both sides
    return graph


def _cliques(contents: Int32[np.ndarray, "n 2"]) -> sp.csr_array:
    """Links between all nodes of one content, for contents of at most `LARGEST_CLIQUE` nodes."""
    nodes, sides = np.nonzero(contents >= 0)
    numbers = contents[nodes, sides]
    small = np.bincount(numbers, minlength=1)[numbers] <= LARGEST_CLIQUE
    order = np.argsort(numbers[small], kind="stable")
    nodes, numbers = nodes[small][order].astype(np.int32), numbers[small][order]
    rows, columns = [], []
    for distance in range(1, LARGEST_CLIQUE):
        same = numbers[distance:] == numbers[:-distance]
        rows.append(nodes[:-distance][same])
        columns.append(nodes[distance:][same])
    return _symmetric(np.concatenate(rows), np.concatenate(columns), len(contents))


@numba.njit(nogil=True, fastmath=True, cache=True)
def _judge_upper(indptr, indices, U, V, positives, margin, is_false, start, stop):
    """Whether k and l are false negatives, for k < l: each two nodes are judged once, so both sides agree."""
    for k in range(start, stop):
        for entry in range(indptr[k], indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            if l <= k:
                continue
            kl, lk = similarities(U, V, k, l)
            is_false[entry] = max(kl, lk) > min(positives[k], positives[l]) - margin


@numba.njit(nogil=True, cache=True)
def _find_allowed(indptr, indices, contents, link_starts, link_ids, allowed, start, stop):
    """allowed[entry] = whether the two nodes of an entry may meet."""
    for k in range(start, stop):
        rivals = link_ids[link_starts[k] : link_starts[k + 1]]
        for entry in range(indptr[k], indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            place = np.searchsorted(rivals, l)
            is_linked = place < len(rivals) and rivals[place] == l
            allowed[entry] = not (is_linked or _share(contents[k], contents[l]))


def _keep(graph: sp.csr_array, kept: Bool[np.ndarray, "nnz"]) -> sp.csr_array:
    """The entries that are kept, moved together: a copy would be the largest array of a selection once more."""
    num_kept = _move_together(graph.indptr, graph.indices, graph.data, kept)
    arrays = graph.data[:num_kept], graph.indices[:num_kept], graph.indptr
    return sp.csr_array(arrays, shape=graph.shape)


@numba.njit(nogil=True, cache=True)
def _move_together(indptr, indices, data, kept):
    """In place; how many entries are left."""
    place = entry = 0
    for row in range(len(indptr) - 1):
        while entry < indptr[row + 1]:
            indices[place], data[place] = indices[entry], data[entry]
            place += kept[entry]
            entry += 1
        indptr[row + 1] = place
    return place


@numba.njit(cache=True)
def _share(first, second):
    """Whether two nodes hold a content in common."""
    a, b = first
    return (a >= 0 and (a == second[0] or a == second[1])) or (
        b >= 0 and (b == second[0] or b == second[1])
    )
