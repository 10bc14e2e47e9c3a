from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import selection
from selection import (
    ConfigError,
    GraphConfig,
    HardnessConfig,
    SelectionConfig,
    open_schedule,
    select_batches,
    write_schedule,
)
from selection.schedule import check_batches
from tests.conftest import planted_pairs, unit_rows


@pytest.fixture(scope="module")
def clustered():
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=10, dim=16)
    return U, V


def equal(one, other):
    return np.array_equal(one.batches, other.batches)


def test_batches_are_hard_complete_and_reproducible(clustered):
    chosen = select_batches(*clustered, batch_size=8)
    assert chosen.batches.shape == (25, 8)
    assert chosen.batches.dtype == np.int64
    check_batches(chosen.batches, chosen.leftover, 200)
    assert chosen.fields["batch_loss"] > 1.3 * chosen.fields["random_batch_loss"]
    assert chosen.fields["temperature"] == 0.07
    assert equal(chosen, select_batches(*clustered, batch_size=np.int64(8)))
    assert not equal(chosen, select_batches(*clustered, batch_size=8, seed=1))


def as_memory_map(rows, folder):
    np.save(folder / "rows.npy", rows)
    return np.load(folder / "rows.npy", mmap_mode="r")


def as_every_second_row(rows, folder):
    return np.repeat(rows, 2, axis=0)[::2]


@pytest.mark.parametrize(
    "convert",
    [
        as_memory_map,
        as_every_second_row,
        lambda rows, _: rows.astype(np.float64),
        lambda rows, _: rows.astype(">f4"),
        lambda rows, _: np.asfortranarray(rows),
        lambda rows, _: torch.from_numpy(rows),
        lambda rows, _: rows.tolist(),
    ],
)
def test_whatever_holds_the_same_numbers_gives_the_same_batches(clustered, tmp_path, convert):
    U, V = clustered
    converted = select_batches(convert(U, tmp_path), V, batch_size=8)
    assert equal(converted, select_batches(U, V, batch_size=8))


def test_float16_is_near_enough(clustered):
    half = select_batches(*(rows.astype(np.float16) for rows in clustered), batch_size=8)
    whole = select_batches(*clustered, batch_size=8)
    assert half.fields["batch_loss"] == pytest.approx(whole.fields["batch_loss"], rel=0.05)


def test_single_view_data_is_compared_with_itself(clustered):
    U, _ = clustered
    assert equal(select_batches(U, batch_size=8), select_batches(U, U, batch_size=8))


def test_previous_batches_give_the_round_and_those_who_go_first(clustered, tmp_path):
    chosen = select_batches(*clustered, batch_size=60)
    written = write_schedule(tmp_path / "s", chosen.batches, chosen.leftover, chosen.fields)
    after, same = (
        select_batches(*clustered, batch_size=60, previous=previous)
        for previous in (chosen, open_schedule(tmp_path / "s"))
    )
    assert written.manifest["round"] == 0
    assert after.fields["round"] == 1
    assert len(after.leftover) == 200 % 60
    assert not np.intersect1d(chosen.leftover, after.leftover).size
    assert equal(after, same)
    third = select_batches(*clustered, batch_size=60, previous=after, round_number=5)
    assert third.fields["round"] == 5


def test_settings_have_one_place_and_two_shortcuts(clustered):
    config = SelectionConfig(
        strategy="random", temperature=0.5, hardness=HardnessConfig(cluster_size=4)
    )
    fields = select_batches(*clustered, batch_size=8, config=config).fields
    assert (fields["strategy"], fields["temperature"], fields["group_size"]) == ("random", 0.5, 4)
    fields = select_batches(
        *clustered, batch_size=8, config=config, strategy="spectral", temperature=0.1
    ).fields
    assert (fields["strategy"], fields["temperature"], fields["group_size"]) == ("spectral", 0.1, 4)


def test_progress_is_told(clustered):
    stages = []
    select_batches(*clustered, batch_size=8, progress=lambda stage, *_: stages.append(stage))
    assert "neighbors" in stages


KINDS = {
    "random": lambda rng, n: unit_rows(rng.standard_normal((n, 5))),
    "orthogonal": lambda rng, n: np.eye(n),
    "identical": lambda rng, n: np.tile(unit_rows(rng.standard_normal((1, 5))), (n, 1)),
    "two points": lambda rng, n: np.where(rng.random((n, 1)) < 0.5, 1, -1) * np.eye(5)[:1],
    "opposite views": lambda rng, n: np.tile(-np.eye(5)[:1], (n, 1)),
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)), st.integers(2, 40), st.integers(2, 9),
    st.integers(1, 50), st.sampled_from(["flat", "ivf"]), st.sampled_from([0, 0.5]), st.integers(0, 3),
)  # fmt: skip
def test_whatever_the_embeddings_every_pair_is_in_one_batch_or_left_over(
    kind, num_pairs, batch_size, num_neighbors, index, random_share, seed
):
    U = KINDS[kind](np.random.default_rng(seed), num_pairs)
    V = -U if kind == "opposite views" else U
    config = SelectionConfig(
        graph=GraphConfig(num_neighbors=num_neighbors, index=index),
        hardness=HardnessConfig(separate_duplicates=False, random_share=random_share),
    )
    select = partial(select_batches, U, V, batch_size=batch_size, seed=seed, config=config)
    if num_pairs < batch_size:
        with pytest.raises(ConfigError, match=f"there are only {num_pairs} pairs"):
            select()
        return
    chosen = select()
    again = select(previous=chosen)
    for found in (chosen, again):
        assert found.batches.shape == (num_pairs // batch_size, batch_size)
        check_batches(found.batches, found.leftover, num_pairs)
    if num_pairs >= 2 * batch_size:
        assert set(chosen.leftover) <= set(again.batches.ravel())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(2, 4), st.integers(0, 3))
def test_equal_rows_never_meet_or_one_error_says_why(num_points, num_pairs, batch_size, seed):
    if num_pairs < batch_size:
        return
    U = np.eye(6)[np.random.default_rng(seed).integers(num_points, size=num_pairs)]
    if len(np.unique(U, axis=0)) < batch_size:
        with pytest.raises(ConfigError, match="duplicates"):
            select_batches(U, batch_size=batch_size, seed=seed)
        return
    chosen = select_batches(U, batch_size=batch_size, seed=seed)
    check_batches(chosen.batches, chosen.leftover, num_pairs)
    assert {len(np.unique(U[batch], axis=0)) for batch in chosen.batches} == {batch_size}


ROWS = unit_rows(np.random.default_rng(0).standard_normal((20, 4)))


def changed(row, value):
    rows = ROWS.copy()
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("U", "V", "message"),
    [
        (np.arange(4.0), None, "U: holds float64 of shape (4,), expected floating point of shape"),
        (np.ones((4, 2), np.int64), None, "U: holds int64 of shape (4, 2)"),
        (np.ones((4, 2), np.complex64), None, "U: holds complex64"),
        (np.empty((0, 4)), None, "U: holds float64 of shape (0, 4)"),
        (np.empty((20, 0)), None, "U: row 0 is zero or not finite (norm 0), one of 20 such rows among 20"),
        ([[1.0], [1.0, 2.0]], None, "U: cannot be read as a numpy array: "),
        (torch.from_numpy(ROWS).requires_grad_(), None, "U: cannot be read as a numpy array: Can't"),
        (torch.from_numpy(ROWS).bfloat16(), None, "U: cannot be read as a numpy array: Got unsupp"),
        (ROWS, ROWS[:7], "V: has shape (7, 4), but U has (20, 4); row i of both must be pair i"),
        (ROWS, ROWS[:, :3] / np.linalg.norm(ROWS[:, :3], axis=1, keepdims=True), "has shape (20, 3)"),
        (changed(3, 0), None, "U: row 3 is zero or not finite (norm 0); leave such pairs out"),
        (ROWS, changed([5, 7], np.nan), "V: row 5 is zero or not finite (norm nan), one of 2 such"),
        (changed(0, np.inf), None, "U: row 0 is zero or not finite (norm inf)"),
        (changed(0, 1).astype(np.float64) * 1e60, None, "U: row 0 is zero or not finite (norm inf)"),
        (changed(9, 1), None, "U: row 9 is not on the unit sphere (norm 2); divide each row by its"),
        (ROWS * 3, None, "U: row 0 is not on the unit sphere (norm 3), one of 20 such rows"),
    ],
)  # fmt: skip
def test_embeddings_that_cannot_be_used(U, V, message):
    with pytest.raises(ConfigError) as caught:
        select_batches(U, V, batch_size=4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


PREVIOUS = select_batches(ROWS[:8], batch_size=4, strategy="random")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 21}, "batch_size is 21, but there are only 20 pairs"),
        ({"batch_size": 1}, "batch_size: is 1, but must be a whole number, at least 2"),
        ({"batch_size": 8.0}, "batch_size: is 8.0"),
        ({"temperature": 0}, "temperature: is 0, but must be a number above 0"),
        ({"temperature": float("nan")}, "temperature: is nan"),
        ({"temperature": "warm"}, "temperature: is 'warm'"),
        ({"seed": -1}, "seed: is -1, but must be a whole number, at least 0"),
        ({"round_number": 0.5}, "round_number: is 0.5"),
        ({"strategy": "best"}, "strategy: is 'best'; choose one of "),
        ({"config": {"strategy": "random"}}, "config: is a dict; give a SelectionConfig"),
        ({"config": SelectionConfig(hardness=HardnessConfig(cluster_size=3))}, "must divide batch_"),
        ({"previous": PREVIOUS}, "previous: schedules 8 pairs, but there are 20 embeddings"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ConfigError) as caught:
        select_batches(ROWS, **{"batch_size": 4, **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_package_exports_what_it_says():
    homes = [name for names in selection._HOMES.values() for name in names]
    assert sorted(homes) == sorted(selection.__all__)
    assert set(selection.__all__) <= set(dir(selection))
    for name in selection.__all__:
        assert getattr(selection, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'select_badges'"):
        _ = selection.select_badges
