"""Who takes part in a schedule, and how batches are put together from groups and random pairs.

Every pair is scheduled at most once. N mod B pairs are left over, chosen at random among those that were not left over
in the round before, so that no pair is left out twice in a row (unless N < 2B). Of pairs that must not meet, more may
be left over than that; those that were left over before come first there, too.

A batch is put together from groups that the strategy chose and from pairs that were drawn at random, as
`selection.hardness` says. Pairs that must not meet are moved apart twice: between groups, as long as related groups are
near each other, and between batches, where groups and random pairs come together by chance.

Legend: n pairs, m batches, b batch size, c groups, k group size, r left over.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from selection.duplicates import drop_surplus
from selection.errors import NoBatchError
from selection.forbidden import Forbidden, rename
from selection.guard import separate
from selection.problem import Problem, Strategy


@dataclass(frozen=True)
class Roster:
    """Who takes part."""

    chosen: Int64[np.ndarray, "chosen"]
    """Pairs of which the strategy forms groups, ascending."""

    drawn: Int64[np.ndarray, "drawn"]
    """Pairs that were drawn at random, in random order."""

    num_random: int
    """How many of those a batch takes."""

    numbers: Int32[np.ndarray, "n 2"]
    """Shared contents of all pairs, see `selection.duplicates`."""

    previous_leftover: Int64[np.ndarray, "r"]
    """Pairs that are scheduled before others."""

    num_held_back: int
    """Pairs that could only meet duplicates, and do not take part."""


def take_part(
    numbers: Int32[np.ndarray, "n 2"],
    batch_size: int,
    num_random: int,
    previous_leftover: Int64[np.ndarray, "r"],
    rng: np.random.Generator,
) -> Roster:
    """Say who takes part, and draw the random pairs.

    Args:
        numbers: shared contents of all pairs.
        batch_size: B.
        num_random: how many pairs of a batch are drawn at random.
        previous_leftover: pairs that are scheduled before others.
        rng: draws.

    Raises:
        NoBatchError: there are fewer pairs than one batch, or too few when duplicates must not meet.
    """
    num_pairs = len(numbers)
    nodes, _ = hold_back(num_pairs, batch_size, previous_leftover, rng, numbers)
    drawn = rng.choice(nodes, num_random * (len(nodes) // batch_size), replace=False)
    num_held_back = num_pairs // batch_size * batch_size - len(nodes)
    chosen = without(nodes, drawn)
    return Roster(chosen, drawn, num_random, numbers, previous_leftover, num_held_back)


def take_all(numbers: Int32[np.ndarray, "n 2"]) -> Roster:
    """Everybody, for a strategy that takes whoever there is; `numbers` as for `take_part`."""
    nobody = np.empty(0, np.int64)
    return Roster(np.arange(len(numbers)), nobody, 0, numbers, nobody, 0)


def hold_back(
    num_pairs: int,
    batch_size: int,
    previous_leftover: Int64[np.ndarray, "r"],
    rng: np.random.Generator,
    numbers: Int32[np.ndarray, "n 2"] | None = None,
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "r"]]:
    """Divide the pair ids into those that are scheduled, a multiple of B, and N mod B that are left over.

    Args:
        num_pairs: N.
        batch_size: B.
        previous_leftover: ids that are scheduled before others.
        rng: chooses.
        numbers: shared contents; of pairs of one content no more are scheduled than there are batches.

    Raises:
        NoBatchError: there are fewer pairs than one batch, or too few when duplicates must not meet.
    """
    if num_pairs < batch_size:
        raise NoBatchError(
            f"batch_size is {batch_size}, but there are only {num_pairs} pairs; "
            "take a smaller batch or more pairs"
        )
    nodes = np.arange(num_pairs)
    if numbers is not None and (numbers >= 0).any():
        others = rng.permutation(without(nodes, previous_leftover))
        # numpy permutes an empty array in place, and Ray's are read-only
        first = rng.permutation(previous_leftover.copy())
        by_right = np.concatenate([first, others])
        nodes = np.sort(drop_surplus(by_right, numbers, batch_size))
        if len(nodes) < batch_size:
            raise NoBatchError(_no_batch(num_pairs, batch_size))
    may_rest = without(nodes, previous_leftover)
    num_leftover = len(nodes) % batch_size
    resting = rng.choice(may_rest, min(num_leftover, len(may_rest)), replace=False)
    if len(resting) < num_leftover:
        # as after a round of larger batches, or one that held many back
        others = without(nodes, may_rest)
        again = rng.choice(others, num_leftover - len(resting), replace=False)
        resting = np.concatenate([resting, again])
    nodes = without(nodes, resting)
    return nodes, without(np.arange(num_pairs), nodes)


@dataclass(frozen=True)
class Assembly:
    """Batches, and what the guard did to them."""

    groups: Int64[np.ndarray, "c k"]
    """The nodes of the strategy's groups, after some were moved between those."""

    batches: Int64[np.ndarray, "m b"]

    num_moved: int
    """Pairs that were moved out of the group or batch where they were put."""

    num_held_back: int
    """Pairs for which no batch was left."""


def assemble(
    problem: Problem, strategy: Strategy, roster: Roster, rng: np.random.Generator
) -> Assembly:
    """Put together batches in which no two pairs are that must not meet.

    Args:
        problem: what the strategy sees; its nodes are the chosen pairs.
        strategy: forms the groups.
        roster: who takes part.
        rng: decides which groups make a batch.

    Raises:
        NoBatchError: not one batch can be formed.
    """
    nodes, size = roster.chosen, problem.batch_size
    groups = strategy(problem) if len(nodes) else nodes.reshape(0, 1)
    forbidden = problem.forbidden
    with problem.timed("guard_s"):
        first = np.flatnonzero(np.isin(nodes, roster.previous_leftover))
        apart = separate(groups, forbidden, first)
        packed = pack(
            nodes[apart.batches],
            roster.drawn,
            size,
            roster.num_random,
            roster.previous_leftover,
            rng,
        )
        everywhere = Forbidden(roster.numbers, rename(forbidden.links, nodes, len(roster.numbers)))
        final = separate(packed, everywhere, roster.previous_leftover)
    if not len(final.batches):
        raise NoBatchError(_no_batch(len(roster.numbers), size))
    num_chosen = size - roster.num_random
    num_planned = groups.size // num_chosen if num_chosen else len(roster.drawn) // size
    num_lost = (num_planned - len(final.batches)) * size
    return Assembly(apart.batches, final.batches, apart.num_moved + final.num_moved, num_lost)


def pack(
    groups: Int64[np.ndarray, "c k"],
    drawn: Int64[np.ndarray, "r"],
    batch_size: int,
    num_random: int,
    previous_leftover: Int64[np.ndarray, "r"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, "m b"]:
    """Put together batches of groups that are taken at random, and of `num_random` of the `drawn` ids each.

    When the strategy left nodes out there are fewer batches, and some of `drawn` find no place; groups that are fewer
    than a batch takes find none either. Those of `previous_leftover` are the last to find none.
    """
    num_chosen = batch_size - num_random
    if not num_chosen:
        return drawn.reshape(-1, batch_size)
    num_groups = len(groups) - len(groups) % (num_chosen // groups.shape[1])
    groups = _those_with_a_place(rng.permutation(groups, axis=0), num_groups, previous_leftover)
    chosen = groups.reshape(-1, num_chosen)
    extra = _those_with_a_place(drawn, len(chosen) * num_random, previous_leftover)
    return np.concatenate([chosen, extra.reshape(len(chosen), num_random)], axis=1)


def without(
    ids: Int64[np.ndarray, "all"], others: Int64[np.ndarray, "r"]
) -> Int64[np.ndarray, "n"]:
    """Those of `ids` that are not among the others, in their order.

    `np.setdiff1d` looks for repeated ids first, which takes 80 times as long for 10^6 (benchmarks/NOTES.md).
    """
    return ids[~np.isin(ids, others)]


def _those_with_a_place(
    rows: np.ndarray, num_places: int, previous_leftover: Int64[np.ndarray, "r"]
) -> np.ndarray:
    """As many rows, or ids, as there are places, in their order; those with an earlier leftover before others."""
    comes_first = np.isin(rows, previous_leftover).any(axis=tuple(range(1, rows.ndim)))
    return rows[np.sort(np.argsort(~comes_first, kind="stable")[:num_places])]


def _no_batch(num_pairs: int, batch_size: int) -> str:
    return (
        f"batch_size is {batch_size}, but among {num_pairs} pairs no so many may share a batch, as the others are "
        "duplicates or false negatives of each other; take a smaller batch, remove duplicates, or loosen "
        "selection.hardness.separate_duplicates or margin"
    )
