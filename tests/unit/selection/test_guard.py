import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.forbidden import Forbidden, nothing_forbidden
from selection.guard import separate

NOTHING = np.empty(0, np.int64)


def links_between(pairs, num_nodes):
    """A symmetric pattern, as `Forbidden` has it."""
    graph = sp.lil_array((num_nodes, num_nodes), dtype=np.int8)
    for k, l in pairs:  # noqa: E741
        graph[k, l] = graph[l, k] = 1
    return sp.csr_array(graph.tocsr())


def forbid(num_nodes, contents=(), pairs=()):
    """`Forbidden` of a list of (node, side, content), and of pairs."""
    numbers = np.full((num_nodes, 2), -1, np.int32)
    for node, side, content in contents:
        numbers[node, side] = content
    return Forbidden(numbers, links_between(pairs, num_nodes))


def rivals_in(batch, forbidden):
    """Every two nodes of a batch that must not meet, found by looking at all of them."""
    links = forbidden.links.toarray()
    held = [{int(c) for c in forbidden.contents[node] if c >= 0} for node in batch]
    return [
        (batch[i], batch[j])
        for i in range(len(batch))
        for j in range(i)
        if links[batch[i], batch[j]] or held[i] & held[j]
    ]


def check(before, separated, forbidden):
    after = separated.batches
    assert after.shape[1] == before.shape[1]
    assert len(after) <= len(before)
    assert len(np.unique(after)) == after.size
    assert np.isin(after, before).all()
    assert not any(rivals_in(batch, forbidden) for batch in after)


@st.composite
def rooms(draw):
    """Batches, what is forbidden in them, possibly more than can be heeded, and who was left over before."""
    num_batches, size = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    num_nodes = num_batches * size + draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    num_contents = draw(st.integers(1, 40))
    numbers = rng.integers(0, num_contents, (num_nodes, 2)).astype(np.int32)
    numbers[rng.random((num_nodes, 2)) < draw(st.sampled_from([0, 0.3, 0.9, 1]))] = -1
    numbers[numbers[:, 0] == numbers[:, 1], 1] = -1
    pairs = rng.integers(0, num_nodes, (draw(st.integers(0, 60)), 2))
    links = links_between(pairs[pairs[:, 0] != pairs[:, 1]], num_nodes)
    batches = rng.permutation(num_nodes)[: num_batches * size].reshape(num_batches, size)
    leftover = rng.permutation(num_nodes)[: draw(st.integers(0, num_nodes))]
    return batches, Forbidden(numbers, links), leftover


@given(rooms())
@settings(max_examples=300, deadline=None)
def test_rivals_never_meet_and_sizes_stay_exact(room):
    batches, forbidden, leftover = room
    given_batches = batches.copy()
    separated = separate(batches, forbidden, leftover)
    check(batches, separated, forbidden)
    np.testing.assert_array_equal(batches, given_batches)
    again = separate(separated.batches, forbidden, leftover)
    np.testing.assert_array_equal(again.batches, separated.batches)
    assert again.num_moved == 0


def test_nothing_changes_where_nothing_is_forbidden():
    batches = np.random.default_rng(0).permutation(60).reshape(12, 5)
    assert separate(batches, nothing_forbidden(60), NOTHING).batches is batches
    elsewhere = forbid(60, contents=[(batches[0, 0], 0, 1), (batches[1, 0], 1, 1)])
    separated = separate(batches, elsewhere, NOTHING)
    np.testing.assert_array_equal(separated.batches, batches)
    assert separated.num_moved == 0


def test_a_rival_trades_places_with_the_next_batch():
    batches = np.arange(40).reshape(10, 4)
    separated = separate(batches, forbid(40, pairs=[(21, 23)]), NOTHING)
    assert separated.num_moved == 2
    changed = np.flatnonzero((separated.batches != batches).any(axis=1))
    assert changed.tolist() == [5, 6]
    assert 23 in separated.batches[6]


def test_a_content_counts_on_either_side():
    forbidden = forbid(8, contents=[(0, 0, 7), (1, 1, 7), (4, 1, 3), (5, 1, 3)])
    separated = separate(np.arange(8).reshape(2, 4), forbidden, NOTHING)
    assert len(separated.batches) == 2
    check(np.arange(8).reshape(2, 4), separated, forbidden)


def test_as_many_of_a_content_as_batches_find_a_place():
    """Ten of each content in ten batches: each batch must hold one of each, and nobody is left over."""
    forbidden = forbid(100, contents=[(node, 0, node // 10) for node in range(0, 60)])
    batches = np.arange(100).reshape(10, 10)
    separated = separate(batches, forbidden, NOTHING)
    assert separated.batches.shape == (10, 10)
    check(batches, separated, forbidden)


def test_batches_are_dissolved_where_places_run_out():
    """Six of a content in four batches: two go, and the batch that they leave cannot be filled."""
    forbidden = forbid(16, contents=[(node, 0, 0) for node in range(6)])
    batches = np.arange(16).reshape(4, 4)
    separated = separate(batches, forbidden, NOTHING)
    assert separated.batches.shape == (3, 4)
    check(batches, separated, forbidden)


def test_nothing_is_left_when_all_are_the_same():
    forbidden = forbid(30, contents=[(node, 0, 0) for node in range(30)])
    assert separate(np.arange(30).reshape(10, 3), forbidden, NOTHING).batches.shape == (0, 3)


def test_who_was_left_over_before_comes_first():
    forbidden = forbid(16, contents=[(node, 0, 0) for node in range(6)])
    batches = np.arange(16).reshape(4, 4)
    for leftover in ([3, 4, 5], [0, 1, 2], [15, 14, 13, 12]):
        separated = separate(batches, forbidden, np.array(leftover))
        assert np.isin(leftover, separated.batches).all()
        check(batches, separated, forbidden)


def test_many_batches_and_large_contents():
    """A fifth of 64,000 pairs in one content of each side, which is nearly as many as there are batches."""
    rng = np.random.default_rng(0)
    batches = rng.permutation(64_000).reshape(1000, 64)
    numbers = np.full((64_000, 2), -1, np.int32)
    numbers[:6400, 0] = np.arange(6400) // 900
    numbers[6400:12_800, 1] = 10 + np.arange(6400) // 900
    forbidden = Forbidden(numbers, links_between([], 64_000))
    separated = separate(batches, forbidden, NOTHING)
    assert separated.batches.shape == batches.shape
    for side in range(2):
        held = np.sort(
            np.where(numbers < 0, -1 - np.arange(128_000).reshape(-1, 2), numbers)[
                separated.batches, side
            ]
        )
        assert (held[:, 1:] != held[:, :-1]).all()
