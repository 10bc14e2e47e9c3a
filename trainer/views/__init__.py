"""Random views: one image or text, seen a little differently every time.

In single-view data (SimCLR) a pair is two views of one thing, and each step of training sees two new ones. What a
view looks like is a function of (seed, round, step, sample, side) and of nothing else: a run that goes on after an
interruption sees the same views, and so does one with another number of ranks or of reader processes.

A sample is known by its key. Two samples with one key, in different shards, get the same random numbers, which does
no harm.
"""

import hashlib

import numpy as np

Draw = tuple[int, ...]
"""What all views of a step have in common: (seed, round, step of the round)."""

FIXED_DRAW: Draw = ()
"""The views that selection and retrieval see, the same ones in every round and for every seed."""


def view_generator(draw: Draw, key: str, side: str) -> np.random.Generator:
    """Random numbers for one view.

    Args:
        draw: of the step.
        key: of the sample.
        side: "u" or "v".
    """
    digest = hashlib.blake2b(repr((draw, key, side)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
