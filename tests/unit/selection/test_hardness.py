"""Every field of `HardnessConfig` changes the schedule as it says; the cluster size is in `test_select.py`."""

import os
import subprocess
import sys

import numpy as np
import pytest

from selection.assembly import hold_back
from selection.config import GraphConfig, HardnessConfig, SelectionConfig
from selection.errors import ConfigError
from selection.select import choose, make_schedule
from tests.conftest import planted_pairs, unit_rows

BATCH_SIZE, TEMPERATURE, ROUND = 16, 0.1, (0, 1)
NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def clustered():
    """40 clusters of one batch each, and the cluster of every pair."""
    return planted_pairs(num_clusters=40, per_cluster=BATCH_SIZE, dim=16)


def select(
    embeddings, seed=ROUND, strategy="spectral", batch_size=BATCH_SIZE, previous=None, index="auto",
    graph=None, **hardness,
):  # fmt: skip
    graph = GraphConfig(num_neighbors=12, index=index, **(graph or {}))
    config = SelectionConfig(strategy=strategy, graph=graph, hardness=HardnessConfig(**hardness))
    return choose(embeddings, batch_size, TEMPERATURE, config, seed, previous)


def together(batches, first, second):
    """How many of the pairs `first` are in one batch with their counterparts in `second`."""
    batch_of = np.full(max(batches.max(), first.max(), second.max()) + 1, -1)
    batch_of[batches.ravel()] = np.repeat(np.arange(len(batches)), batches.shape[1])
    return int(((batch_of[first] == batch_of[second]) & (batch_of[first] >= 0)).sum())


def purity(batches, cluster_ids):
    """Mean share of a batch that is of its commonest cluster."""
    return np.mean([np.bincount(cluster_ids[batch]).max() / len(batch) for batch in batches])


def test_random_pairs_dilute_batches_by_their_share(clustered):
    *embeddings, cluster_ids = clustered
    chosen = [select(embeddings, random_share=share) for share in (0, 0.25, 0.5, 1)]
    assert [c.fields["num_random_per_batch"] for c in chosen] == [0, 4, 8, 16]
    purities = [purity(c.batches, cluster_ids) for c in chosen]
    assert purities[0] > 0.95
    assert purities[0] > purities[1] + 0.1 > purities[2] + 0.2
    assert purities[3] == pytest.approx(
        purity(np.random.default_rng(0).permutation(640).reshape(40, 16), cluster_ids), abs=0.05
    )
    losses = [c.fields["batch_loss"] for c in chosen]
    assert losses == sorted(losses, reverse=True)
    for c in chosen:
        np.testing.assert_array_equal(np.sort(c.batches.ravel()), np.arange(640))


def test_batches_become_harder_over_the_warmup(clustered):
    *embeddings, _ = clustered
    chosen = [select(embeddings, seed=(0, r), warmup_rounds=4) for r in range(6)]
    assert [c.fields["num_random_per_batch"] for c in chosen] == [16, 12, 8, 4, 0, 0]
    losses = [c.fields["batch_loss"] for c in chosen]
    assert losses[:5] == sorted(losses[:5])
    assert losses[0] == pytest.approx(chosen[0].fields["random_batch_loss"], rel=0.05)


def test_a_first_round_that_is_all_random_needs_no_margin(clustered):
    *embeddings, _ = clustered
    chosen = select(embeddings, seed=(0, 0), warmup_rounds=3, margin=0.1)
    assert chosen.batches.shape == (40, 16)


def test_the_warmup_ends_at_the_random_share_and_keeps_clusters_whole(clustered):
    *embeddings, _ = clustered
    chosen = [
        select(embeddings, seed=(0, r), warmup_rounds=2, random_share=0.5, cluster_size=4)
        for r in range(4)
    ]
    assert [c.fields["num_random_per_batch"] for c in chosen] == [16, 12, 8, 8]
    assert {c.fields["group_size"] for c in chosen} == {4}


@pytest.fixture(scope="module")
def near_duplicates():
    """Pairs without structure; the last 100 are the first 100 again, a little off, each a right answer to the other."""
    rng = np.random.default_rng(4)
    U, V = unit_rows(rng.standard_normal((2, 400, 16)).reshape(800, 16)).reshape(2, 400, 16)
    V = unit_rows(U + 0.4 * V)
    U[300:] = unit_rows(U[:100] + 0.05 * rng.standard_normal((100, 16)) / 4)
    V[300:] = unit_rows(V[:100] + 0.05 * rng.standard_normal((100, 16)) / 4)
    return U, V


@pytest.mark.parametrize("strategy", ["spectral", "kmeans", "random"])
def test_the_margin_keeps_near_duplicates_apart(near_duplicates, strategy):
    originals, copies = np.arange(100), np.arange(300, 400)
    without = select(near_duplicates, strategy=strategy)
    guarded = select(near_duplicates, strategy=strategy, margin=0.05)
    if strategy != "random":
        assert together(without.batches, originals, copies) > 60
    assert "num_false_negatives" not in without.fields
    assert together(guarded.batches, originals, copies) == 0
    assert guarded.batches.shape == without.batches.shape
    assert 100 <= guarded.fields["num_false_negatives"] < 400
    assert guarded.fields["num_moved"] > 0 or strategy == "spectral"  # which heeds it by itself


def test_first_ranks_that_are_skipped_make_milder_batches(random_pairs):
    """Whom a node is linked to instead is less like it."""
    losses = [
        select(
            random_pairs,
            graph={"first_rank": p},
        ).fields["batch_loss"]
        for p in (0, 20, 100)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1.05 * losses[2]


def test_mutual_links_alone_leave_more_pairs_isolated():
    U, V, _ = planted_pairs(num_clusters=40, per_cluster=16, dim=6)
    either, both = (select((U, V), graph={"mutual": mutual}) for mutual in (False, True))
    assert either.fields["num_isolated"] < both.fields["num_isolated"]
    assert not np.array_equal(either.batches, both.batches)


def test_near_duplicates_are_no_hard_negatives_but_others_stay(near_duplicates):
    without, guarded = select(near_duplicates), select(near_duplicates, margin=0.05)
    assert without.fields["batch_loss"] > guarded.fields["batch_loss"]
    assert guarded.fields["batch_loss"] > guarded.fields["random_batch_loss"] * 1.1


@pytest.fixture(scope="module")
def duplicates(clustered):
    """The clustered pairs, with the u of 100 once more elsewhere, and the v of 100 others."""
    U, V, _ = (array.copy() for array in clustered)
    order = np.random.default_rng(2).permutation(640)
    U[order[100:200]] = U[order[:100]]
    V[order[300:400]] = V[order[200:300]]
    return (
        (U, V),
        np.concatenate([order[:100], order[200:300]]),
        np.concatenate([order[100:200], order[300:400]]),
    )


@pytest.mark.parametrize("strategy", ["spectral", "paper_spectral", "rcm", "kmeans", "random"])
@pytest.mark.parametrize("hardness", [{}, {"cluster_size": 4}, {"random_share": 0.5}])
def test_duplicates_never_share_a_batch(duplicates, strategy, hardness):
    embeddings, originals, copies = duplicates
    free = select(embeddings, strategy=strategy, separate_duplicates=False, **hardness)
    assert together(free.batches, originals, copies) > 0
    assert free.fields["num_duplicates"] == free.fields["num_moved"] == 0
    guarded = select(embeddings, strategy=strategy, **hardness)
    assert together(guarded.batches, originals, copies) == 0
    assert guarded.batches.shape == (40, 16)
    assert len(np.unique(guarded.batches)) == 640
    assert guarded.fields["num_duplicates"] >= 390
    assert guarded.fields["num_moved"] > 0 or strategy == "spectral"  # which heeds it by itself
    assert guarded.fields["num_held_back"] == 0


def test_contents_say_more_than_embeddings(random_pairs):
    """Pairs whose parts are equal and whose embeddings differ, as dropout or another crop would make them."""
    contents = np.arange(800, dtype=np.uint64).reshape(2, 400)
    contents[1, 200:] = contents[1, :200]
    first, second = np.arange(200), np.arange(200, 400)
    config = SelectionConfig()
    unknown = choose(random_pairs, 20, TEMPERATURE, config, ROUND)
    known = choose(random_pairs, 20, TEMPERATURE, config, ROUND, contents=contents)
    assert together(unknown.batches, first, second) > 0
    assert together(known.batches, first, second) == 0


def test_single_view_data(random_pairs):
    U = random_pairs[0].copy()
    U[200:250] = U[:50]
    chosen = select((U, U), batch_size=20)
    assert together(chosen.batches, np.arange(50), np.arange(200, 250)) == 0
    assert chosen.fields["num_duplicates"] == 100


def test_a_content_of_more_pairs_than_batches(random_pairs, tmp_path):
    """Of 60 pairs with the same v at most one is in each batch; the others are left over, and come first next time."""
    U, V = (side.copy() for side in random_pairs)
    same = np.arange(0, 360, 6)
    V[same] = V[0]
    leftover, rested = NOTHING, []
    for number in range(2):
        schedule = make_schedule(
            tmp_path / f"{number}", (U, V), 16, 0.1, SelectionConfig(), (0, number), leftover, {}
        )
        leftover = np.asarray(schedule.leftover)
        rested.append(np.isin(same, leftover))
        assert np.isin(schedule.batches, same).sum(axis=1).max() == 1
        assert schedule.num_batches == (400 - 60 + 22) // 16 == 22
        assert schedule.manifest["num_held_back"] == len(leftover) - 400 % 16
    assert rested[0][~rested[1]].all()


def test_who_is_held_back_was_not_before():
    numbers = np.full((400, 2), -1, np.int32)
    numbers[:30, 0] = 0
    leftover = np.arange(10)
    nodes, resting = hold_back(400, 20, leftover, np.random.default_rng(0), numbers)
    assert len(nodes) == 380
    assert np.isin(leftover, nodes).all()
    assert (nodes < 30).sum() <= 19
    np.testing.assert_array_equal(np.union1d(nodes, resting), np.arange(400))


@pytest.mark.parametrize("strategy", ["spectral", "random", "kmeans"])
def test_identical_pairs_are_one_clear_error(strategy):
    U = np.tile(np.eye(4, dtype=np.float32)[0], (50, 1))
    with pytest.raises(ConfigError, match="among 50 pairs no so many may share a batch"):
        select((U, U), strategy=strategy, batch_size=5)
    assert select(
        (U, U), strategy="random", batch_size=5, separate_duplicates=False
    ).batches.shape == (10, 5)


@pytest.mark.parametrize(
    ("cluster_size", "share", "num_random"), [(16, 0.5, 16), (8, 0.75, 16), (8, 0.25, 0)]
)
def test_a_share_that_comes_to_none_or_all_is_refused(
    random_pairs, cluster_size, share, num_random
):
    with pytest.raises(ConfigError, match=rf"random_share: is {share}.* to {num_random} random pa"):
        select(random_pairs, cluster_size=cluster_size, random_share=share)


@pytest.mark.parametrize("seed", range(8))
def test_osgd_finds_a_place_for_duplicates(seed):
    """Those are hard, and in the few batches that are kept there is none."""
    U, V = (unit_rows(np.random.default_rng(side).standard_normal((64, 6))) for side in range(2))
    U[32:42], V[32:42] = U[:10], V[:10]
    batches = select((U, V), (seed, 1), strategy="osgd").batches
    assert len(batches) == 1
    same = np.arange(32)
    assert together(batches, same[:10], same[:10] + 32) == 0


def test_a_margin_that_forbids_everything_is_one_clear_error(random_pairs):
    U, V = (side[:12] for side in random_pairs)
    with pytest.raises(ConfigError, match=r"loosen selection\.hardness"):
        select((U, V), batch_size=6, margin=2)


def test_hardness_has_no_effect_on_whole_sets(random_pairs):
    U, V = (side[:6].copy() for side in random_pairs)
    with pytest.raises(ConfigError, match=r"margin: is 0\.1, but strategy full"):
        select((U, V), batch_size=6, strategy="full", margin=0.1)
    with pytest.raises(ConfigError, match=r"random_share: is 0\.5, but strategy all"):
        select((U, V), batch_size=6, strategy="all", random_share=0.5)
    U[3] = U[2]
    assert select((U, V), batch_size=6, strategy="full").batches.shape == (1, 6)


PROGRAM = """
import numpy as np
from tests.conftest import planted_pairs
from tests.unit.selection.test_hardness import select
U, V, _ = planted_pairs(num_clusters=40, per_cluster=16, dim=16)
U[:200] = U[200:400]
chosen = select((U, V), index={index!r}, margin=-0.1, cluster_size=4, random_share=0.25)
assert chosen.fields["num_moved"] and chosen.fields["num_false_negatives"]
print(chosen.batches.tolist())
"""


@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_the_batches_do_not_depend_on_the_number_of_threads(index):
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(index=index)], capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_NUM_THREADS": num_threads, "PYTHONPATH": "."},
        ).stdout
        for num_threads in ("1", "2")
    ]  # fmt: skip
    assert len(outputs[0]) > 1000
    assert outputs[0] == outputs[1]
