"""Operations, seconds and reads of the stages of a run.

Legend: n pairs, d dimensions, k neighbours, c cells, B pairs of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.plan.data import Split
from launcher.plan.hardware import (
    CORE_FLOPS_PER_S,
    Resources,
    embed_cores,
    embed_flops_per_s,
    rank_flops_per_s,
    regions_per_node,
    selection_cpus,
)
from launcher.plan.parts import chooses, collects, count_parts
from selection.collected import READ_AT_ONCE
from selection.knn import CELLS_PER_ROOT, MAX_FLAT_PAIRS
from selection.regions import MOST_PROTOTYPES
from selection.shard_index import READ_BLOCK_BYTES
from selection.strategies import plan_num_batches
from trainer.encoder_config import TowersConfig
from trainer.length import step_to_select_from
from trainer.sizes import Sizes

RANK_START_S = 12.0
"""From nothing to the first step of the ranks: benchmarks/NOTES.md."""

GATHER_CORE_S_PER_PAIR = 1e-5
"""To read a pair and to hash its parts, when its embeddings are collected from training."""

NODE_READ_BYTES_PER_S = 2e9
"""What a node is taken to read from a shared file system, at most."""

DECODE_CORE_S_PER_BYTE = 1e-7
"""From a JPEG to a picture of 224 pixels: 2.3 ms for 22.7 kB, 6.1 ms for 71 kB, with Pillow."""

VISITED_CELLS = 200
"""Cells that a query looks into: 140 of 2,500 at 10^5 pairs, 320 of 8,000 at 10^6, on a power-law mixture."""

CLUSTER_CORE_S_PER_LINK = 6e-6
"""Of each pair and each of its K, for weights, partition, moves and swaps: mixtures of 20,000 to 120,000 pairs."""

MAX_SELECTION_THREADS = 16
"""More have nothing to do, see `selection/join.py`."""

TRAIN_STAGE = "train, one epoch"
CHOOSING_STAGES = ("embed", "gather", "divide", "neighbors", "cluster")


@dataclass(frozen=True)
class Stage:
    """One stage of a round.

    Attributes:
        name: as the console calls it.
        flops: operations of one time.
        seconds: of one time.
        times: how often it happens in the run.
    """

    name: str
    flops: float
    seconds: float
    times: int


@dataclass(frozen=True)
class Reads:
    """What one epoch of training, or one pass that embeds all pairs, asks of the file system.

    Attributes:
        name: of the pass.
        num_requests: at most; pairs of one slice that lie side by side in a shard are read together.
        num_bytes: read.
    """

    name: str
    num_requests: float
    num_bytes: float


def stages(
    config: RunConfig, splits: Sequence[Split], sizes: Sizes, there: Resources, num_steps: int
) -> list[Stage]:
    """All stages, in the order of a round; selection only where there is any. `num_steps` is of the whole run."""
    n = splits[0].num_pairs
    num_selected = config.rounds - 1 if chooses(config) else 0
    num_starts = 1 if config.selection.refresh.keep_ranks else config.rounds
    found = [
        Stage("start ranks", 0, RANK_START_S, num_starts),
        _training_stage(config, splits[0], sizes, num_steps),
    ]
    if num_selected:
        found.append(
            _gathering_stage(splits[0], there, num_selected)
            if collects(config)
            else _embedding_stage(config, "embed", splits[:1], sizes, there, num_selected)
        )
        found += _selection_stages(config, n, there, num_selected)
    found.append(_embedding_stage(config, "judge", splits[1:], sizes, there, config.rounds))
    return found


def _training_stage(config: RunConfig, split: Split, sizes: Sizes, num_steps: int) -> Stage:
    """An epoch on average: its steps, or the decoding of its pictures, whichever takes longer."""
    train = config.train
    num_epochs = config.rounds * config.selection.refresh.epochs_per_round
    if train.num_steps is not None:
        num_batches = plan_num_batches(config.selection, split.num_pairs, train.batch_size)
        num_epochs = max(1, round(train.num_steps / num_batches))
    epoch_steps = num_steps / num_epochs
    flops = epoch_steps * _step_flops(config, sizes)
    seconds = flops / (train.num_ranks * rank_flops_per_s(config))
    decode_s = epoch_steps * train.batch_size * decode_core_s(config, split) / num_readers(config)
    return Stage(TRAIN_STAGE, flops, max(seconds, decode_s), num_epochs)


def num_readers(config: RunConfig) -> int:
    """Processes that read for all ranks: their own, or the ranks themselves."""
    return config.train.num_ranks * max(1, config.train.reader_processes)


def decode_core_s(config: RunConfig, split: Split) -> float:
    """Seconds of one core to decode the pictures of a pair; nothing where there are none."""
    if not isinstance(config.encoder, TowersConfig):
        return 0.0
    sides = [side for side in (config.encoder.u, config.encoder.v) if side.tower == "image"]
    num_decoded = len(sides) / max(1, len({side.part for side in sides}))  # of each picture
    pair_bytes = split.num_bytes / split.num_pairs if sides else 0.0
    return num_decoded * pair_bytes * DECODE_CORE_S_PER_BYTE


def _embedding_stage(
    config: RunConfig,
    name: str,
    splits: Sequence[Split],
    sizes: Sizes,
    there: Resources,
    times: int,
) -> Stage:
    """A forward pass of every pair, while the CPUs of the workers decode the next ones. A shard goes to one worker."""
    num_shards = sum(split.num_shards for split in splits)
    flops = sum(split.num_pairs for split in splits) * sizes.forward_flops
    decode_core = sum(split.num_pairs * decode_core_s(config, split) for split in splits)
    decode_s = decode_core / embed_cores(config, there, num_shards)
    seconds = flops / embed_flops_per_s(config, there, num_shards)
    return Stage(name, flops, max(seconds, decode_s), times)


def _gathering_stage(split: Split, there: Resources, times: int) -> Stage:
    """What training has computed already is read and sorted."""
    read_s = split.num_bytes / (there.num_nodes * NODE_READ_BYTES_PER_S)
    cores = there.num_nodes * there.cpus_per_node
    return Stage("gather", 0, max(read_s, split.num_pairs * GATHER_CORE_S_PER_PAIR / cores), times)


def _selection_stages(
    config: RunConfig, n: int, there: Resources, num_selected: int
) -> list[Stage]:
    """Of one node, or of all that there are, where each selects some regions side by side, and then the next ones."""
    d, num_parts = config.encoder.dim, count_parts(config, n)
    cpus = selection_cpus(config, there)
    num_places, cores = 1, min(MAX_SELECTION_THREADS, cpus)
    if num_parts > 1:
        num_places = there.num_nodes * regions_per_node(config, there)
        cores = min(cores, config.selection.regions.cpus_per_region or cores)
    num_turns = math.ceil(num_parts / num_places)
    search = neighbor_flops(n // num_parts, d, config.selection.graph.index)
    search_s = num_turns * search / (cores * CORE_FLOPS_PER_S)
    cluster_s = num_turns * cluster_core_s(config, n // num_parts) / cores
    found = [
        Stage("neighbors", num_parts * search, search_s, num_selected),
        Stage("cluster", 0, cluster_s, num_selected),
    ]
    if num_parts > 1:
        divide = 2.0 * n * num_parts * MOST_PROTOTYPES * d
        divide_s = divide / (there.num_nodes * cpus * CORE_FLOPS_PER_S)
        found.insert(0, Stage("divide", divide, divide_s, num_selected))
    return found


def hidden_s(config: RunConfig, num_steps: int, stages: Sequence[Stage]) -> float:
    """Seconds of selecting and judging during which the ranks train anyway; `num_steps` is of the whole run."""
    if not config.selection.overlaps:
        return 0.0
    seconds = {stage.name: stage.seconds for stage in stages}
    train_s = sum(s.times * s.seconds for s in stages if s.name == TRAIN_STAGE) / config.rounds
    every, steps_per_round = config.train.checkpoint_every_steps, num_steps / config.rounds
    num_batches = round(steps_per_round / config.selection.refresh.epochs_per_round)
    first_step = step_to_select_from(every, num_batches, config.selection.collects)
    begins_s = train_s * first_step / steps_per_round
    select_s = sum(seconds.get(name, 0.0) for name in CHOOSING_STAGES)
    hidden = 0.0
    for number in range(config.rounds):
        judge_s = min(seconds["judge"], train_s) if number else 0.0
        left_s = max(0.0, train_s - max(judge_s, begins_s))
        hidden += judge_s + (min(select_s, left_s) if number + 1 < config.rounds else 0.0)
    return hidden


def _step_flops(config: RunConfig, sizes: Sizes) -> float:
    """Forward, and twice that backward, for the encoder and for the logits of a batch in both directions."""
    batch_size = config.train.batch_size
    return 3 * batch_size * (sizes.forward_flops + 4 * batch_size * config.encoder.dim)


def neighbor_flops(n: int, d: int, index: str) -> float:
    """Of the search, both ways: everything with everything, or with the centroids twice and in the cells visited."""
    if index == "flat" or (index == "auto" and n <= MAX_FLAT_PAIRS):
        return 4.0 * n * n * d
    num_cells = CELLS_PER_ROOT * math.sqrt(n)
    return 8.0 * n * num_cells * d + 4.0 * n * VISITED_CELLS * n / num_cells * d


def cluster_core_s(config: RunConfig, n: int) -> float:
    """Seconds of one core, from neighbours to batches."""
    return CLUSTER_CORE_S_PER_LINK * config.selection.graph.num_neighbors * n


def reads(config: RunConfig, train: Split, num_steps: int, num_epochs: int) -> list[Reads]:
    """Requests of an average epoch and of an embedding pass, by `selection/shard_index.py`."""
    n, pair_bytes = train.num_pairs, train.pair_bytes
    # fewer than n where batches are left out
    trained = num_steps * config.train.batch_size / num_epochs
    collected = collects(config)
    batch = READ_AT_ONCE if collected else config.selection.embed.batch_size
    blocks = max(1.0, batch * pair_bytes / READ_BLOCK_BYTES)
    return [
        Reads(TRAIN_STAGE, trained, trained * pair_bytes),
        Reads("gather" if collected else "embed", n / batch * blocks, n * pair_bytes),
        Reads("index, once", n * train.parts_per_pair, n * train.parts_per_pair * 512),
    ]
