import numpy as np
import pytest

from selection.embeddings import EmbeddingStore, load_contents, load_embeddings
from selection.errors import ArtifactError, JobError
from tests.conftest import unit_rows

INPUTS = {"index": "i", "checkpoint": "c", "dtype": "float32"}
SIZES = [3, 0, 4]
CONTENTS = np.arange(14, dtype=np.uint64).reshape(2, 7) << np.uint64(60)


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return unit_rows(rng.standard_normal((7, 5))), unit_rows(rng.standard_normal((7, 5)))


def fill(store, pairs, shards=(0, 2)):
    for shard in shards:
        start = sum(SIZES[:shard])
        rows = slice(start, start + SIZES[shard])
        store.write_shard(shard, pairs[0][rows], pairs[1][rows], CONTENTS[:, rows])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_shards_come_back_in_order(tmp_path, pairs, dtype, tolerance):
    store = EmbeddingStore(tmp_path / "e", SIZES, {**INPUTS, "dtype": dtype})
    assert store.missing_shards() == [0, 2]
    fill(store, pairs, shards=(2, 0))
    store.complete()
    for loaded, side in zip(load_embeddings(tmp_path / "e"), pairs, strict=True):
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, side, atol=tolerance)
    np.testing.assert_array_equal(load_contents(tmp_path / "e"), CONTENTS)


def test_finished_shards_survive_a_crash(tmp_path, pairs):
    fill(EmbeddingStore(tmp_path / "e", SIZES, INPUTS), pairs, shards=(0,))
    again = EmbeddingStore(tmp_path / "e", SIZES, INPUTS)
    assert again.missing_shards() == [2]
    with pytest.raises(ArtifactError, match="1 shards have no embeddings"):
        again.complete()
    for load in (load_embeddings, load_contents):
        with pytest.raises(ArtifactError, match="found no manifest"):
            load(tmp_path / "e")


def test_a_shard_without_hashes_is_not_finished(tmp_path, pairs):
    store = EmbeddingStore(tmp_path / "e", SIZES, INPUTS)
    fill(store, pairs)
    (tmp_path / "e" / "contents-000002.npy").unlink()
    assert store.missing_shards() == [2]


def test_shards_of_another_checkpoint_are_thrown_away(tmp_path, pairs):
    fill(EmbeddingStore(tmp_path / "e", SIZES, INPUTS), pairs, shards=(0,))
    other = EmbeddingStore(tmp_path / "e", SIZES, {**INPUTS, "checkpoint": "d"})
    assert other.missing_shards() == [0, 2]


def test_shards_of_another_checkpoint_that_cannot_be_thrown_away(tmp_path, pairs, monkeypatch):
    """They would pass for those of the new one."""
    fill(EmbeddingStore(tmp_path / "e", SIZES, INPUTS), pairs)

    def busy(*args, **kwargs):
        raise PermissionError("a file system that is busy")

    monkeypatch.setattr("os.unlink", busy)
    with pytest.raises(PermissionError):
        EmbeddingStore(tmp_path / "e", SIZES, {**INPUTS, "checkpoint": "d"})
    monkeypatch.undo()
    assert EmbeddingStore(tmp_path / "e", SIZES, INPUTS).missing_shards() == []


@pytest.mark.parametrize("bad", [np.nan, 0.0, 2.0])
def test_rows_off_the_unit_sphere_are_refused(tmp_path, pairs, bad):
    store = EmbeddingStore(tmp_path / "e", SIZES, INPUTS)
    U = pairs[0][:3].copy()
    U[1] *= bad
    with pytest.raises(JobError, match="row 1 of shard 0"):
        store.write_shard(0, U, pairs[1][:3], CONTENTS[:, :3])
    assert store.missing_shards() == [0, 2]
