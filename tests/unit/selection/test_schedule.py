import json

import numpy as np
import pytest

from selection.errors import ArtifactError, ConfigError
from selection.schedule import open_schedule, rank_slice, schedule_folder, write_schedule

FIELDS = {"seed": 5, "round": 2, "strategy": "random"}


@pytest.fixture
def schedule(tmp_path):
    ids = np.random.default_rng(0).permutation(26)
    return write_schedule(tmp_path / "s", ids[:24].reshape(6, 4), ids[24:], FIELDS)


def test_round_trip(schedule, tmp_path):
    again = open_schedule(tmp_path / "s", {"round": 2})
    np.testing.assert_array_equal(again.batches, schedule.batches)
    np.testing.assert_array_equal(again.leftover, schedule.leftover)
    assert again.manifest["num_pairs"] == 26
    assert not again.manifest["ids_repeat"]
    assert again.content_hash == schedule.content_hash


def test_only_a_schedule_is_replaced(schedule, tmp_path):
    ids = np.arange(6).reshape(3, 2)
    (tmp_path / "s" / "leftover.npy").unlink()  # damaged, but ours
    assert write_schedule(tmp_path / "s", ids, np.empty(0, int), FIELDS).num_batches == 3
    (tmp_path / "s" / "thesis.txt").write_text("of years")
    (tmp_path / "file").write_text("of years")
    for theirs in ("s", "file"):
        with pytest.raises(ConfigError, match=f"{theirs} exists and is no schedule; choose"):
            write_schedule(tmp_path / theirs, ids, np.empty(0, int), FIELDS)
    assert (tmp_path / "s" / "thesis.txt").read_text() == (tmp_path / "file").read_text()


def test_a_schedule_says_where_it_comes_from(tmp_path):
    with pytest.raises(ValueError, match="fields: seed, round missing"):
        write_schedule(tmp_path / "s", np.eye(2, dtype=int), np.empty(0, int), {"strategy": "osgd"})
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("lost", ["hash", "bytes", "leftover.npy", "seed", "round", "strategy"])
def test_a_manifest_that_says_too_little_is_refused(schedule, tmp_path, lost):
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    for entries in (manifest, manifest["files"], manifest["files"].get("batches.npy")):
        entries.pop(lost, None)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest\.json: .*make it again"):
        open_schedule(tmp_path / "s")


def test_a_path_may_be_text(tmp_path):
    ids = np.arange(6).reshape(3, 2)
    write_schedule(str(tmp_path / "s"), ids, np.empty(0, int), FIELDS)
    np.testing.assert_array_equal(open_schedule(str(tmp_path / "s")).batches, ids)


@pytest.mark.parametrize(
    ("batches", "leftover", "message"),
    [
        ([[0, 1], [1, 2]], [3], "id 1 is scheduled 2 times"),
        ([[0, 1], [2, 5]], [3], "expected 0 to 4"),
        ([[0, 1], [2, 3]], [3], "id 3 is scheduled 2 times"),
    ],
)
def test_ids_that_repeat_or_are_missing(tmp_path, batches, leftover, message):
    with pytest.raises(ValueError, match=message):
        write_schedule(tmp_path / "s", np.array(batches), np.array(leftover), FIELDS)
    assert not (tmp_path / "s").exists()


ALL = {**FIELDS, "strategy": "all"}


def test_batches_of_all_share_ids(tmp_path):
    batches = np.array([[0, 1], [0, 2], [1, 2]])
    schedule = write_schedule(tmp_path / "s", batches, np.array([3]), ALL)
    assert schedule.manifest["ids_repeat"]
    assert schedule.manifest["num_pairs"] == 4


@pytest.mark.parametrize(
    ("batches", "leftover", "message"),
    [
        ([[0, 1], [2, 2]], [3], "batch 1 holds an id twice"),
        ([[0, 1], [0, 2]], [2], "id 2 is scheduled 2 times"),
        ([[0, 1], [0, 4]], [3], "expected 0 to 3"),
    ],
)
def test_batches_of_all_that_are_wrong(tmp_path, batches, leftover, message):
    with pytest.raises(ValueError, match=message):
        write_schedule(tmp_path / "s", np.array(batches), np.array(leftover), ALL)


def test_another_round_is_refused(schedule, tmp_path):
    with pytest.raises(ArtifactError, match="round is 2, expected 3"):
        open_schedule(tmp_path / "s", {"round": 3})


def test_every_epoch_visits_every_batch_in_its_own_order(schedule, tmp_path):
    epochs = [
        [tuple(schedule.batch_at(step)) for step in range(e * 6, e * 6 + 6)] for e in range(3)
    ]
    expected = {tuple(batch) for batch in schedule.batches}
    assert all(set(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = open_schedule(tmp_path / "s")
    np.testing.assert_array_equal(schedule.epoch_order(1), again.epoch_order(1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_a_batch_in_order(world_size):
    batch = np.arange(10, 16)
    slices = [rank_slice(batch, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(slices), batch)


def test_ranks_that_do_not_divide_a_batch():
    with pytest.raises(ValueError, match="does not divide"):
        rank_slice(np.arange(6), 0, 4)


def test_schedule_folder(tmp_path):
    assert schedule_folder(tmp_path, 3).name == "round-00003"
