from contextlib import nullcontext

import pytest

from launcher.plan.data import SAMPLED_SHARDS, check_parts, count_splits
from selection.errors import ConfigError

DESCRIBED = ("plan.num_pairs=5000", "plan.pair_bytes=3000")


def test_few_shards_are_counted(make_config, write_shard, tmp_path):
    for number, pairs in enumerate((3, 40, 7)):
        write_shard(tmp_path / f"train-{number:03}.tar", pairs)
    write_shard(tmp_path / "heldout-0.tar", 5)
    train, heldout = count_splits(make_config(f"data.train={tmp_path}/train-*.tar", *DESCRIBED))
    assert (train.num_pairs, train.num_shards, train.source) == (50, 3, "counted")
    assert train.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("train-*"))
    assert (train.parts_per_pair, train.key_bytes) == (2, 6)
    assert heldout.num_pairs == 5


def test_of_many_shards_a_few_are(make_config, write_shard, tmp_path):
    pairs = [40, 80, 120, 60, 100, 50, 90, 70, 110, 80]
    for number, count in enumerate(pairs):
        write_shard(tmp_path / f"train-{number:03}.tar", count)
    write_shard(tmp_path / "heldout-0.tar", 5)
    train, _ = count_splits(make_config())
    assert train.num_pairs == pytest.approx(sum(pairs), rel=0.1)
    assert train.source.startswith(f"estimated from {SAMPLED_SHARDS} of 10 shards")


def test_what_is_elsewhere_is_taken_from_the_configuration(make_config):
    config = make_config("data.heldout=/nowhere/heldout-{00..01}.tar", *DESCRIBED)
    train, heldout = count_splits(config)
    assert (train.num_pairs, train.num_shards, train.num_bytes) == (5000, 10, 15_000_000)
    assert train.source == "not found here; planned from plan.num_pairs"
    assert (heldout.num_pairs, heldout.num_shards) == (1000, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"data\.train: found no file .*train-000\.tar.*plan\.num_pairs"),
        (("data.train=s3://b/t.tar", *DESCRIBED), r"data\.train: .* is remote"),
        (("data.train=t{0..", *DESCRIBED), r"data\.train: .* unbalanced braces"),
        (("plan.num_pairs=3",), r"plan\.num_pairs is 3 and pair_bytes None.*give both"),
    ],
)
def test_mistakes(make_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        count_splits(make_config(*overrides))


def test_one_missing_shard_is_a_mistake_and_not_another_machine(make_config, write_shard, tmp_path):
    write_shard(tmp_path / "train-004.tar", 3)
    with pytest.raises(ConfigError, match=r"found no file .*train-000"):
        count_splits(make_config(*DESCRIBED))


def test_parts_that_the_encoder_does_not_find(make_config, write_shard, tmp_path):
    write_shard(tmp_path / "train-0.tar", 3, parts=("txt", "json"))
    with pytest.raises(ConfigError, match=r"reads the part 'py', but .* holds txt, json"):
        count_splits(make_config(f"data.train={tmp_path}/train-0.tar"))
    write_shard(tmp_path / "train-1.tar", 3)
    for number, refused in ((0, True), (1, False)):
        shards = {"train": [tmp_path / f"train-{number}.tar", tmp_path / "is-not-looked-at.tar"]}
        expected = pytest.raises(ConfigError, match="'py'") if refused else nullcontext()
        with expected:
            check_parts(make_config(), shards)


def test_shards_without_a_pair(make_config, write_shard, tmp_path):
    write_shard(tmp_path / "train-0.tar", 0)
    with pytest.raises(ConfigError, match=r"data\.train: there is no pair in 1 of 1 shards"):
        count_splits(make_config(f"data.train={tmp_path}/train-0.tar"))
