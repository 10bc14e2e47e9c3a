import numpy as np
import pytest

from launcher.studies.designs import all_batches
from launcher.studies.free_embeddings import contrastive_loss, to_sphere
from launcher.studies.synthetic.methods import METHODS, greedy_matching, hardest_pair, pair_losses
from selection.strategies.paper import dense_weights

NUM_RUNS, NUM_PAIRS = 3, 6
DISJOINT = ["random", "fixed", "paper_spectral", "spectral", "greedy"]


@pytest.fixture
def embeddings():
    return to_sphere(np.random.default_rng(0).standard_normal((2, NUM_RUNS, NUM_PAIRS, 4)))


@pytest.mark.parametrize("name", DISJOINT)
def test_an_epoch_uses_every_pair_once(embeddings, name):
    batches = METHODS[name].choose(embeddings, 0, 1)
    assert batches.shape == (NUM_RUNS, NUM_PAIRS // 2, 1, 2)
    for run in batches:
        assert sorted(run.ravel()) == list(range(NUM_PAIRS))


def test_full_and_all_are_one_update(embeddings):
    assert METHODS["full"].choose(embeddings, 0, 1).shape == (NUM_RUNS, 1, 1, NUM_PAIRS)
    assert METHODS["all"].choose(embeddings, 0, 1).shape == (NUM_RUNS, 1, 15, 2)


def test_pair_losses_are_those_of_batches_and_half_the_affinity(embeddings):
    U, V = embeddings
    losses = pair_losses(embeddings)
    for i, j in all_batches(NUM_PAIRS, 2):
        batches = np.broadcast_to([i, j], (NUM_RUNS, 1, 2))
        expected = contrastive_loss(U @ V.swapaxes(1, 2), batches)
        np.testing.assert_allclose(losses[:, i, j], expected)
    upper = np.triu_indices(NUM_PAIRS, 1)
    for run in range(NUM_RUNS):
        weights = dense_weights(U[run], V[run], 2, 1.0)
        np.testing.assert_allclose(losses[run][upper], weights[upper] / 2)


def test_hardest_pair_has_the_largest_loss(embeddings):
    losses = pair_losses(embeddings)
    for run, ((pair,),) in enumerate(hardest_pair(embeddings, 0, 1)):
        assert losses[run][tuple(pair)] == losses[run].max()


def test_greedy_matching_against_a_slow_one(embeddings):
    for run, batches in enumerate(greedy_matching(embeddings, 0, 1)):
        losses, free = pair_losses(embeddings)[run], set(range(NUM_PAIRS))
        for (pair,) in batches:
            best = max((losses[i, j], i, j) for i in free for j in free if i != j)
            assert losses[tuple(pair)] == best[0]
            free -= set(pair.tolist())


def test_random_batches_differ_by_run_and_epoch(embeddings):
    first, second = (METHODS["random"].choose(embeddings, 0, epoch) for epoch in (1, 2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
