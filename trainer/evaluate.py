"""Retrieval: how high each embedding ranks its own partner in the whole pool.

The rank of pair i is one plus the number of others that are at least as similar: a tie counts against the model.
Embeddings that have all collapsed into one point thus score 0 rather than luck, and a pool with duplicates is scored
from below. Similarities within `TIE_TOLERANCE` are ties, so that the rounding of a matrix product decides nothing.

Cost: 4 N M d operations. Memory: the pool in float32, where there are distractors a copy of all u and v, and one block
of rows against the pool, `_BLOCK_BYTES`; never N x N.

The paper judges single-view models in two ways (section 5.2). Over all images, each view looks for the other view of
its image: `retrieval_metrics`, whose recall at 1 is the paper's R@1. Within one image, each view looks for the other
view of the same corruption among all corruptions of that image: `corrupted_retrieval`.

Legend: n pairs, m rows of the pool, d dims, c rows of a block, p images, k corruptions of each.
"""

import numpy as np
from jaxtyping import Float, Int64

TIE_TOLERANCE = 1e-6
RECALL_AT = (1, 5, 10)

_BLOCK_BYTES = 256 << 20


def retrieval_metrics(
    U: Float[np.ndarray, "n d"],
    V: Float[np.ndarray, "n d"],
    distractors: tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m d"]] | None = None,
) -> dict[str, float]:
    """Recall and mean reciprocal rank in both directions.

    Args:
        U: embeddings on the unit sphere.
        V: their partners, row by row.
        distractors: u and v of pairs that are in the pools, but do not look for anything.

    Returns:
        `u_to_v/recall_at_1`, `_5`, `_10` and `u_to_v/mrr`, where u looks for its v, and the same for `v_to_u`.
    """
    metrics = {}
    pool_u, pool_v = U, V
    if distractors is not None:
        pool_u, pool_v = (
            np.concatenate([own, more]) for own, more in zip((U, V), distractors, strict=True)
        )
    for name, queries, pool in (("u_to_v", U, pool_v), ("v_to_u", V, pool_u)):
        ranks = partner_ranks(queries, pool)
        for k in RECALL_AT:
            metrics[f"{name}/recall_at_{k}"] = float((ranks <= k).mean())
        metrics[f"{name}/mrr"] = float((1 / ranks).mean())
    return metrics


def partner_ranks(
    queries: Float[np.ndarray, "n d"],
    pool: Float[np.ndarray, "m d"],
    block_bytes: int = _BLOCK_BYTES,
) -> Int64[np.ndarray, "n"]:
    """Rank of row i of the pool for query i, 1 being best; ties count against it, and so do rows beyond n."""
    queries, pool = queries.astype(np.float32, copy=False), pool.astype(np.float32, copy=False)
    block = max(1, block_bytes // (pool.itemsize * len(pool)))
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        similarities = queries[rows] @ pool.T  # (c, m)
        own = similarities[np.arange(len(similarities)), start + np.arange(len(similarities))]
        # The partner itself is among those counted, hence no "one plus".
        ranks[rows] = (similarities >= own[:, None] - TIE_TOLERANCE).sum(axis=1)
    return ranks


def corrupted_retrieval(
    U: Float[np.ndarray, "pk d"], V: Float[np.ndarray, "pk d"], num_corruptions: int
) -> dict[str, float]:
    """How often a view of a corrupted image finds the other view of the same corruption.

    The pool is all corruptions of one image, so a model that sees only what the image shows is at chance, 1 / k.

    Args:
        U: embeddings on the unit sphere of one view each, the k corruptions of an image one after the other.
        V: of the other view, in the same order.
        num_corruptions: k.

    Returns:
        `u_to_v/recall_at_1` and `v_to_u/recall_at_1`, means over all images and corruptions, and `chance`.

    Raises:
        ValueError: the rows do not make whole pools.
    """
    if len(U) % num_corruptions:
        raise ValueError(f"{len(U)} embeddings do not make pools of {num_corruptions}")
    pools_u, pools_v = (
        x.astype(np.float32).reshape(-1, num_corruptions, x.shape[1]) for x in (U, V)
    )
    similarities = pools_u @ pools_v.transpose(0, 2, 1)  # similarities: (p, k, k)
    own = np.diagonal(similarities, axis1=1, axis2=2)[:, :, None]
    recalls = {"chance": 1 / num_corruptions}
    for name, by_query in (("u_to_v", similarities), ("v_to_u", similarities.transpose(0, 2, 1))):
        ranks = (by_query >= own - TIE_TOLERANCE).sum(axis=2)
        recalls[f"{name}/recall_at_1"] = float((ranks == 1).mean())
    return recalls
