"""Quality signals of a schedule, for its manifest: how hard its batches are, on which graph, from which embeddings.

Everything is measured on the embeddings that the batches were chosen from, in O(N B) or on a sample, and depends on
(seed, round) alone. A strategy that looks at no graph has no signals of a graph. `selection.alarms` judges the signals.

Legend: n pairs, m batches, b batch size, c groups, k group size, d dimensions, e eigenvalues.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int, Int64

from selection.checks import NORM_TOLERANCE
from selection.mending import affinity_inside, batch_of_each
from selection.problem import Problem, Signals
from selection.renewal import measure_renewal
from selection.threads import one_blas_thread

_MEASURED_BATCHES = 512
_MEASURED_SIMILARITIES = 1 << 25  # so that 512 batches of 4,096 do not cost more than choosing them
_MEASURED_ROWS = 2048


def measure(
    embeddings: tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]],
    batches: Int64[np.ndarray, "m b"],
    problem: Problem,
    groups: Int64[np.ndarray, "c k"],
    previous_batches: Int64[np.ndarray, "m0 b0"] | None,
    rng: np.random.Generator,
) -> Signals:
    """All signals of a schedule.

    Args:
        embeddings: U and V of all pairs.
        batches: what they were divided into.
        problem: what the strategy has seen, and built on the way.
        groups: what the strategy made of it, in the numbering of `problem`.
        previous_batches: those of the round before, if there was one.
        rng: draws the samples.
    """
    with one_blas_thread():  # a thousand small products; handing them over cost 8 s instead of 0.3
        return {
            **measure_losses(*embeddings, batches, problem.temperature, rng),
            **measure_embeddings(*embeddings, rng),
            **measure_graph(problem, groups),
            **measure_renewal(batches, previous_batches, len(embeddings[0])),
        }


def measure_losses(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Loss of the batches beside random ones, on at most 512 of each, fewer when batches are large."""
    batch_size = batches.shape[1]
    few = batches[rng.permutation(len(batches))[: num_affordable_batches(batch_size)]]
    randoms = random_batches(len(U), batch_size, len(few), rng)
    losses = batch_losses(U, V, few, temperature)
    low, high = np.quantile(losses, [0.05, 0.95])
    return {
        "batch_loss": float(losses.mean()),
        "batch_loss_p5": float(low),
        "batch_loss_p95": float(high),
        "random_batch_loss": float(batch_losses(U, V, randoms, temperature).mean()),
        "num_measured_batches": len(few),
    }


def num_affordable_batches(batch_size: int) -> int:
    """How many batches are measured."""
    return min(_MEASURED_BATCHES, max(8, _MEASURED_SIMILARITIES // batch_size**2))


def measure_embeddings(
    U: Float32[np.ndarray, "n d"], V: Float32[np.ndarray, "n d"], rng: np.random.Generator
) -> dict[str, float]:
    """Whether the embeddings lie on the unit sphere and spread over it, on a sample of 2,048 pairs."""
    sample = np.sort(rng.permutation(len(U))[:_MEASURED_ROWS])
    sides = {"u": U[sample], "v": V[sample]}
    off = [np.abs(np.linalg.norm(rows, axis=1) - 1) <= NORM_TOLERANCE for rows in sides.values()]
    ranks = {f"effective_rank_{side}": effective_rank(rows) for side, rows in sides.items()}
    return {"off_sphere_share": float(1 - np.mean(off)), **ranks}  # a NaN is off as well


def measure_graph(problem: Problem, groups: Int64[np.ndarray, "c k"]) -> Signals:
    """What the search, the graph and the strategy say, as far as the strategy asked for them."""
    signals = measure_affinity(problem.affinity, groups) if "affinity" in problem.__dict__ else {}
    return {**signals, **problem.signals}


def measure_affinity(
    affinity: sp.csr_array, groups: Int64[np.ndarray, "c k"]
) -> dict[str, float | str]:
    """How much of the graph is inside the groups, and whether it hangs together; isolated nodes are components too."""
    num_nodes, (num_groups, group_size) = affinity.shape[0], groups.shape
    num_isolated = int((affinity.sum(axis=1) <= 0).sum())
    met = num_groups * group_size * (group_size - 1)
    return {
        "captured_affinity": captured_affinity(affinity, groups),
        "random_captured_affinity": met / max(1, num_nodes * (num_nodes - 1)),
        "num_links": affinity.nnz // 2,
        "num_isolated": num_isolated,
        "isolated_share": num_isolated / num_nodes,
        "num_components": count_components(affinity.indptr, affinity.indices),
    }


@numba.njit(nogil=True, cache=True)
def count_components(indptr, indices):
    """Connected components of a symmetric graph with sorted indices, by union-find.

    scipy's search copies the weights into float64.
    """
    num_components = len(indptr) - 1
    parents = np.arange(num_components)
    for node in range(len(parents)):
        own = _root(parents, node)
        for other in indices[indptr[node] : indptr[node + 1]]:
            if other >= node:  # the link is seen from the other end
                break
            root = _root(parents, other)
            if root != own:
                parents[max(root, own)] = min(root, own)
                own = min(root, own)
                num_components -= 1
    return num_components


@numba.njit(nogil=True, cache=True)
def _root(parents, node):
    """The node that stands for a component; the way there is halved for the next one."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


def batch_losses(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
) -> Float32[np.ndarray, "m"]:
    """InfoNCE of each batch, the mean of both directions, as `trainer.losses.info_nce` computes it."""
    losses = np.empty(len(batches), np.float32)
    for number, batch in enumerate(batches):
        logits = U[batch] @ V[batch].T / np.float32(temperature)  # [b, b]
        positives = logits.diagonal()
        rows = _log_sum_exp(logits, axis=1) - positives
        columns = _log_sum_exp(logits, axis=0) - positives
        losses[number] = (rows.mean() + columns.mean()) / 2
    return losses


def captured_affinity(affinity: sp.csr_array, batches: Int64[np.ndarray, "m b"]) -> float:
    """Share of the affinity that lies inside batches; pairs in no batch capture nothing."""
    return share_inside(affinity, batch_of_each(batches, affinity.shape[0]))


def share_inside(affinity: sp.csr_array, batch_of: Int[np.ndarray, "n"]) -> float:
    """Share of the affinity between nodes of the same batch; -1 is none."""
    inside = affinity_inside(affinity, batch_of)[batch_of >= 0]
    total = affinity.data.sum(dtype=np.float64)
    return float(inside.sum(dtype=np.float64) / total) if total else 0.0


def effective_rank(rows: Float32[np.ndarray, "n d"]) -> float:
    """How many directions the embeddings use: e to the entropy of the eigenvalues of their second moments.

    It is 1 when all rows are equal and d when they are spread evenly. Embeddings that collapse into a cone bring it
    down as well as those that collapse into a plane, which a mean cosine does not notice: the moments are not centred.
    (Roy and Vetterli 2007; of unit rows it is the Vendi score, Friedman and Dieng 2023.) Rows that are not finite are
    left out; it is 0 when nothing is left.
    """
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    moments = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T  # same eigenvalues
    energies = np.linalg.eigvalsh(moments).clip(min=0)
    if not energies.sum():
        return 0.0
    shares = energies[energies > 0] / energies.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def random_batches(
    num_pairs: int, batch_size: int, num_batches: int, rng: np.random.Generator
) -> Int64[np.ndarray, "m b"]:
    """As many random batches as asked for, or as there can be without repetition."""
    num_batches = min(num_batches, num_pairs // batch_size)
    ids = rng.permutation(num_pairs)[: num_batches * batch_size]
    return ids.reshape(-1, batch_size)


def _log_sum_exp(logits: np.ndarray, axis: int) -> np.ndarray:
    top = logits.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(logits - top).sum(axis=axis))
