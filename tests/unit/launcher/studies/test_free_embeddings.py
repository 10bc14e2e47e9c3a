import numpy as np
import pytest
import torch

from launcher.studies.designs import all_batches, full_batch
from launcher.studies.free_embeddings import (
    contrastive_loss,
    free,
    loss_gradient,
    minimise,
    off_diagonal,
    tied,
    to_sphere,
)
from trainer.losses import info_nce

NUM_RUNS, NUM_PAIRS, DIM = 3, 7, 5


@pytest.fixture
def points():
    return np.random.default_rng(0).standard_normal((2, NUM_RUNS, NUM_PAIRS, DIM))


def reference(points, batches):
    """Loss of each run and gradient of their sum, by the trainer's loss and automatic differentiation."""
    tensor = torch.tensor(points, requires_grad=True)
    U, V = torch.nn.functional.normalize(tensor, dim=-1)
    one = torch.ones((), dtype=torch.float64)
    losses = [
        torch.stack([2 * info_nce(u[batch], v[batch], one) for batch in run]).mean()
        for u, v, run in zip(U, V, torch.tensor(batches), strict=True)
    ]
    torch.stack(losses).sum().backward()
    return [loss.item() for loss in losses], tensor.grad.numpy()


@pytest.mark.parametrize(("num_batches", "size"), [(1, 2), (4, 2), (5, 3), (1, NUM_PAIRS)])
def test_twice_the_loss_that_is_trained(points, num_batches, size):
    rng = np.random.default_rng(1)
    batches = np.array(
        [[rng.permutation(NUM_PAIRS)[:size] for _ in range(num_batches)] for _ in range(NUM_RUNS)]
    )
    losses, gradient = reference(points, batches)
    U, V = to_sphere(points)
    np.testing.assert_allclose(contrastive_loss(U @ V.swapaxes(1, 2), batches), losses, rtol=1e-12)
    np.testing.assert_allclose(loss_gradient(points, batches), gradient, atol=1e-14)


def test_runs_do_not_touch_each_other(points):
    batches = np.broadcast_to(all_batches(NUM_PAIRS, 2), (NUM_RUNS, 21, 2))
    together = loss_gradient(points, batches)
    for run in range(NUM_RUNS):
        alone = loss_gradient(points[:, [run]], batches[[run]])
        np.testing.assert_allclose(alone[:, 0], together[:, run], atol=1e-15)


def test_minimise_is_deterministic_and_sorted():
    first, second = (minimise(full_batch(6), free(6), 4, num_starts=6, seed=3) for _ in range(2))
    losses = [minimum.loss for minimum in first]
    assert losses == sorted(losses)
    assert losses == [minimum.loss for minimum in second]
    assert np.array_equal(first[0].U, second[0].U)


def test_minimum_is_on_the_sphere_and_stationary():
    (best, *_) = minimise(full_batch(5), free(5), 4, num_starts=2)
    np.testing.assert_allclose(np.linalg.norm([best.U, best.V], axis=-1), 1)
    gradient = loss_gradient(np.stack([best.U, best.V])[:, None], full_batch(5)[None])
    assert np.abs(gradient).max() < 1e-6


def test_tied_sides_are_equal_and_reach_the_same_loss():
    shared = minimise(full_batch(5), tied(5), 4, num_starts=2)[0]
    assert np.array_equal(shared.U, shared.V)
    assert shared.loss == pytest.approx(minimise(full_batch(5), free(5), 4, num_starts=2)[0].loss)


def test_off_diagonal_leaves_the_partners_out():
    assert off_diagonal(np.arange(9.0).reshape(3, 3)).tolist() == [1, 2, 3, 5, 6, 7]
