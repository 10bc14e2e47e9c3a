"""The README's example as it stands, on the real sentence-transformers and a model made on the spot."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from selection import ScheduleBatchSampler
from selection.schedule import check_batches
from tests.readme import example_with

NUM_PAIRS, NUM_TOPICS, BATCH_SIZE, NUM_EPOCHS = 320, 20, 64, 3
NUM_BATCHES = NUM_PAIRS // BATCH_SIZE


def tiny_model():
    """The mean of word vectors; the first words of anchor and positive i are numbers i and N + i."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"{side}{number}" for side in ("question", "answer") for number in range(NUM_PAIRS)]
    words += [f"topic{number}" for number in range(NUM_TOPICS)] + ["unknown"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    module = StaticEmbedding(tokenizer, embedding_dim=16)
    return SentenceTransformer(modules=[module], device="cpu")


def questions_and_answers():
    from datasets import Dataset

    topics = np.random.default_rng(0).integers(NUM_TOPICS, size=NUM_PAIRS)
    return Dataset.from_dict(
        {
            "anchor": [f"question{i} topic{topic}" for i, topic in enumerate(topics)],
            "positive": [f"answer{i} topic{topic}" for i, topic in enumerate(topics)],
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the example left behind: the schedules it used, and the pairs of every step as the model saw them."""
    model, schedules, seen = tiny_model(), [], []

    def record(module, inputs):
        if module.training:
            seen.append(inputs[0]["input_ids"][::2].cpu().numpy())  # every second word is a topic

    model[0].register_forward_pre_hook(record)
    set_schedule = ScheduleBatchSampler.set_schedule

    def set_and_keep(sampler, schedule):
        schedules.append(schedule)
        set_schedule(sampler, schedule)

    names = {"model": model, "dataset": questions_and_answers()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        patch.setattr(ScheduleBatchSampler, "set_schedule", set_and_keep)
        exec(example_with("SentenceTransformerTrainer"), names)
    return SimpleNamespace(names=names, schedules=schedules, seen=seen)


def test_the_trainer_consumes_the_chosen_batches(trained):
    anchors, positives = trained.seen[::2], trained.seen[1::2]
    assert len(anchors) == len(positives) == NUM_EPOCHS * NUM_BATCHES
    steps = iter(zip(anchors, positives, strict=True))
    for epoch, schedule in enumerate(trained.schedules):
        sampler = ScheduleBatchSampler(schedule)
        sampler.set_epoch(epoch)
        for batch in sampler:
            anchor, positive = next(steps)
            assert anchor.tolist() == batch
            assert (positive - NUM_PAIRS).tolist() == batch


def test_batches_are_chosen_again_for_every_epoch(trained):
    assert [schedule.fields["round"] for schedule in trained.schedules] == [0, 1, 2]
    for schedule in trained.schedules:
        check_batches(schedule.batches, schedule.leftover, NUM_PAIRS)
        assert schedule.fields["temperature"] == pytest.approx(0.05)
        assert schedule.fields["batch_loss"] > 1.2 * schedule.fields["random_batch_loss"]
    first, second, _ = (np.sort(np.sort(s.batches), axis=0) for s in trained.schedules)
    assert not np.array_equal(first, second)


def test_other_data_gets_the_batches_of_the_trainer(trained):
    other = questions_and_answers().select(range(10))
    trainer = trained.names["trainer"]
    sampler = trainer.get_batch_sampler(other, batch_size=4, drop_last=False)
    assert [len(batch) for batch in sampler] == [4, 4, 2]


def prepared(sampler, num_processes, process_index, split_batches=False):
    from accelerate.data_loader import prepare_data_loader

    loader = DataLoader(range(24), batch_sampler=sampler)
    return prepare_data_loader(
        loader,
        num_processes=num_processes,
        process_index=process_index,
        split_batches=split_batches,
    )


def epochs(loader, count=2):
    return [[batch.tolist() for batch in loader] for _ in range(count)]


BATCHES = np.random.default_rng(0).permutation(24)[:20].reshape(5, 4)


def test_accelerate_deals_out_whole_batches_as_many_to_each():
    first, second = (epochs(prepared(ScheduleBatchSampler(BATCHES), 2, i)) for i in range(2))
    for epoch in range(2):
        sampler = ScheduleBatchSampler(BATCHES)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert first[epoch] == order[0:4:2]
        assert second[epoch] == order[1:4:2]


def test_accelerate_splits_batches_as_ranks_do():
    for rank in range(2):
        split = epochs(prepared(ScheduleBatchSampler(BATCHES), 2, rank, split_batches=True))
        own = ScheduleBatchSampler(BATCHES, rank=rank, world_size=2)
        assert split == epochs(prepared(own, 1, 0))


def test_accelerate_skips_what_was_trained():
    from accelerate import skip_first_batches

    loader = prepared(ScheduleBatchSampler(BATCHES), 1, 0)
    loader.set_epoch(3)
    sampler = ScheduleBatchSampler(BATCHES)
    sampler.set_epoch(3, start=2)
    rest = skip_first_batches(loader, 2)
    rest.set_epoch(3)
    assert [batch.tolist() for batch in rest] == list(sampler)
