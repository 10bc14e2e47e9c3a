"""How hard a schedule is, measured on the embeddings that it was made from.

Legend: n pairs, m batches, b batch size, d dimensions.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.problem import Problem

_MEASURED_BATCHES = 512


def measure_losses(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Loss of the batches beside random ones, on at most 512 of each."""
    few = batches[rng.permutation(len(batches))[:_MEASURED_BATCHES]]
    randoms = random_batches(len(U), batches.shape[1], len(few), rng)
    losses = batch_losses(U, V, few, temperature)
    return {
        "batch_loss": float(losses.mean()),
        "random_batch_loss": float(batch_losses(U, V, randoms, temperature).mean()),
    }


def measure_graph(problem: Problem, groups: Int64[np.ndarray, "c k"]) -> dict[str, float]:
    """What the graph says, when the strategy looked at it."""
    if "affinity" not in problem.__dict__:
        return {}
    return {
        "captured_affinity": captured_affinity(problem.affinity, groups),
        "knn_recall": problem.neighbors.recall,
    }


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
    batch_of = np.full(affinity.shape[0], -1)
    batch_of[batches.ravel()] = np.repeat(np.arange(len(batches)), batches.shape[1])
    rows = np.repeat(batch_of, np.diff(affinity.indptr))
    inside = (rows == batch_of[affinity.indices]) & (rows >= 0)
    total = affinity.data.sum(dtype=np.float64)
    return float(affinity.data[inside].sum(dtype=np.float64) / total) if total else 0.0


def random_batches(
    num_pairs: int, batch_size: int, num_batches: int, rng: np.random.Generator
) -> Int64[np.ndarray, "m b"]:
    """As many random batches as asked for, each without repetition."""
    ids = rng.permutation(num_pairs)[: num_batches * batch_size]
    return ids.reshape(-1, batch_size)


def _log_sum_exp(logits: np.ndarray, axis: int) -> np.ndarray:
    top = logits.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(logits - top).sum(axis=axis))
