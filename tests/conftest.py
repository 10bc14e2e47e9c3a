"""Fixtures that several test folders share."""

import numpy as np
import pytest
from hypothesis import settings

from tests.tiny_run import complete, tiny_settings, write_tiny_data

# An example that is slow says that the machine is busy, or that Numba compiles.
settings.register_profile("coterie", deadline=None)
settings.load_profile("coterie")


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted_pairs(num_clusters: int, per_cluster: int, dim: int, seed: int = 0):
    """U, V around cluster centres, and the cluster of each pair; noise is small beside the distances."""
    rng = np.random.default_rng(seed)
    cluster_ids = rng.permutation(np.repeat(np.arange(num_clusters), per_cluster))
    centers = unit_rows(rng.standard_normal((num_clusters, dim)))
    noise = rng.standard_normal((2, len(cluster_ids), dim)) * 0.4 / np.sqrt(dim)
    return (
        unit_rows(centers[cluster_ids] + noise[0]),
        unit_rows(centers[cluster_ids] + noise[1]),
        cluster_ids,
    )


@pytest.fixture(scope="session")
def random_pairs():
    """400 pairs in 12 dimensions without structure, v near its u."""
    rng = np.random.default_rng(7)
    U = rng.standard_normal((400, 12))
    return unit_rows(U), unit_rows(U + 0.5 * rng.standard_normal(U.shape))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny_data(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_overrides(tiny_data):
    return tiny_settings(tiny_data)


@pytest.fixture(scope="session")
def finished(tiny_overrides, tmp_path_factory):
    """The smallest run from start to end, and what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    result = complete(run_dir, tiny_overrides)
    return run_dir, result
