import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.blocks import array_blocks, pieces_of, read_pieces
from selection.config import SelectionConfig
from selection.division import Division
from selection.embeddings import EmbeddingStore, store_blocks
from selection.errors import ConfigError, NoBatchError
from selection.exact import Closest
from selection.problem import Problem
from selection.progress import silent
from selection.quality import captured_affinity
from selection.region_quality import Found
from selection.regional import RegionalJob, choose_in_regions, choose_regionally
from selection.regions import assign, count_regions, find_regions
from selection.schedule import check_batches
from selection.select import choose
from selection.strategies import plan_num_batches
from tests.conftest import planted_pairs, unit_rows

NOTHING = np.empty(0, np.int64)


def config(max_pairs, **settings):
    spectral = {"move_rounds": 1}
    values = {"regions": {"max_pairs": max_pairs}, "spectral": spectral, **settings}
    return SelectionConfig.model_validate(values)


def job(max_pairs, batch_size=8, previous=NOTHING, seed=0, **settings):
    return RegionalJob(batch_size, 0.1, config(max_pairs, **settings), (seed, 1), previous)


@pytest.fixture(scope="module")
def clustered():
    U, V, _ = planted_pairs(num_clusters=100, per_cluster=21, dim=16)
    return U, V


@settings(max_examples=10, deadline=None)
@given(st.integers(30, 200), st.integers(2, 7), st.integers(3, 6), st.integers(0, 9), st.data())
def test_every_id_once_exact_sizes_and_leftovers_first(
    num_pairs, batch_size, batches_per_region, seed, data
):
    max_pairs = max(4, batches_per_region * batch_size)
    left = st.integers(0, num_pairs - 1)
    previous = np.array(data.draw(st.lists(left, unique=True, max_size=batch_size - 1)), np.int64)
    rng = np.random.default_rng(seed)
    U = unit_rows(rng.standard_normal((num_pairs, 6)))
    asked = job(max_pairs, batch_size, previous, strategy="rcm")
    chosen = choose_regionally(array_blocks(U, U, None), asked)
    check_batches(chosen.batches, chosen.leftover, num_pairs)
    assert chosen.batches.shape == (num_pairs // batch_size, batch_size)
    assert not np.intersect1d(chosen.leftover, previous).size
    assert chosen.fields["num_held_back"] == 0


def test_a_region_of_previous_leftovers_alone_is_scheduled(clustered):
    """Region 0 has less than a batch, all of them left over before, and region 1 leaves nothing to fill it up."""
    U, V = (side[:31] for side in clustered)
    region_of = np.where(np.arange(31) < 3, 0, 1).astype(np.int32)
    blocks = array_blocks(U, V, None)
    nearest = Closest(np.empty((0, 2), np.float32), np.empty((0, 2), np.int64))
    division = Division(blocks, blocks, region_of, np.array([[0, 3, 31]]), Found(nearest, nearest))
    asked = job(100, 4, previous=np.arange(3), strategy="rcm")
    parts, leftover = choose_in_regions(division, asked, map, np.random.default_rng(0), silent)
    check_batches(np.concatenate([part.batches for part in parts]), leftover, 31)
    assert len(leftover) == 3
    assert not np.intersect1d(leftover, np.arange(3)).size


def test_a_tenth_of_the_data_keeps_most_of_the_quality(clustered):
    """Measured: 0.93 of the affinity and 0.99 of the loss; random batches capture 0.01 of it."""
    U, V = clustered
    whole = choose(clustered, 8, 0.1, config(len(U)))
    split = choose(clustered, 8, 0.1, config(len(U) // 10))
    graph = Problem(U, V, 8, 8, 0.1, config(len(U)), (0, 1)).affinity
    captured = [captured_affinity(graph, chosen.batches) for chosen in (whole, split)]
    assert captured[1] > 0.85 * captured[0]
    assert split.fields["batch_loss"] > 0.95 * whole.fields["batch_loss"]
    assert split.fields["random_batch_loss"] == pytest.approx(
        whole.fields["random_batch_loss"], rel=0.25
    )
    assert split.fields["num_regions"] == 12
    assert split.fields["captured_affinity"] == pytest.approx(captured[1], rel=0.15)
    assert not split.fields["alarms"]


def test_neighbors_are_counted_among_all_pairs(clustered):
    """The signals of the sample beside those of all pairs, with true neighbours of a slow search."""
    U, V = clustered
    chosen = choose(clustered, 8, 0.1, config(400))
    batch_of = np.full(len(U), -1)
    batch_of[chosen.batches.ravel()] = np.repeat(np.arange(len(chosen.batches)), 8)
    shares = []
    for similarities in (U @ V.T, V @ U.T):
        np.fill_diagonal(similarities, -np.inf)
        nearest = np.argsort(-similarities, axis=1)[:, :32]
        own = batch_of[:, None]
        shares.append(((batch_of[nearest] == own) & (own >= 0)).mean())
    assert chosen.fields["neighbors_in_batch"] == pytest.approx(np.mean(shares), abs=0.02)
    assert chosen.fields["neighbors_in_batch"] <= chosen.fields["neighbors_in_region"] < 1
    assert chosen.fields["knn_recall"] == chosen.fields["neighbors_in_region"]  # `flat` is exact


def test_single_view_data_is_read_once(clustered):
    U, _ = clustered
    rows = read_pieces(pieces_of(array_blocks(U, U, None), np.arange(0, 2000, 7)))
    assert rows.V is rows.U
    np.testing.assert_array_equal(rows.U, U[:2000:7])


def test_affinity_of_mutual_links_is_not_told_from_a_sample(clustered):
    """It does not know the neighbours' own neighbours."""
    fields = choose(clustered, 8, 0.1, config(400, graph={"mutual": True})).fields
    assert "captured_affinity" not in fields
    assert 0 < fields["neighbors_in_batch"] <= 1


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(clustered):
    seen = []
    asked = config(400, spectral={"device": "cuda:7"})
    with pytest.raises(ConfigError, match=r"spectral\.device: is cuda:7"):
        choose(clustered, 8, 0.1, asked, progress=lambda *told: seen.append(told))
    assert not seen


def test_no_task_gets_more_than_a_region_and_who_does_the_work_does_not_matter(clustered):
    U, V = clustered
    sizes = []

    def shuffled_map(function, tasks):
        tasks = list(tasks)
        for pieces in tasks:
            ids = [piece.block.read(piece.rows).ids for piece in pieces]
            sizes.append(sum(map(len, ids)))
        results = {i: function(tasks[i]) for i in np.random.default_rng(0).permutation(len(tasks))}
        return [results[i] for i in range(len(tasks))]

    def lazily(function, tasks):
        return map(function, tasks)

    blocks = array_blocks(U, V, None)
    first = choose_regionally(blocks, job(500), map_blocks=lazily)
    second = choose_regionally(blocks, job(500), map_regions=shuffled_map)
    np.testing.assert_array_equal(first.batches, second.batches)
    np.testing.assert_array_equal(first.leftover, second.leftover)
    assert max(sizes) <= 500
    other = choose_regionally(blocks, job(500, seed=1))
    assert not np.array_equal(first.batches, other.batches)


@pytest.fixture
def contents():
    """Contents of 2,100 pairs: a third of them hold one of 40 texts on a side; so do pairs of different clusters."""
    rng = np.random.default_rng(3)
    hashes = np.arange(4200, dtype=np.uint64).reshape(2, 2100) + np.uint64(1000)
    some = rng.permutation(4200)[:700]
    hashes.ravel()[some] = rng.integers(40, size=700)
    return hashes


def test_duplicates_never_share_a_batch(clustered, contents):
    chosen = choose(clustered, 8, 0.1, config(300), contents=contents)
    check_batches(chosen.batches, chosen.leftover, 2100)
    for batch in chosen.batches:
        sides = [set(pair) for pair in contents[:, batch].T.tolist()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    assert chosen.batches.size > 2000


def test_sorted_files_give_the_same_batches(clustered, contents, tmp_path):
    shard_sizes = [700, 0, 900, 500]
    store = EmbeddingStore(tmp_path / "store", shard_sizes, {"dtype": "float32"})
    for shard, last in enumerate(np.cumsum(shard_sizes)):
        if rows := shard_sizes[shard]:
            own = slice(last - rows, last)
            store.write_shard(shard, *(side[own] for side in clustered), contents[:, own])
    store.complete()
    blocks = store_blocks(tmp_path / "store")
    assert [(block.first, block.last) for block in blocks] == [(0, 700), (700, 1600), (1600, 2100)]
    in_place = choose_regionally(blocks, job(300))
    scratch = tmp_path / "regions"
    from_files = choose_regionally(blocks, job(300), scratch)
    np.testing.assert_array_equal(in_place.batches, from_files.batches)
    np.testing.assert_array_equal(in_place.leftover, from_files.leftover)
    assert len(list(scratch.iterdir())) == 2 * len(blocks)


def test_pairs_that_are_all_alike_are_turned_away_from_a_full_region(tmp_path):
    U = np.tile(unit_rows(np.ones((1, 4))), (203, 1))
    settings = {"hardness": {"separate_duplicates": False}, "strategy": "rcm"}
    chosen = choose((U, U), 5, 0.1, config(50, **settings))
    check_batches(chosen.batches, chosen.leftover, 203)
    assert len(chosen.leftover) == 3
    with pytest.raises(NoBatchError, match="in no region so many pairs may share a batch"):
        choose((U, U), 5, 0.1, config(50, strategy="rcm"))


def test_the_sorted_rows_of_a_full_region_are_those_that_were_not_turned_away(tmp_path):
    U = np.tile(unit_rows(np.ones((1, 4))), (203, 1))
    hashes = np.arange(406, dtype=np.uint64).reshape(2, 203)
    blocks = array_blocks(U, U, hashes)
    in_place = choose_regionally(blocks, job(50, strategy="rcm"))
    from_files = choose_regionally(blocks, job(50, strategy="rcm"), tmp_path / "regions")
    np.testing.assert_array_equal(in_place.batches, from_files.batches)


@pytest.mark.parametrize(
    ("strategy", "batch_size", "message"),
    [
        ("osgd", 8, "strategy osgd looks at all 2,100 pairs at once; raise it to that"),
        ("spectral", 64, "max_pairs: is 100, but must be at least two batches of 64"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_starts(
    clustered, strategy, batch_size, message
):
    asked = config(100, strategy=strategy)
    with pytest.raises(ConfigError, match=message):
        plan_num_batches(asked, 2100, batch_size)
    with pytest.raises(ConfigError, match=message):
        choose(clustered, batch_size, 0.1, asked)


def test_regions_are_equally_large_and_hold_related_pairs():
    U, V, cluster_ids = planted_pairs(num_clusters=40, per_cluster=100, dim=16)
    sample = np.random.default_rng(0).permutation(4000)[:2000]
    regions = find_regions(U[sample], V[sample], 8, 8, 0.1, (0, 0))
    region_of = assign(U, V, regions)
    sizes = np.bincount(region_of, minlength=8)
    assert sizes.max() < 1.15 * 500
    largest = [np.bincount(region_of[cluster_ids == c]).max() for c in range(40)]
    assert np.mean(largest) > 90  # of 100
    again = find_regions(U[sample], V[sample], 8, 8, 0.1, (0, 0))
    np.testing.assert_array_equal(region_of, assign(U, V, again))


def test_enough_regions_for_all():
    assert [count_regions(n, 1000) for n in (1001, 1800, 1801, 10_000)] == [2, 2, 3, 12]
