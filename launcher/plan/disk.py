"""Bytes that a run writes, by artifact; all of it lies in the run directory.

Legend: n pairs, d dimensions, k neighbours, p parameters, w ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.plan.data import Split
from launcher.plan.parts import chooses, collects, count_parts
from trainer.config import TrainConfig

FLOAT32, FLOAT16 = 4, 2
SIZES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": FLOAT16}
"""Bytes of a number, by the name of its kind."""

NEEDED_CHECKPOINTS = 2
"""Kept for judging and selecting beside training, see `trainer/session.py`."""

_SHARD_RECORD_BYTES = 1400
"""Header of a shard's index, its record, and the lines about both in the manifest."""

_ARRAY_HEADER_BYTES = 128
_MANIFEST_BYTES = 1200
_FILE_ENTRY_BYTES = 130
"""Lines of a manifest about one file."""


@dataclass(frozen=True)
class Disk:
    """Bytes by artifact, and `peak_bytes`, when most is there.

    Attributes:
        judged_bytes: of the splits that are judged, once more, as those of the round before go when new ones are there.
        collected_bytes: of what the ranks note, in float32, until it is in the store.
        sorted_bytes: of the embeddings sorted by region, while batches are chosen.
    """

    index_bytes: float
    embeddings_bytes: float
    judged_bytes: float
    collected_bytes: float
    sorted_bytes: float
    schedules_bytes: float
    checkpoints_bytes: float

    @property
    def peak_bytes(self) -> float:
        """All of it; while a checkpoint is saved, one more than is kept."""
        # what was collected goes after a round is judged and before rows are sorted
        more = max(self.judged_bytes + self.collected_bytes, self.sorted_bytes)
        embeddings_bytes = self.embeddings_bytes + more
        return self.index_bytes + embeddings_bytes + self.schedules_bytes + self.checkpoints_bytes


def disk(config: RunConfig, splits: Sequence[Split], num_parameters: int) -> Disk:
    """Bytes of all artifacts."""
    train = config.train
    num_checkpoints = train.keep_checkpoints + 1  # one more while the newest is being written
    if config.selection.overlaps:
        num_checkpoints += NEEDED_CHECKPOINTS
    by_split = {
        split.name: embeddings_bytes(split, config.encoder.dim, config.selection.embed.dtype)
        for split in embedded(config, splits)
    }
    judged_bytes = sum(by_split.values()) - by_split.get("train", 0.0)
    return Disk(
        index_bytes=sum(index_bytes(split) for split in splits),
        embeddings_bytes=sum(by_split.values()),
        judged_bytes=judged_bytes if config.rounds > 1 else 0.0,
        collected_bytes=collected_bytes(config, splits[0].num_pairs),
        sorted_bytes=sorted_bytes(config, splits[0]) if chooses(config) else 0.0,
        schedules_bytes=config.rounds * schedule_bytes(splits[0].num_pairs),
        checkpoints_bytes=num_checkpoints * checkpoint_bytes(num_parameters, train),
    )


def embedded(config: RunConfig, splits: Sequence[Split]) -> list[Split]:
    """Splits whose embeddings lie on disk at the same time: those of the newest round, of every split."""
    return [split for split in splits if split.name != "train" or chooses(config)]


def index_bytes(split: Split) -> float:
    """Per pair 8 bytes, 20 for each part, and its key: `selection/shards.py`."""
    per_pair = 8 + 20 * split.parts_per_pair + split.key_bytes
    return split.num_pairs * per_pair + split.num_shards * _SHARD_RECORD_BYTES


def embeddings_bytes(split: Split, dim: int, dtype: str) -> float:
    """U and V, and two hashes of 8 bytes per pair: `selection/embeddings.py`."""
    per_pair = 2 * dim * SIZES[dtype] + 16
    headers = 2 * (_ARRAY_HEADER_BYTES + _FILE_ENTRY_BYTES)
    return split.num_pairs * per_pair + split.num_shards * headers


def collected_bytes(config: RunConfig, num_pairs: int) -> float:
    """u, v and id of every pair: `selection/collected.py`; the ranks hold as much in memory before they write it."""
    return num_pairs * (2 * config.encoder.dim * FLOAT32 + 8) if collects(config) else 0.0


def sorted_bytes(config: RunConfig, train: Split) -> float:
    """Rows, ids and hashes once more, sorted by region: `selection/blocks.py`; nothing where there is one region."""
    if count_parts(config, train.num_pairs) == 1:
        return 0.0
    rows = 2 * config.encoder.dim * SIZES[config.selection.embed.dtype]
    return train.num_pairs * (rows + 24)


def schedule_bytes(num_pairs: int) -> float:
    """An id of 8 bytes for each pair, in a batch or left over: `selection/schedule.py`."""
    return 8 * num_pairs + 2 * _ARRAY_HEADER_BYTES + _MANIFEST_BYTES


def checkpoint_bytes(num_parameters: int, train: TrainConfig) -> float:
    """DeepSpeed's files and the weights by themselves: `trainer/checkpoint.py`.

    ZeRO keeps a float32 copy of the weights beside AdamW's two moments; without ZeRO the weights are that copy. At
    stage 3 nobody has the weights in one piece, so DeepSpeed writes no such file.
    """
    weights = SIZES[train.precision] * num_parameters
    moments = 2 * FLOAT32 * num_parameters
    copy = FLOAT32 * num_parameters if train.zero_stage else 0
    in_one_piece = 0 if train.zero_stage == 3 else weights
    return in_one_piece + copy + moments + weights
