import numpy as np
import pytest

from launcher.studies.designs import (
    FANO_PLANE,
    PLANE_OF_ORDER_3,
    all_batches,
    cyclic_design,
    fixed_batches,
    meetings,
)
from selection.config import SelectionConfig
from selection.problem import Problem
from selection.strategies import STRATEGIES


@pytest.mark.parametrize("batch_size", [2, 3])
def test_all_batches_are_those_of_the_strategy(batch_size):
    U = np.zeros((7, 2), np.float32)
    config = SelectionConfig(strategy="all")
    chosen = STRATEGIES["all"](Problem(U, U, batch_size, batch_size, 1.0, config, (0, 0)))
    assert np.array_equal(all_batches(7, batch_size), chosen)


@pytest.mark.parametrize(("design", "size"), [(FANO_PLANE, 3), (PLANE_OF_ORDER_3, 4)])
def test_any_two_points_of_a_plane_are_on_one_line(design, size):
    lines = cyclic_design(*design)
    num_points = design[1]
    assert lines.shape == (num_points, size)
    assert np.array_equal(meetings(lines, num_points), 1 - np.eye(num_points))


def test_meetings_of_fixed_batches():
    together = meetings(fixed_batches(6, 3), 6)
    assert np.array_equal(together, np.kron(np.eye(2), np.ones((3, 3))) - np.eye(6))
