"""The pairs that the trials of a study have in common: looked at before any trial, and compared after all of them."""

import json
from collections.abc import Iterable
from pathlib import Path

from launcher.cpus import usable_cpus
from launcher.expected_length import check_batch
from launcher.plan.data import check_parts
from launcher.record import Record
from launcher.studies.trials.config import StudyConfig, trial_config
from selection.errors import ConfigError
from selection.progress import Progress
from selection.shards import build_index, expand_shards


def count_pairs(study: StudyConfig, progress: Progress) -> int:
    """N of the training pairs, and a look at all data, before any trial waits for it.

    Raises:
        ConfigError: a split has no shards, a shard lacks a part, or there are too few pairs.
    """
    config = trial_config(study, {})
    shards = {
        split: expand_shards(pattern, f"data.{split}") for split, pattern in config.data.splits()
    }
    check_parts(config, shards)
    index = build_index(shards["train"], study.study_dir / "index", progress, usable_cpus())
    check_batch(config, len(index))
    return len(index)


def check_same_pairs(records: Iterable[Record]) -> None:
    """Whether all trials were made on the same pairs.

    Raises:
        ConfigError: one was not.
    """
    known: dict[str, tuple[str, Path]] = {}
    for record in records:
        path = record.dir.data
        held = json.loads(path.read_text()) if path.is_file() else {}
        for split, content_hash in held.items():
            first, root = known.setdefault(split, (content_hash, record.dir.root))
            if content_hash != first:
                raise ConfigError(
                    f"{record.dir.root}: data.{split} held other pairs than for {root}; take another study_dir, or "
                    "delete the trials that were made on pairs which are gone"
                )
