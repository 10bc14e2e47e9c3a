"""What comes before the first round, and needs no Ray: pairs are numbered and counted, the encoder is prepared."""

import json
from pathlib import Path

from launcher.expected_length import check_batch, check_length
from launcher.run_state import Run
from selection.artifacts import write_json
from selection.errors import ConfigError
from selection.shards import build_index
from trainer.datasets.cifar100_c import count_corruptions
from trainer.encoders import prepare_encoder


def prepare(run: Run, shards: dict[str, list[Path]], num_workers: int) -> None:
    """Number the pairs of all splits, check that they make batches, and train the tokenizer; no Ray yet.

    Raises:
        ConfigError: a split is empty or not what the run began with, or the training pairs do not suit the batch size,
            the strategy or the steps.
        ArtifactError: a shard cannot be read, or a sample lacks a part.
    """
    for split, paths in shards.items():
        with run.timed("index", 0):
            run.indexes[split] = build_index(paths, run.dir.index(split), run.progress, num_workers)
        if not len(run.indexes[split]):
            raise ConfigError(f"data.{split}: there is no pair in {len(paths)} shards; give others")
    _check_unchanged(run)
    num_pairs = len(run.indexes["train"])
    check_batch(run.config, num_pairs)
    check_length(run.config, num_pairs)
    if "corrupted" in run.indexes:
        count_corruptions(run.indexes["corrupted"])
    with run.timed("encoder", 0):
        prepare_encoder(run.config.encoder, run.indexes["train"], run.dir.encoder, run.progress)


def keep_data(run: Run) -> None:
    """Note what the shards hold, on which ids, schedules and scores of the run rest."""
    write_json(run.dir.data, {split: index.content_hash for split, index in run.indexes.items()})


def _check_unchanged(run: Run) -> None:
    """Other pairs under the same ids would be trained on schedules of those that were there before."""
    known = json.loads(run.dir.data.read_text()) if run.dir.data.is_file() else {}
    for split, index in run.indexes.items():
        if known.get(split, index.content_hash) != index.content_hash:
            raise ConfigError(
                f"data.{split}: its shards are not those that {run.dir.root} began with; bring those back, or choose "
                "another run_dir"
            )
