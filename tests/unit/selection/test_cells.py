import numpy as np
import pytest

from selection import cells as module
from selection.cells import divide, nearest_cells, ranks
from selection.threads import thread_pool
from tests.conftest import planted_pairs


@pytest.fixture(scope="module")
def points():
    return planted_pairs(num_clusters=30, per_cluster=20, dim=12)[0]


def divided(points, num_cells=40):
    with thread_pool() as pool:
        return divide(points, num_cells, np.random.default_rng(0), pool)


@pytest.fixture(scope="module")
def cells(points):
    return divided(points)


def test_points_lie_cell_by_cell(cells):
    np.testing.assert_array_equal(np.sort(cells.members), np.arange(600))
    for cell in range(40):
        inside = cells.members[cells.starts[cell] : cells.starts[cell + 1]]
        np.testing.assert_array_equal(inside, np.flatnonzero(cells.owner == cell))


def test_cells_are_tighter_than_chance(points, cells):
    own = points @ points.T
    together = cells.owner[:, None] == cells.owner
    assert own[together].mean() > 0.5 > 5 * own.mean()


def test_with_all_of_the_sample_within_reach_every_point_is_with_its_most_similar_centroid(
    points, monkeypatch
):
    monkeypatch.setattr(module, "_SHARE_HELD", 1.0)  # the sample is all of these few points
    cells = divided(points)
    np.testing.assert_array_equal(cells.owner, (points @ cells.centroids.T).argmax(axis=1))


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_nearly_all_points_are_with_their_most_similar_centroid(spread):
    """Whether there is structure or none; 5,000 points, of which 2,048 say how many centroids are near."""
    rng = np.random.default_rng(1)
    points = np.repeat(rng.normal(size=(100, 12)), 50, axis=0)
    points += spread * rng.normal(size=points.shape)
    points = np.float32(points / np.linalg.norm(points, axis=1, keepdims=True))
    cells = divided(points, 200)
    right = cells.owner == (points @ cells.centroids.T).argmax(axis=1)
    assert right.mean() >= 0.97


def test_every_point_is_in_its_most_similar_coarse_cell(points, cells):
    assert len(cells.coarse.centroids) == 25  # 4 sqrt(40)
    similarities = points @ cells.coarse.centroids.T
    np.testing.assert_array_equal(cells.coarse.owner, similarities.argmax(axis=1))


def test_candidates_are_a_fraction_where_there_is_structure(points, monkeypatch):
    """Coarse cells save comparisons, or they would be of no use."""
    widths = []

    def spy(*args):
        found = candidates(*args)
        widths.append(found.shape[1])
        return found

    candidates = module._candidates
    monkeypatch.setattr(module, "_candidates", spy)
    divided(points)
    assert max(widths) < 20


def test_ranks_are_places_in_the_order_of_similarity():
    coarse = np.float32([[1, 0], [0, 1]])
    centroids = np.float32([[0.6, 0.8], [1, 0], [-1, 0]])
    nearest = nearest_cells(coarse, centroids)
    assert nearest.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert ranks(nearest).tolist() == [[1, 0, 2], [0, 1, 2]]
    assert ranks(np.int32([[2, 0, 1]])).tolist() == [[1, 2, 0]]


def test_same_cells_for_any_number_of_threads(points, cells):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        alone = divide(points, 40, np.random.default_rng(0), pool)
    np.testing.assert_array_equal(alone.owner, cells.owner)
    np.testing.assert_array_equal(alone.centroids, cells.centroids)
