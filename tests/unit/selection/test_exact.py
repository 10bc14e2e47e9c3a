from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from selection import exact
from selection.exact import closest


@pytest.mark.parametrize("num_points", [1, 5, 6, 64, 200])
@pytest.mark.parametrize("has_pool", [False, True])
def test_the_closest_are_those_of_a_full_sort(monkeypatch, num_points, has_pool):
    monkeypatch.setattr(exact, "_BLOCK", 32)  # several blocks, the last one shorter than k
    rng = np.random.default_rng(0)
    queries, points = (rng.standard_normal((n, 4)).astype(np.float32) for n in (9, num_points))
    similarities = queries @ points.T
    order = np.argsort(-similarities, axis=1)[:, :6]
    with ThreadPoolExecutor(2) as pool:
        found = closest(queries, points, 6, pool if has_pool else None)
    np.testing.assert_array_equal(found.ids, order)
    expected = np.take_along_axis(similarities, order, axis=1)
    np.testing.assert_allclose(found.similarities, expected, atol=1e-6)
