"""What a generated data set says about its own pairs, and what that makes of batches.

Legend: n pairs, m batches, b pairs of a batch.
"""

import json

import numpy as np
from jaxtyping import Int64

from selection.errors import ArtifactError
from trainer.encoders import PairReader

_CHUNK_PAIRS = 4096


def read_truth(pairs: PairReader, name: str = "meaning") -> Int64[np.ndarray, "n"]:
    """One number of the `.json` part of every pair, in the order of the ids.

    Args:
        pairs: a part of a generated data set.
        name: "meaning", the same for pairs that are false negatives of each other, or "class", the same for those
            that may be confusable.

    Raises:
        ArtifactError: a pair does not have it.
    """
    numbers = np.empty(len(pairs), np.int64)
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        ids = np.arange(start, min(start + _CHUNK_PAIRS, len(pairs)))
        for number, sample in zip(ids, pairs.read(ids), strict=True):
            found = _number(sample.get("json", b""), name)
            if found is None:
                raise ArtifactError(
                    f"sample {sample['__key__']!r}: its json part holds no number {name!r}; "
                    "take a data set of `coterie dataset image-text`"
                )
            numbers[number] = found
    return numbers


def _number(text: bytes, name: str) -> int | None:
    """What an object in JSON says; None if it says nothing, or the text is none."""
    try:
        truth = json.loads(text)
    except ValueError:
        return None
    found = truth.get(name) if isinstance(truth, dict) else None
    return found if isinstance(found, int) else None


def num_false_negatives(
    batches: Int64[np.ndarray, "m b"], meanings: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "m"]:
    """How many pairs of pairs in each batch mean the same, so that each is taken for a negative of the other."""
    in_batch = np.sort(meanings[batches], axis=1)
    # A meaning that occurs c times makes c (c - 1) / 2 of them: its k-th occurrence adds those with the k before it.
    before = np.zeros_like(in_batch)
    for column in range(1, in_batch.shape[1]):
        is_same = in_batch[:, column] == in_batch[:, column - 1]
        before[:, column] = np.where(is_same, before[:, column - 1] + 1, 0)
    return before.sum(axis=1)
