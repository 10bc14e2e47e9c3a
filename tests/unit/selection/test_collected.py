import numpy as np
import pytest

from selection.collected import gather_collected, read_collected, write_collected
from selection.duplicates import hash_parts
from selection.embeddings import EmbeddingStore, load_contents, load_embeddings
from selection.errors import ArtifactError
from selection.shards import build_index
from tests.tiny_run import write_shards

NUM_PAIRS, DIM = 100, 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def rows(rng):
    both = rng.normal(size=(2, NUM_PAIRS, DIM)).astype(np.float32)
    return both / np.linalg.norm(both, axis=2, keepdims=True)


@pytest.fixture
def collected(rows, rng, tmp_path):
    """What three ranks wrote at two checkpoints, each its part of a random order."""
    parts = np.array_split(rng.permutation(NUM_PAIRS), 6)
    for number, ids in enumerate(parts):
        step, rank = divmod(number, 3)
        name = f"step-{step:08d}-rank-{rank:05d}"
        write_collected(tmp_path / "collected", name, ids, rows[0, ids], rows[1, ids])
    return tmp_path / "collected"


def test_every_range_of_ids_finds_its_rows(collected, rows):
    for start, stop in ((0, NUM_PAIRS), (0, 1), (37, 61), (99, 100)):
        np.testing.assert_array_equal(read_collected(collected, start, stop), rows[:, start:stop])


def test_the_newest_row_of_a_pair_counts(collected, rows):
    write_collected(collected, "step-00000002-rank-00000", np.array([7]), -rows[:1, 7], rows[1:, 7])
    found = read_collected(collected, 0, NUM_PAIRS)
    np.testing.assert_array_equal(found[0, 7], -rows[0, 7])
    np.testing.assert_array_equal(np.delete(found, 7, axis=1), np.delete(rows, 7, axis=1))


def test_a_pair_that_nobody_noted_is_named(collected):
    with pytest.raises(ArtifactError, match="no embedding of pair 100; "):
        read_collected(collected, 90, NUM_PAIRS + 2)


def test_the_store_is_as_if_they_had_been_embedded(collected, rows, tmp_path):
    write_shards(tmp_path / "data", NUM_PAIRS, 30, seed=0)
    shards = sorted((tmp_path / "data").glob("*.tar"))
    index = build_index(shards, tmp_path / "index")
    sizes = np.diff(index.shard_starts).tolist()
    store = EmbeddingStore(tmp_path / "store", sizes, {"dtype": "float32"})
    told = []
    gather_collected(
        *(index, tmp_path / "index", collected, store, ("txt", "py"), map),
        progress=lambda *event: told.append(event),
    )
    np.testing.assert_array_equal(load_embeddings(tmp_path / "store"), rows)
    expected = hash_parts(index.read(np.arange(NUM_PAIRS)), ("txt", "py"))
    np.testing.assert_array_equal(load_contents(tmp_path / "store"), expected)
    assert [event[1] for event in told] == [30, 60, 90, 100]
