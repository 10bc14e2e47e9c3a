import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from selection.errors import ConfigError
from selection.sampler import ScheduleBatchSampler
from selection.schedule import open_schedule, write_schedule

FIELDS = {"seed": 0, "round": 0, "strategy": "random"}


def table(num_batches, batch_size, seed=0):
    ids = np.random.default_rng(seed).permutation(num_batches * batch_size)
    return ids.reshape(num_batches, batch_size)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_an_epoch_is_every_batch_once_and_ranks_share_each(num_batches, world_size, local, epoch):
    batches = table(num_batches, world_size * local)
    samplers = [
        ScheduleBatchSampler(batches, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(sampler) == num_batches
        assert {len(batch) for batch in sampler} == {sampler.batch_size}
    joined = [np.concatenate(parts).tolist() for parts in zip(*samplers, strict=True)]
    assert sorted(joined) == sorted(batches.tolist())


def test_order_depends_on_seed_and_epoch_alone():
    def order(epoch, seed=0):
        sampler = ScheduleBatchSampler(table(20, 3), seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(1, seed=1)
    assert list(ScheduleBatchSampler(table(20, 3), shuffle=False)) == table(20, 3).tolist()


def test_an_interrupted_epoch_goes_on():
    sampler = ScheduleBatchSampler(table(20, 3))
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, start=13)
    assert list(sampler) == whole[13:]
    assert len(sampler) == 7
    sampler.set_epoch(5)
    assert len(sampler) == 20


def test_new_batches_begin_with_the_next_epoch():
    old, new = table(6, 2), table(4, 2, seed=1)
    sampler = ScheduleBatchSampler(old, shuffle=False)
    begun = iter(sampler)
    sampler.set_schedule(new)
    sampler.set_epoch(1)
    assert list(begun) == old.tolist()
    assert list(sampler) == new.tolist()
    assert sampler.schedule is new


def test_batches_of_another_size_are_refused_and_change_nothing():
    sampler = ScheduleBatchSampler(table(6, 4), world_size=2)
    with pytest.raises(ConfigError, match="its batches of 3 do not divide over 2 ranks"):
        sampler.set_schedule(table(6, 3))
    assert {len(batch) for batch in sampler} == {2}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_takes_a_written_schedule(tmp_path, num_workers):
    schedule = write_schedule(tmp_path / "s", table(8, 4), np.array([32, 33]), FIELDS)
    sampler = ScheduleBatchSampler(open_schedule(tmp_path / "s"))
    loader = DataLoader(range(34), batch_sampler=sampler, num_workers=num_workers)
    assert len(loader) == 8
    assert [batch.tolist() for batch in loader] == list(sampler)
    assert sorted(sampler) == sorted(schedule.batches.tolist())
    assert all(type(number) is int for batch in sampler for number in batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(6),), "holds int64 of shape (6,), expected row numbers"),
        ((np.ones((2, 3)),), "holds float64 of shape (2, 3)"),
        ((np.empty((0, 4), np.int64),), "of shape (0, 4)"),
        ((table(2, 4), 2, 2), "rank: is 2, but must be from 0 to world_size - 1 (1)"),
        ((table(2, 4), 0, 0), "world_size: is 0, but must be a whole number, at least 1"),
        ((table(2, 4), 0, 1, -1), "seed: is -1, but must be a whole number, at least 0"),
        ((table(2, 4), 0, 3), "batches of 4 do not divide over 3 ranks"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ConfigError) as caught:
        ScheduleBatchSampler(*arguments)
    assert message in str(caught.value)


def test_a_trainer_need_not_import_what_selection_needs():
    code = (
        "import sys; from selection import ScheduleBatchSampler, open_schedule;"
        "print([m for m in ('torch', 'ray', 'faiss', 'numba', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("place", "name"), [((-1, 0), "epoch"), ((0, -1), "start")])
def test_an_epoch_that_cannot_be_is_refused(place, name):
    with pytest.raises(ConfigError, match=f"{name}: is -1, but must be a whole number"):
        ScheduleBatchSampler(table(2, 4)).set_epoch(*place)
