from itertools import pairwise

import numpy as np
import pytest

from selection.alarms import (
    MAX_HUB_SHARE,
    MAX_ISOLATED_SHARE,
    MIN_EFFECTIVE_RANK,
    MIN_GAIN,
    alarms,
)
from selection.config import GraphConfig, SelectionConfig
from selection.knn import find_neighbors
from selection.quality import measure_embeddings
from selection.renewal import measure_renewal
from selection.search_quality import measure_neighbors
from selection.select import choose
from tests.conftest import planted_pairs, unit_rows

HEALTHY = {
    "batch_size": 64,
    "num_batches": 900,
    "num_random_per_batch": 0,
    "group_size": 64,
    "batch_loss": 5.1,
    "random_batch_loss": 2.4,
    "off_sphere_share": 0.0,
    "effective_rank_u": 83.0,
    "effective_rank_v": 70.0,
    "knn_recall": 0.96,
    "hub_share": 0.19,
    "isolated_share": 0.0,
    "kept_mates": 0.1,
    "random_kept_mates": 0.001,
}


def raised(config=None, **changes):
    return alarms({**HEALTHY, **changes}, config or SelectionConfig())


def test_a_healthy_schedule_raises_none():
    assert raised() == []


def test_what_was_not_measured_raises_none():
    assert alarms({}, SelectionConfig()) == []


@pytest.mark.parametrize(
    ("changes", "begins", "holds"),
    [
        ({"off_sphere_share": 0.001}, "embeddings are off the unit sphere", "0.10%"),
        ({"effective_rank_v": 1.2}, "embeddings have collapsed", "of V is 1.20, expected at least 1.5"),
        ({"hub_share": 0.5}, "the graph is out of balance", "take 50% of all places"),
        ({"kept_mates": 0.7}, "the same batches again", "keep 70.0% of their batch mates"),
        ({"knn_recall": 0.9}, "the search misses neighbours", "0.900, expected at least 0.95"),
        ({"knn_recall": 0.4, "knn_recall_in_region": 0.8}, "the search misses neighbours", "is 0.800"),
        ({"neighbors_in_region": 0.2}, "regions cut neighbours apart", "20% of them"),
        ({"isolated_share": 0.3}, "pairs are isolated", "30% of them"),
        ({"batch_loss": 2.4}, "batches are hardly harder than random", "2.400"),
        ({"batch_loss": float("nan")}, "batches are hardly harder than random", "nan"),
    ],
)  # fmt: skip
def test_each_alarm_is_one_line_with_value_and_next_step(changes, begins, holds):
    (line,) = raised(**changes)
    assert line.startswith(begins)
    assert holds in line
    assert "; " in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "changes",
    [
        {"effective_rank_u": MIN_EFFECTIVE_RANK},
        {"hub_share": MAX_HUB_SHARE},
        {"isolated_share": MAX_ISOLATED_SHARE},
        {"knn_recall": 0.95},
        {"batch_loss": 2.4 * MIN_GAIN + 0.001},
        {"kept_mates": 0.5},
    ],
)
def test_at_the_limit_all_is_well(changes):
    assert raised(**changes) == []


def test_several_alarms_at_once():
    assert len(raised(off_sphere_share=1.0, effective_rank_u=1.0, batch_loss=0.0)) == 3


def test_mutual_links_take_hubs_out_of_the_graph():
    assert raised(SelectionConfig(graph=GraphConfig(mutual=True)), hub_share=0.5) == []


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({}, "random"),
        ({"num_random_per_batch": 40}, "spectral"),
        ({"num_batches": 1}, "spectral"),
    ],
)
def test_nobody_expects_random_batches_to_be_hard(changes, strategy):
    assert raised(SelectionConfig(strategy=strategy), batch_loss=2.4, **changes) == []


@pytest.mark.parametrize(
    ("changes", "fires"),
    [
        ({"kept_mates": 0.08, "group_size": 8}, True),  # of at most 7/63 = 0.11
        ({"kept_mates": 0.04, "group_size": 8}, False),
        ({"kept_mates": 0.1, "num_random_per_batch": 32, "group_size": 32}, False),
        ({"kept_mates": 0.2, "num_random_per_batch": 48, "group_size": 16}, True),
        ({"kept_mates": 0.6, "random_kept_mates": 0.5}, False),  # two batches
        ({"kept_mates": 1.0, "random_kept_mates": 1.0}, False),  # the only batch there is
        ({"kept_mates": 0.2, "random_kept_mates": 0.15, "group_size": 2}, False),  # chance prevails
    ],
)
def test_the_same_batches_are_judged_by_what_was_chosen(changes, fires):
    assert bool(raised(**changes)) == fires


@pytest.fixture(scope="module")
def clustered():
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=16, dim=16)
    return U, V


def test_the_same_batches_in_two_rounds_raise_it(clustered):
    """Clusters as large as batches, embeddings that stand still: nothing else could be chosen."""
    first = choose(clustered, 16, 0.1, SelectionConfig(), (0, 1))
    assert first.fields["alarms"] == []
    second = choose(clustered, 16, 0.1, SelectionConfig(), (0, 2), previous_batches=first.batches)
    (line,) = second.fields["alarms"]
    assert line.startswith("the same batches again")


def test_random_rounds_do_not_raise_it():
    rng = np.random.default_rng(0)
    rounds = [rng.permutation(64).reshape(-1, 8) for _ in range(51)]
    for before, batches in pairwise(rounds):
        signals = measure_renewal(batches, before, 64)
        shape = {"batch_size": 8, "group_size": 8, "num_random_per_batch": 0}
        assert alarms({**signals, **shape}, SelectionConfig()) == []


def test_random_batches_are_hardly_harder(random_pairs):
    """Random groups under another name: only the strategy `random` says that they are."""
    fields = choose(random_pairs, 20, 0.1, SelectionConfig(strategy="random")).fields
    assert fields["alarms"] == []
    lines = alarms(fields, SelectionConfig(strategy="spectral"))
    assert [line.split(":")[0] for line in lines] == ["batches are hardly harder than random"]


@pytest.mark.parametrize(("spread", "fires"), [(0.1, True), (1.0, False)])
def test_a_cone_has_collapsed(spread, fires):
    """All embeddings point the same way, give or take `spread`."""
    noise = np.random.default_rng(0).standard_normal((500, 32)) / np.sqrt(32)
    U = unit_rows(np.eye(1, 32) + spread * noise)
    lines = alarms(measure_embeddings(U, U, np.random.default_rng(0)), SelectionConfig())
    assert bool(lines) == fires
    if fires:
        assert "of U is 1.0" in lines[0]
        assert "of V is 1.0" in lines[0]


def test_a_line_has_collapsed_though_its_mean_is_zero():
    U = np.zeros((200, 8), np.float32)
    U[:, 0] = np.resize([1, -1], 200)
    (line,) = alarms(measure_embeddings(U, U, np.random.default_rng(0)), SelectionConfig())
    assert line.startswith("embeddings have collapsed")


@pytest.mark.parametrize(("num_central", "fires"), [(4, True), (0, False)])
def test_a_few_items_that_are_near_to_everything(random_pairs, num_central, fires):
    """Such as empty texts: the v of four pairs lie where all u point to, and are the nearest of every other u."""
    U, V = random_pairs
    V = V.copy()
    V[:num_central] = np.eye(1, 12)
    graph = GraphConfig(num_neighbors=4)
    neighbors = find_neighbors(unit_rows(np.eye(1, 12) + 0.3 * U), V, graph)
    lines = alarms(measure_neighbors(neighbors), SelectionConfig())
    assert [line.split(":")[0] for line in lines] == ["the graph is out of balance"] * fires
