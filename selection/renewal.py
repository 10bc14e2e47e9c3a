"""How much of the round before is in a schedule again.

Two rounds are compared as two ways to divide the pairs, so that the order and numbering of batches do not matter: when
a batch is sorted by the batches of the round before, those who were together then are a run. O(N log B), 50 bytes per
pair.

Legend: n pairs, m batches of size b; m0, b0 in the round before.
"""

import numpy as np
from jaxtyping import Int64

from selection.mending import batch_of_each


def measure_renewal(
    batches: Int64[np.ndarray, "m b"],
    previous_batches: Int64[np.ndarray, "m0 b0"] | None,
    num_pairs: int,
) -> dict[str, float]:
    """How much of the round before is in the batches again; order and numbering of batches do not matter.

    Args:
        batches: those of this round.
        previous_batches: those of the round before, of the same pairs; None when there was none.
        num_pairs: n.

    Returns:
        `kept_mates`, the share of its batch mates that a pair had in the round before as well, mean over pairs;
        `random_kept_mates`, the same if either round had drawn its batches at random; `changed_pairs`, the share of
        pairs that kept fewer than half of their mates. Nothing when there was no round before, or when pairs are in
        several batches.
    """
    if previous_batches is None or max(batches.size, previous_batches.size) > num_pairs:
        return {}
    before = batch_of_each(previous_batches, num_pairs)
    num_mates = max(1, batches.shape[1] - 1)
    kept = _others_in_run(np.sort(before[batches], axis=1))
    met = previous_batches.size * (previous_batches.shape[1] - 1)
    return {
        "kept_mates": float(kept.mean() / num_mates),
        "random_kept_mates": met / max(1, num_pairs * (num_pairs - 1)),
        "changed_pairs": float((2 * kept < num_mates).mean()),
    }


def _others_in_run(rows: Int64[np.ndarray, "m b"]) -> Int64[np.ndarray, "m b"]:
    """How many other entries of its row equal an entry; rows are sorted, and -1 equals nothing."""
    is_first = np.ones(rows.shape, bool)
    is_first[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=rows.size)
    others = np.repeat(lengths - 1, lengths).reshape(rows.shape)
    return np.where(rows < 0, 0, others)
