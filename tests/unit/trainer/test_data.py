from itertools import chain

import numpy as np
import pytest

from selection.schedule import write_schedule
from trainer.data import RankSampler, Stopwatch, round_loader

NUM_PAIRS, BATCH_SIZE = 62, 12


@pytest.fixture
def schedule(tmp_path):
    ids = np.random.default_rng(0).permutation(NUM_PAIRS)
    batches = ids[:60].reshape(-1, BATCH_SIZE)
    return write_schedule(
        tmp_path / "schedule", batches, ids[60:], {"seed": 5, "round": 2, "strategy": "random"}
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_together_read_the_batches_of_the_schedule(schedule, world_size):
    samplers = [RankSampler(schedule, 0, 10, rank, world_size) for rank in range(world_size)]
    for step, slices in enumerate(zip(*samplers, strict=True)):
        assert list(chain(*(part.ids for part in slices))) == schedule.batch_at(step).tolist()
    assert step == 9


@pytest.mark.parametrize("first", [0, 3, 5, 8, 10])
def test_a_sampler_starts_anywhere(schedule, first):
    everything = list(RankSampler(schedule, 0, 10, 1, 2))
    assert list(RankSampler(schedule, first, 10, 1, 2)) == everything[first:]
    assert len(RankSampler(schedule, first, 10, 1, 2)) == 10 - first


def test_an_epoch_takes_every_batch_once_and_is_ordered_once(schedule, monkeypatch):
    calls = []
    order = type(schedule).epoch_order
    monkeypatch.setattr(
        type(schedule), "epoch_order", lambda self, epoch: calls.append(epoch) or order(self, epoch)
    )
    steps = [step.ids for step in RankSampler(schedule, 0, 10, 0, 1)]
    assert calls == [0, 1]
    first, second = steps[:5], steps[5:]
    assert (
        sorted(map(tuple, first))
        == sorted(map(tuple, second))
        == sorted(map(tuple, schedule.batches))
    )
    assert first != second


def collate_keys(samples, draw):
    return {"u": [sample["__key__"] for sample in samples], "v": draw}


@pytest.mark.parametrize("reader_processes", [0, 1])
def test_the_loader_keeps_the_order(schedule, pairs, reader_processes):
    sampler = RankSampler(schedule, 2, 7, 1, 3)
    batches = list(round_loader(pairs, collate_keys, sampler, reader_processes))
    read = [([int(key) for key in batch["u"]], tuple(batch["v"])) for batch in batches]
    assert read == list(sampler)


def test_a_batch_is_one_read(schedule, pairs):
    sampler = RankSampler(schedule, 0, 3, 0, 2)
    list(round_loader(pairs, collate_keys, sampler))
    assert pairs.reads == [step.ids for step in sampler]


def test_draws_are_those_of_the_step_whatever_the_rank_and_where_it_starts(schedule):
    everything = [step.draw for step in RankSampler(schedule, 0, 10, 0, 1)]
    assert everything == [(5, 2, step) for step in range(10)]
    assert [step.draw for step in RankSampler(schedule, 7, 10, 2, 3)] == everything[7:]


def test_the_stopwatch_passes_everything_on():
    stopwatch = Stopwatch()
    batches = [{"u": number} for number in range(4)]
    assert list(stopwatch.time(batches)) == batches
    assert 0 < stopwatch.waited_s < 1
