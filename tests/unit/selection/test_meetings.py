from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.meetings import arrange_meetings
from selection.refine import places
from tests.unit.selection.test_spectral import random_graph

NUM_TRIES = 3


def setting(num_batches, batch_size, num_links, seed):
    graph = random_graph(num_batches * batch_size, num_links, seed).astype(np.float32)
    batches = np.random.default_rng(seed).permutation(graph.shape[0]).reshape(num_batches, -1)
    return graph, places(batches)[0]


def wishes_of(meetings, batch_of):
    """(node, batch it wishes to move to), as a set."""
    found = set()
    for meeting, (a, b) in enumerate(zip(meetings.first_batch, meetings.second_batch, strict=True)):
        start, stop = meetings.first_wish[meeting : meeting + 2]
        for node in meetings.nodes[start:stop]:
            assert batch_of[node] in (a, b)
            found.add((int(node), int(a + b - batch_of[node])))
    assert len(found) == len(meetings.nodes)
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 6), st.integers(0, 300), st.integers(0, 99))
def test_every_node_meets_the_batches_it_has_most_affinity_to(
    num_batches, batch_size, num_links, seed
):
    graph, batch_of = setting(num_batches, batch_size, num_links, seed)
    meetings = arrange_meetings(graph, batch_of, num_batches, NUM_TRIES)
    dense = graph.toarray()
    expected = set()
    for node in range(len(batch_of)):
        sums = np.array([dense[node, batch_of == batch].sum() for batch in range(num_batches)])
        sums[batch_of[node]] = 0
        strongest = np.argsort(-sums, kind="stable")[:NUM_TRIES]
        expected |= {(node, int(batch)) for batch in strongest if sums[batch] > 0}
    assert wishes_of(meetings, batch_of) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2000), st.integers(0, 99))
def test_no_batch_meets_two_others_in_one_round(num_batches, num_links, seed):
    graph, batch_of = setting(num_batches, 4, num_links, seed)
    meetings = arrange_meetings(graph, batch_of, num_batches, NUM_TRIES)
    assert meetings.round_starts[-1] == len(meetings.first_batch)
    for start, stop in zip(meetings.round_starts, meetings.round_starts[1:], strict=False):
        present = np.concatenate(
            [meetings.first_batch[start:stop], meetings.second_batch[start:stop]]
        )
        assert len(present)
        assert len(np.unique(present)) == len(present)


def test_the_number_of_threads_changes_nothing():
    graph, batch_of = setting(30, 8, 3000, 0)
    alone = arrange_meetings(graph, batch_of, 30, NUM_TRIES)
    with ThreadPoolExecutor(3) as pool:
        together = arrange_meetings(graph, batch_of, 30, NUM_TRIES, pool)
    for name, array in vars(alone).items():
        np.testing.assert_array_equal(array, vars(together)[name], err_msg=name)


def test_the_strongest_meet_first():
    graph, batch_of = setting(20, 6, 2500, 1)
    meetings = arrange_meetings(graph, batch_of, 20, NUM_TRIES)
    dense = graph.toarray()

    def strength(meeting):
        a, b = meetings.first_batch[meeting], meetings.second_batch[meeting]
        return dense[batch_of == a][:, batch_of == b].sum()

    strengths = [strength(meeting) for meeting in range(len(meetings.first_batch))]
    half = len(strengths) // 2
    assert np.mean(strengths[:half]) > 1.2 * np.mean(strengths[half:])
