"""A few batches to look at: the pairs that were put together, and how easily they are confused.

They are picked while the embeddings are there, for a run forgets those a round later. Ids and similarities are all that
is kept, some 3 KB a round; whoever shows an example reads what the pairs hold from the shards.

Legend: n pairs, m batches, b batch size, d dimensions, s batches that are drawn, h pairs of a batch that are looked at.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.affinity import weigh
from selection.blocks import Rows
from selection.quality import batch_losses, num_affordable_batches

KINDS = ("hardest", "median", "easiest")
_SAMPLE = 128  # batches, among which these are the hardest, the median and the easiest
_MOST_PAIRS = 512  # of a batch, so that one of 32,768 pairs does not take a matrix of 4 GB
_NUM_CONFUSIONS = 4
_DIGITS = 4


def pick_examples(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The hardest, the median and the easiest of a sample of batches, as values for JSON.

    Args:
        U: first embeddings, on the unit sphere.
        V: second embeddings.
        batches: pair ids by batch.
        temperature: t of the loss.
        rng: draws the sample.

    Returns:
        For each example its `kind`, its number `batch`, its `loss`, and its `confusions`, see `strongest_confusions`.
        Fewer than three where there are fewer batches.
    """
    sample = _draw(batches, rng)
    losses = batch_losses(U, V, batches[sample], temperature)
    hardest_first = np.argsort(-losses, kind="stable")
    kind_of: dict[int, str] = {}
    for kind, place in zip(KINDS, (0, len(sample) // 2, len(sample) - 1), strict=True):
        kind_of.setdefault(int(hardest_first[place]), kind)
    return [
        {
            "kind": kind,
            "batch": int(sample[row]),
            "loss": round(float(losses[row]), _DIGITS),
            "confusions": strongest_confusions(U, V, batches[sample[row]], temperature),
        }
        for row, kind in kind_of.items()
    ]


def pick_examples_of_many(
    read_ids: Callable[[Int64[np.ndarray, "some"]], Rows],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The same, where nobody holds all embeddings: `read_ids` reads the rows of pairs, ids ascending."""
    sample = _draw(batches, rng)
    ids = np.unique(batches[sample])
    rows = read_ids(ids)
    local = np.searchsorted(ids, batches[sample])
    examples = pick_examples(rows.U, rows.V, local, temperature, rng)
    for example in examples:
        example["batch"] = int(sample[example["batch"]])
        for confusion in example["confusions"]:
            confusion["ids"] = ids[confusion["ids"]].tolist()
    return examples


def _draw(batches: Int64[np.ndarray, "m b"], rng: np.random.Generator) -> Int64[np.ndarray, "s"]:
    """Numbers of some batches, ascending: as many as memory allows."""
    num_drawn = min(_SAMPLE, num_affordable_batches(batches.shape[1]))
    return np.sort(rng.permutation(len(batches))[:num_drawn])


def strongest_confusions(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batch: Int64[np.ndarray, "b"],
    temperature: float,
) -> list[dict[str, Any]]:
    """The pairs of a batch that are most easily confused with each other, each pair at most once.

    Returns:
        Strongest first by the loss weight w(k, l) of `selection.affinity`: the `ids` [k, l], what is similar and
        should be, `own` [u_k.v_k, u_l.v_l], and what is similar and should not, `across` [u_k.v_l, u_l.v_k].
    """
    ids = np.asarray(batch[:_MOST_PAIRS])
    u, v = U[ids], V[ids]
    pattern = sp.csr_array(1 - np.eye(len(ids), dtype=np.float32))
    weigh(pattern, u, v, len(batch), temperature)
    similarities = u @ v.T  # [h, h]
    return [
        {
            "ids": ids[[k, l]].tolist(),
            "own": _rounded(similarities[[k, l], [k, l]]),
            "across": _rounded(similarities[[k, l], [l, k]]),
        }
        for k, l in _disjoint(pattern.toarray(), _NUM_CONFUSIONS)  # noqa: E741
    ]


def _disjoint(weights: Float32[np.ndarray, "h h"], count: int) -> list[tuple[int, int]]:
    """At most `count` links, the strongest first, no two of which share an end."""
    rest = np.triu(weights, 1)
    links: list[tuple[int, int]] = []
    while len(links) < count and rest.any():
        k, l = divmod(int(rest.argmax()), len(rest))  # noqa: E741
        links.append((k, l))
        rest[[k, l]], rest[:, [k, l]] = 0, 0
    return links


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
