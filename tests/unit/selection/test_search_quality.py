import numpy as np
import pytest

from selection.config import GraphConfig
from selection.knn import Neighbors, find_neighbors
from selection.search_quality import hub_share, measure_neighbors


def test_hub_share_of_known_neighbors():
    ring = np.arange(200)
    near = np.stack([np.roll(ring, 1), np.roll(ring, -1)], axis=1).astype(np.int32)
    assert hub_share(Neighbors(near, near, 1.0)) == pytest.approx(2 / 200)
    star = near.copy()
    star[:, 0] = 7  # everybody's nearest, beside once in the ring
    star[:50, 1] = -1
    occurrences = np.bincount(star[star >= 0])
    expected = np.sort(occurrences)[-2:].sum() / occurrences.sum()
    assert hub_share(Neighbors(star, star, 1.0)) == pytest.approx(expected)


@pytest.mark.parametrize(("num_pairs", "measured"), [(2, False), (99, False), (100, True)])
def test_few_pairs_have_no_hubs(random_pairs, num_pairs, measured):
    U, V = (embeddings[:num_pairs] for embeddings in random_pairs)
    found = measure_neighbors(find_neighbors(U, V, GraphConfig()))
    assert ("hub_share" in found) == measured
