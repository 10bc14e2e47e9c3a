import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.studies.configurations import (
    antipodes,
    cross_polytope,
    distance_to_cross_polytope,
    distance_to_simplex,
    full_batch_loss,
    mismatch,
    orthogonal_simplices,
    regular_polygon,
)
from launcher.studies.free_embeddings import to_sphere

seeds = st.integers(0, 10_000)


def random_similarities(seed, num_pairs, dim):
    U, V = to_sphere(np.random.default_rng(seed).standard_normal((2, num_pairs, dim)))
    return U @ V.T


def every_division(points):
    """All divisions into couples, the slow way."""
    if not points:
        yield []
    else:
        first, *others = points
        for other in others:
            for division in every_division([p for p in others if p != other]):
                yield [(first, other), *division]


@pytest.mark.parametrize(
    ("num_pairs", "num_simplices", "loss"),
    [(4, 1, 1.165315), (8, 1, 2.346416), (16, 1, 3.636902),
     (4, 2, 1.253047), (8, 4, 2.413505), (16, 8, 3.676538)],
)  # fmt: skip
def test_published_losses(num_pairs, num_simplices, loss):
    similarities = orthogonal_simplices(num_pairs, num_simplices)
    assert full_batch_loss(similarities) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("num_pairs", "num_simplices"), [(7, 1), (7, 2), (8, 3), (9, 4), (10, 5)])
def test_simplices_fit_into_their_dimensions(num_pairs, num_simplices):
    similarities = orthogonal_simplices(num_pairs, num_simplices)
    values = np.linalg.eigvalsh(similarities)
    assert values.min() > -1e-12
    assert (values > 1e-9).sum() == num_pairs - num_simplices
    np.testing.assert_allclose(similarities.diagonal(), 1)
    np.testing.assert_allclose(similarities.sum(axis=1), 0, atol=1e-12)


def test_a_polygon_with_doubled_corners():
    similarities = regular_polygon(5, repeats=2)
    assert np.linalg.matrix_rank(similarities) == 2
    assert similarities[0, 1] == pytest.approx(1)
    assert similarities[0, 2] == pytest.approx(np.cos(2 * np.pi / 5))


@given(seeds, st.sampled_from([2, 4, 6, 8]))
def test_antipodes_are_the_best_of_all_divisions(seed, num_pairs):
    similarities = random_similarities(seed, num_pairs, 3)
    sums = similarities + similarities.T
    best = min(
        sum(sums[couple] for couple in division)
        for division in every_division(list(range(num_pairs)))
    )
    found = antipodes(similarities)
    assert sorted(np.ravel(found)) == list(range(num_pairs))
    assert sum(sums[couple] for couple in found) == pytest.approx(best)


@given(seeds)
@settings(max_examples=30)
def test_distance_does_not_depend_on_numbering_or_rotation(seed):
    rng = np.random.default_rng(seed)
    U, V = to_sphere(rng.standard_normal((2, 8, 4)))
    rotation, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    order = rng.permutation(8)
    turned = (U @ rotation)[order] @ (V @ rotation)[order].T
    for distance in (distance_to_simplex, distance_to_cross_polytope):
        plain, other = distance(np.stack([U @ V.T, turned]))
        assert other == pytest.approx(plain)


@given(seeds)
def test_any_naming_of_antipodes_is_the_optimum(seed):
    couples = np.random.default_rng(seed).permutation(8).reshape(4, 2)
    similarities = cross_polytope([(int(a), int(b)) for a, b in couples])
    assert distance_to_cross_polytope(similarities[None])[0] == pytest.approx(0, abs=1e-12)
    assert mismatch(similarities, orthogonal_simplices(8, 4)) == 0


def test_rows_cannot_be_right_each_for_itself():
    # each row holds the values of the optimum, but u_i is aligned with the partner of another
    right = orthogonal_simplices(8, 4)
    wrong = right[np.roll(np.arange(8), 2)]
    assert np.array_equal(np.sort(wrong, axis=1), np.sort(right, axis=1))
    assert distance_to_cross_polytope(wrong[None])[0] > 3
    assert distance_to_simplex(np.roll(orthogonal_simplices(8, 1), 1, axis=0)[None])[0] > 3


def test_couples_must_be_mutual():
    # three points around a circle want each other in turn; no assignment by rows may pass for couples
    similarities = -0.9 * np.roll(np.eye(6), 1, axis=1) + np.eye(6)
    found = antipodes(similarities)
    assert sorted(np.ravel(found)) == list(range(6))
    assert len(found) == 3
