import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.assembly import hold_back, pack
from selection.config import HardnessConfig, SelectionConfig, SpectralConfig
from selection.errors import ConfigError
from selection.select import make_random_schedule, make_schedule
from tests.conftest import planted_pairs

NOTHING = np.empty(0, np.int64)


@given(st.integers(2, 80), st.integers(2, 20), st.integers(0, 5))
def test_leftovers_go_first_next_time(num_pairs, batch_size, seed):
    if num_pairs < batch_size:
        return
    rng = np.random.default_rng(seed)
    _, first = hold_back(num_pairs, batch_size, NOTHING, rng)
    nodes, second = hold_back(num_pairs, batch_size, first, rng)
    np.testing.assert_array_equal(np.sort(np.concatenate([nodes, second])), np.arange(num_pairs))
    assert len(second) == num_pairs % batch_size
    if num_pairs >= 2 * batch_size:
        assert not np.intersect1d(first, second).size


def test_no_more_than_must_are_left_over_twice():
    for seed in range(5):
        _, resting = hold_back(20, 8, np.arange(17), np.random.default_rng(seed))
        assert sorted(resting)[-3:] == [17, 18, 19]
        assert len(resting) == 4


def test_fewer_pairs_than_a_batch():
    with pytest.raises(ConfigError, match="batch_size is 8, but there are only 7 pairs"):
        hold_back(7, 8, NOTHING, np.random.default_rng(0))


def test_ids_that_come_first_may_be_none_and_read_only():
    """As Ray hands them over where B divides N."""
    none = np.empty(0, np.int64)
    none.setflags(write=False)
    numbers = np.array([[0, -1], [0, -1], *[[-1, -1]] * 6])
    nodes, leftover = hold_back(8, 4, none, np.random.default_rng(0), numbers)
    assert sorted([*nodes, *leftover]) == list(range(8))


def test_random_schedule_depends_on_seed_and_round(tmp_path):
    def batches(seed, number):
        return make_random_schedule(
            tmp_path / "s", 50, 8, (seed, number), NOTHING, {}
        ).batches.tolist()

    assert batches(0, 0) == batches(0, 0)
    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)


@pytest.fixture(scope="module")
def clustered():
    U, V, _ = planted_pairs(num_clusters=40, per_cluster=16, dim=16)
    return U, V


def test_spectral_schedule_is_hard_complete_and_reproducible(tmp_path, clustered):
    def make(name):
        return make_schedule(
            tmp_path / name,
            clustered,
            12,
            0.1,
            SelectionConfig(),
            (0, 1),
            np.array([3, 4]),
            {"step": 9},
        )

    first, second = make("a"), make("b")
    assert first.content_hash == second.content_hash
    assert first.manifest["batch_loss"] > 1.5 * first.manifest["random_batch_loss"]
    assert first.manifest["step"] == 9
    assert first.manifest["knn_recall"] == 1
    assert 0.1 < first.manifest["captured_affinity"] <= 1
    assert len(first.leftover) == 640 % 12
    assert not np.intersect1d(first.leftover, [3, 4]).size
    assert set(first.manifest["seconds"]) >= {"neighbors_s", "affinity_s", "partition_s", "swap_s"}


def test_data_without_structure_is_not_easier_than_random(tmp_path, random_pairs):
    schedule = make_schedule(
        tmp_path / "s", random_pairs, 20, 0.1, SelectionConfig(), (0, 1), NOTHING, {}
    )
    assert schedule.manifest["batch_loss"] > schedule.manifest["random_batch_loss"]


def test_smaller_clusters_make_milder_batches(tmp_path, clustered):
    def loss(cluster_size):
        config = SelectionConfig(hardness=HardnessConfig(cluster_size=cluster_size))
        schedule = make_schedule(tmp_path / "s", clustered, 16, 0.1, config, (0, 1), NOTHING, {})
        assert schedule.batches.shape == (40, 16)
        return schedule.manifest["batch_loss"], schedule.manifest["random_batch_loss"]

    (whole, random), (half, _), (two, _) = loss(None), loss(8), loss(2)
    assert whole > half > two > random


def test_packing_keeps_clusters_together():
    clusters = np.arange(24).reshape(8, 3)
    batches = pack(clusters, NOTHING, 6, 0, NOTHING, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(24))
    assert {tuple(half) for half in batches.reshape(-1, 3)} == {tuple(c) for c in clusters}
    assert not np.array_equal(batches, clusters.reshape(-1, 6))


def test_packing_leaves_out_whom_it_took_before():
    groups, before = np.arange(14).reshape(7, 2), np.array([5])
    for seed in range(30):
        batches = pack(groups, NOTHING, 6, 0, before, np.random.default_rng(seed))
        assert batches.shape == (2, 6)
        assert 5 in batches


def test_packing_leaves_out_nobody_drawn_whom_it_left_out_before():
    """Of twenty that were drawn, there is room for six."""
    groups, drawn, before = np.arange(8).reshape(2, 4), np.arange(8, 28), np.array([26, 27])
    batches = pack(groups, drawn, 7, 3, before, np.random.default_rng(0))
    assert batches.shape == (2, 7)
    assert set(before) <= set(batches.ravel().tolist())
    assert set(drawn[:4]) <= set(batches.ravel().tolist())


def test_swaps_make_harder_batches(tmp_path, clustered):
    def loss(swap_sweeps):
        spectral = SpectralConfig(swap_sweeps=swap_sweeps, affinity_share=0)
        config = SelectionConfig(spectral=spectral)
        return make_schedule(
            tmp_path / "s", clustered, 12, 0.1, config, (0, 1), NOTHING, {}
        ).manifest["batch_loss"]

    assert loss(2) > loss(0)
