import itertools
import math
import subprocess
import sys

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from selection.config import (
    GraphConfig,
    MetisConfig,
    OsgdConfig,
    PaperSpectralConfig,
    SelectionConfig,
)
from selection.errors import ConfigError
from selection.problem import Problem
from selection.quality import batch_losses, captured_affinity
from selection.select import make_schedule
from selection.strategies import STRATEGIES, baselines, paper, plan_num_batches
from selection.strategies.partitioners import integers
from tests.conftest import planted_pairs, unit_rows
from tests.unit.selection.test_affinity import slow_weight

TEMPERATURE = 0.1
WITH_A_GRAPH = ("spectral", "metis", "kaminpar", "rcm", "random_walk")
EACH_PAIR_ONCE = (*WITH_A_GRAPH, "random", "paper_spectral", "kmeans")


def make_problem(pairs, group_size, batch_size=None, seed=(0, 1), **fields):
    U, V = pairs
    config = SelectionConfig(**fields)
    return Problem(U, V, batch_size or group_size, group_size, TEMPERATURE, config, seed)


def form(name, pairs, group_size, **fields):
    return STRATEGIES[name](make_problem(pairs, group_size, strategy=name, **fields))


def test_every_name_has_a_function():
    assert set(STRATEGIES) == set(SelectionConfig.model_fields["strategy"].annotation.__args__)


@st.composite
def small_problems(draw):
    """Random, identical, or far apart in several components; from one batch of 2 pairs to 8 batches."""
    group_size, num_groups = draw(st.integers(2, 6)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["random", "identical", "components"]))
    U = rng.standard_normal((num_groups * group_size, 8))
    if kind == "identical":
        U[:] = U[0]
    if kind == "components":
        U = np.eye(8)[np.arange(len(U)) % 3] + 0.01 * U
    V = U + 0.1 * rng.standard_normal(U.shape) * (kind != "identical")
    num_neighbors, first_rank = draw(st.integers(1, 60)), draw(st.sampled_from([0, 0, 2, 1000]))
    graph = GraphConfig(
        num_neighbors=num_neighbors, first_rank=first_rank, mutual=draw(st.booleans())
    )
    return (unit_rows(U), unit_rows(V)), group_size, graph


@pytest.mark.parametrize("name", EACH_PAIR_ONCE)
@settings(max_examples=15, deadline=None)
@given(small_problems(), st.integers(0, 3))
def test_each_pair_is_in_one_group(name, small_problem, seed):
    pairs, group_size, graph = small_problem
    few = PaperSpectralConfig(batches_per_group=3)
    first, second = (
        form(name, pairs, group_size, seed=(seed, 1), graph=graph, paper_spectral=few)
        for _ in range(2)
    )
    assert first.dtype == np.int64
    assert first.shape == (len(pairs[0]) // group_size, group_size)
    np.testing.assert_array_equal(np.sort(first.ravel()), np.arange(len(pairs[0])))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(set(EACH_PAIR_ONCE) - {"rcm"}))
def test_another_seed_makes_other_groups(name, random_pairs):
    groups = [
        np.sort(form(name, random_pairs, 8, seed=seed), axis=1) for seed in ((0, 1), (1, 1), (0, 2))
    ]
    assert not np.array_equal(groups[0], groups[1])
    assert not np.array_equal(groups[0], groups[2])


@pytest.mark.parametrize("name", [*EACH_PAIR_ONCE, "osgd"])
def test_groups_do_not_depend_on_the_number_of_threads(name):
    U, V, _ = planted_pairs(num_clusters=80, per_cluster=12, dim=48)
    before = numba.get_num_threads()
    groups = []
    for num_threads in (1, before):
        numba.set_num_threads(num_threads)
        with threadpool_limits(num_threads):
            groups.append(form(name, (U, V), 16))
    np.testing.assert_array_equal(*groups)


@pytest.fixture(scope="module")
def planted():
    """24 clusters of 16 pairs, and their full affinity."""
    U, V, cluster_ids = planted_pairs(num_clusters=24, per_cluster=16, dim=16)
    problem = make_problem((U, V), 8, graph=GraphConfig(num_neighbors=15))
    return (U, V), cluster_ids, problem.affinity


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("spectral", 20),
        ("metis", 20),
        ("kaminpar", 20),
        ("kmeans", 20),
        ("random_walk", 20),
        ("rcm", 20),
        ("paper_spectral", 10),  # a pair meets a third of its cluster in its random group
    ],
)
def test_groups_gather_what_is_confused(planted, name, least):
    """How many times as much affinity is captured as by random groups; 25 is about the most there is."""
    pairs, _, affinity = planted
    settings = {
        "graph": GraphConfig(num_neighbors=15),
        "paper_spectral": PaperSpectralConfig(batches_per_group=16),
    }
    captured, by_chance = (
        captured_affinity(affinity, form(which, pairs, 8, **settings)) for which in (name, "random")
    )
    assert captured > least * by_chance


@pytest.mark.parametrize("name", ["metis", "kaminpar", "kmeans", "spectral"])
def test_groups_of_the_size_of_the_clusters_are_the_clusters(planted, name):
    pairs, cluster_ids, _ = planted
    groups = form(name, pairs, 16, graph=GraphConfig(num_neighbors=15))
    assert np.mean([np.unique(cluster_ids[group]).size == 1 for group in groups]) > 0.8


@pytest.mark.parametrize(
    ("name", "num_pairs", "batch_size", "num_batches"),
    [
        *((name, 330, 8, 41) for name in EACH_PAIR_ONCE),
        ("osgd", 330, 8, 7),
        ("full", 16, 16, 1),
        ("all", 16, 2, 120),
    ],
)
def test_every_strategy_makes_a_schedule(
    tmp_path, random_pairs, name, num_pairs, batch_size, num_batches
):
    pairs = tuple(side[:num_pairs] for side in random_pairs)
    config = SelectionConfig(strategy=name, osgd=OsgdConfig(num_candidates=20, num_kept=3))
    nothing = np.empty(0, np.int64)
    schedule = make_schedule(
        tmp_path / "s", pairs, batch_size, TEMPERATURE, config, (0, 1), nothing, {}
    )
    assert schedule.batches.shape == (num_batches, batch_size)
    assert schedule.manifest["num_pairs"] == num_pairs
    assert schedule.manifest["ids_repeat"] == (name == "all")
    assert schedule.manifest["batch_loss"] > 0.9 * schedule.manifest["random_batch_loss"]


# full, all, osgd


def test_full_is_one_batch_of_all(random_pairs):
    np.testing.assert_array_equal(form("full", random_pairs, 400), np.arange(400)[None])


def test_all_is_every_batch_once(random_pairs):
    pairs = [side[:7] for side in random_pairs]
    batches = form("all", pairs, 3)
    assert {tuple(batch) for batch in batches} == set(itertools.combinations(range(7), 3))
    assert len(batches) == math.comb(7, 3)


@pytest.mark.parametrize(
    ("name", "group_size", "batch_size", "message"),
    [
        ("full", 200, 200, "full takes all 400 pairs as one batch, but 200 of a batch"),
        ("all", 8, 8, r"all would make about 10\^16 batches of 8 .* at most 100,000 are made"),
        ("all", 200, 200, r"about 10\^119 batches"),
        ("all", 2, 4, "groups of 2 are asked for; set neither a cluster size nor a random share"),
    ],
)
def test_batches_that_cannot_be_made(random_pairs, name, group_size, batch_size, message):
    with pytest.raises(ConfigError, match=message):
        form(name, random_pairs, group_size, batch_size=batch_size)


def test_the_limit_of_all():
    assert baselines.count_every(447, 2) == math.comb(447, 2) == 99_681
    assert baselines.count_every(baselines.MAX_BATCHES, 1) == baselines.MAX_BATCHES
    with pytest.raises(ConfigError, match="would make about"):
        baselines.count_every(448, 2)  # 100,128
    with pytest.raises(ConfigError, match="fewer than a batch"):
        baselines.count_every(3, 4)


def test_osgd_keeps_the_hardest(random_pairs):
    config = OsgdConfig(num_candidates=20, num_kept=5)
    kept = form("osgd", random_pairs, 8, osgd=config)
    candidates = form("random", random_pairs, 8)
    losses = batch_losses(*random_pairs, candidates, TEMPERATURE)
    hardest = [
        candidates[start + place]
        for start in (0, 20, 40)
        for place in sorted(
            range(len(losses[start : start + 20])), key=lambda i: -losses[start + i]
        )[: 5 if start < 40 else 3]
    ]
    np.testing.assert_array_equal(kept, hardest)
    assert batch_losses(*random_pairs, kept, TEMPERATURE).mean() > losses.mean()


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 200))
def test_osgd_always_keeps_about_its_share(num_candidates, num_compared, num_kept):
    if num_kept > num_compared:
        return
    config = OsgdConfig(num_candidates=num_compared, num_kept=num_kept)
    kept = baselines.count_kept(num_candidates, config)
    assert 1 <= kept <= num_candidates
    assert 0 <= kept - num_candidates * num_kept / num_compared < 1


def test_osgd_cannot_keep_more_than_there_are():
    with pytest.raises(ValueError, match="num_kept is 3, but must be at most num_candidates"):
        OsgdConfig(num_candidates=2, num_kept=3)


# paper_spectral


@pytest.fixture(scope="module")
def few_pairs(random_pairs):
    return random_pairs[0][:12], random_pairs[1][:12]


def test_paper_weights_equal_the_formula(few_pairs):
    weights = paper.dense_weights(*few_pairs, 32, TEMPERATURE)
    expected = [
        [slow_weight(*few_pairs, k, l) if k != l else 0 for l in range(12)]  # noqa: E741
        for k in range(12)
    ]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_paper_vectors_are_those_of_the_laplacian(few_pairs):
    weights = paper.dense_weights(*few_pairs, 32, TEMPERATURE)
    root = np.diag(weights.sum(axis=1) ** -0.5)
    _, expected = np.linalg.eigh(np.eye(12) - root @ weights @ root)
    found = np.linalg.inv(root) @ paper.laplacian_vectors(weights, 4)
    np.testing.assert_allclose(np.abs(expected[:, :4].T @ found), np.eye(4), atol=1e-8)


def test_paper_seats_have_the_least_total_distance():
    rng = np.random.default_rng(0)
    points, centers = rng.random((6, 2)), rng.random((3, 2))
    distances = np.linalg.norm(points[:, None] - centers, axis=2)
    batches = paper.seats_around(points, centers)
    found = sum(distances[row, center] for center, batch in enumerate(batches) for row in batch)
    seatings = set(itertools.permutations([0, 0, 1, 1, 2, 2]))
    assert found == pytest.approx(
        min(sum(distances[row, center] for row, center in enumerate(seats)) for seats in seatings)
    )


def test_paper_finds_the_clusters_of_a_group():
    U, V, cluster_ids = planted_pairs(num_clusters=4, per_cluster=8, dim=16)
    batches = form("paper_spectral", (U, V), 8)
    assert {tuple(np.unique(cluster_ids[batch])) for batch in batches} == {(0,), (1,), (2,), (3,)}


def test_paper_pairs_of_different_groups_never_meet(planted):
    """With groups of one batch there is nothing to choose, and batches are random."""
    pairs, _, _ = planted
    one = PaperSpectralConfig(batches_per_group=1)
    groups = form("paper_spectral", pairs, 8, paper_spectral=one)
    expected = {frozenset(batch) for batch in form("random", pairs, 8)}
    assert {frozenset(batch) for batch in groups} == expected


# metis, kaminpar


def test_integers_keep_the_order_of_the_weights():
    weights = sp.csr_array(np.array([[0, 1e-6, 0.02], [1e-6, 0, 40], [0.02, 40, 0]], np.float32))
    np.testing.assert_array_equal(integers(weights), [1, 1, 1, 1000, 1, 1000])
    assert not integers(sp.csr_array((3, 3), dtype=np.float32)).size


@pytest.mark.parametrize("recursive", [True, False])
def test_metis_bisects_or_cuts_at_once(planted, recursive):
    pairs, _, affinity = planted
    graph = GraphConfig(num_neighbors=15)
    groups = form("metis", pairs, 16, graph=graph, metis=MetisConfig(recursive=recursive))
    assert captured_affinity(affinity, groups) > 0.3


@pytest.mark.parametrize(("name", "package"), [("metis", "pymetis"), ("kaminpar", "kaminpar")])
def test_a_missing_package_is_named(monkeypatch, random_pairs, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    expected = (
        rf"strategy: {name} needs the package {package}; pip install {package}, or .* \[bench\]"
    )
    with pytest.raises(ConfigError, match=expected):
        form(name, random_pairs, 8)
    with pytest.raises(ConfigError, match=expected):
        plan_num_batches(SelectionConfig(strategy=name), 100, 10)


def test_peers_are_not_imported_before_they_are_used():
    code = "import sys, selection.strategies; print({'pymetis', 'kaminpar'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


# random_walk


def test_a_walk_stays_in_its_component_as_long_as_it_can():
    U = unit_rows(np.eye(8)[np.arange(40) % 4] + 0.01 * np.random.default_rng(0).random((40, 8)))
    groups = form("random_walk", (U, U), 5, graph=GraphConfig(num_neighbors=9))
    assert all(np.unique(group % 4).size == 1 for group in groups)


# plan_num_batches


@pytest.mark.parametrize("name", [*EACH_PAIR_ONCE, "osgd"])
def test_the_plan_is_what_is_made(random_pairs, name):
    config = SelectionConfig(strategy=name, osgd=OsgdConfig(num_candidates=20, num_kept=5))
    groups = form(name, random_pairs, 8, osgd=config.osgd)
    assert plan_num_batches(config, len(random_pairs[0]), 8) == len(groups)


def test_the_plan_of_toy_strategies():
    assert plan_num_batches(SelectionConfig(strategy="full"), 16, 16) == 1
    assert plan_num_batches(SelectionConfig(strategy="all"), 16, 2) == 120
    with pytest.raises(ConfigError, match="full takes all 17 pairs"):
        plan_num_batches(SelectionConfig(strategy="full"), 17, 16)
    with pytest.raises(ConfigError, match="would make about"):
        plan_num_batches(SelectionConfig(strategy="all"), 10**6, 500_000)
