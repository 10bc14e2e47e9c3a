"""Near-duplicate texts by MinHash and banding.

The similarity of two texts is the Jaccard index of their sets of token shingles. The share of
positions at which two MinHash signatures agree estimates it without bias, with a standard
deviation of at most 0.5 / sqrt(NUM_HASHES) = 0.046. Only texts that agree on a whole band are
compared: with 20 bands of 6, a pair at similarity 0.8 is found with probability 0.998, one at 0.5
is compared with probability 0.27.

Everything is a fixed function of the text: no random state, the same on every machine and Python.
Time is O(shingles x NUM_HASHES) per signature and about linear in the number of texts for the
rest; memory is 480 bytes per text.

Shapes: `n` texts, `t` tokens, `h` = NUM_HASHES.
Reference: Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.
"""

import re
import zlib

import numpy as np
from jaxtyping import Bool, UInt32, UInt64

NUM_BANDS = 20
NUM_HASHES = 6 * NUM_BANDS

_SHINGLE_TOKENS = 3
_TOKEN = re.compile(r"\w+|[^\w\s]")
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(values: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """A bijection that spreads every input bit (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# Odd, so that each product below is a bijection of 64 bits: a permutation of all possible shingles.
_MULTIPLIERS = _mix(np.arange(1, NUM_HASHES + 1, dtype=np.uint64)) | np.uint64(1)


def minhash(text: str) -> UInt32[np.ndarray, "h"]:
    """Summarise the shingles of a text.

    Args:
        text: any text; white space only separates tokens.

    Returns:
        Its signature: equal for equal token sequences.
    """
    tokens = np.array([zlib.crc32(token.encode()) for token in _TOKEN.findall(text)], np.uint64)
    padded = np.pad(tokens, (0, max(0, _SHINGLE_TOKENS - len(tokens))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SHINGLE_TOKENS)
    shingles = np.zeros(len(windows), np.uint64)
    for column in range(_SHINGLE_TOKENS):
        shingles = _mix(shingles + windows[:, column] + np.uint64(_GOLDEN))
    # The high half of a product depends on all bits of the shingle.
    products = np.unique(shingles)[:, None] * _MULTIPLIERS  # (shingles, h)
    return (products.min(axis=0) >> np.uint64(32)).astype(np.uint32)


def first_of_each(signatures: UInt32[np.ndarray, "n h"], threshold: float) -> Bool[np.ndarray, "n"]:
    """Choose texts, in order, that are not near-duplicates of one chosen before.

    Args:
        signatures: one `minhash` a row; the order decides which of two near-duplicates stays.
        threshold: estimated Jaccard similarity from which two texts count as near-duplicates.

    Returns:
        True where the text stays.
    """
    keys = _band_keys(signatures)
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    shared = counts[inverse.reshape(keys.shape)] > 1  # (n, bands); most texts share no band
    kept = np.ones(len(signatures), bool)
    kept_with: dict[int, list[int]] = {}
    for row in np.flatnonzero(shared.any(axis=1)).tolist():
        bands = keys[row, shared[row]].tolist()
        candidates = sorted({other for band in bands for other in kept_with.get(band, ())})
        agreement = (signatures[candidates] == signatures[row]).mean(axis=1)
        if (agreement >= threshold).any():
            kept[row] = False
            continue
        for band in bands:
            kept_with.setdefault(band, []).append(row)
    return kept


def _band_keys(signatures: UInt32[np.ndarray, "n h"]) -> UInt64[np.ndarray, "n bands"]:
    """One number per band, which two texts share when they agree on the whole band."""
    bands = signatures.reshape(len(signatures), NUM_BANDS, -1).astype(np.uint64)
    keys = np.broadcast_to(np.arange(NUM_BANDS, dtype=np.uint64), bands.shape[:2])
    for column in range(bands.shape[2]):
        keys = _mix(keys + bands[:, :, column] + np.uint64(_GOLDEN))
    return keys
