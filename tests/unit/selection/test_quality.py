import numpy as np
import pytest
import scipy.sparse as sp

from selection.quality import batch_losses, captured_affinity, random_batches


def slow_loss(U, V, t):
    """InfoNCE of one batch, element by element, in float64."""
    U, V = U.astype(np.float64), V.astype(np.float64)
    total = 0.0
    for a, b in ((U, V), (V, U)):
        for i in range(len(a)):
            total -= a[i] @ b[i] / t - np.log(sum(np.exp(a[i] @ b[j] / t) for j in range(len(b))))
    return total / (2 * len(U))


def test_batch_losses_equal_the_formula(random_pairs):
    U, V = random_pairs
    batches = np.arange(40).reshape(4, 10)
    expected = [slow_loss(U[batch], V[batch], 0.07) for batch in batches]
    np.testing.assert_allclose(batch_losses(U, V, batches, 0.07), expected, rtol=1e-5)


@pytest.mark.parametrize("num_pairs", [4, 8, 16])
def test_simplex_has_the_published_loss(num_pairs):
    """L* = 2 log(1 + (N-1) e^(-N/(N-1))) for N <= d+1 (arXiv 2307.05906, theorem 1); ours is the mean of directions."""
    simplex = np.eye(num_pairs) - 1 / num_pairs
    simplex /= np.linalg.norm(simplex, axis=1, keepdims=True)
    simplex = simplex.astype(np.float32)
    loss = batch_losses(simplex, simplex, np.arange(num_pairs)[None], 1.0)[0]
    assert 2 * loss == pytest.approx({4: 1.165315, 8: 2.346416, 16: 3.636902}[num_pairs], abs=2e-6)


def test_captured_affinity_counts_inside_only():
    affinity = sp.csr_array(
        np.array([[0, 1, 2, 0], [1, 0, 0, 4], [2, 0, 0, 3], [0, 4, 3, 0]], float)
    )
    assert captured_affinity(affinity, np.array([[0, 1], [2, 3]])) == pytest.approx((1 + 3) / 10)
    assert captured_affinity(affinity, np.array([[1, 3]])) == pytest.approx(4 / 10)
    assert captured_affinity(sp.csr_array((4, 4)), np.array([[1, 3]])) == 0


def test_random_batches_do_not_repeat():
    batches = random_batches(10, 3, 3, np.random.default_rng(0))
    assert len(np.unique(batches)) == 9
