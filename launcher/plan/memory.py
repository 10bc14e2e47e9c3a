"""Memory of the processes of a run, at their peaks.

Legend: n pairs, d dimensions, k neighbours, b pairs of a rank, B pairs of a batch, p parameters, w ranks.
"""

from dataclasses import astuple, dataclass

from launcher.config import RunConfig
from launcher.plan.data import Split
from launcher.plan.disk import FLOAT32, SIZES
from launcher.plan.parts import count_parts
from trainer.config import TrainConfig
from trainer.sizes import Sizes

RANK_PROCESS_BYTES = 0.7e9
"""An interpreter with torch and DeepSpeed; of a GPU's memory, about what CUDA takes for itself."""

WORKER_PROCESS_BYTES = 0.6e9
"""An interpreter with torch, or with Numba and FAISS."""

ENTRIES_PER_NEIGHBOR = 3.5
"""Entries of the affinity for each pair and each of its K: 4 if no two links were the same; 3.5 on code search."""

PARTITION_BYTES_PER_PAIR = 800
"""The strongest links, eigenvectors and their products; as measured on mixtures, whatever d and K are."""

SWAPPING_BYTES_PER_PAIR = 450
"""Which batches meet and when, beside the similarities inside the batches; as measured on a mixture."""

LINKING_BYTES_PER_NEIGHBOR = 6 * FLOAT32
"""While the graph is made: the neighbours in both directions, and both ends of every link before they are sorted."""

JOINING_BYTES_PER_PAIR = 36
"""The region of each pair, its id in the batches of the region and of the schedule, and two copies to check them."""

_BUCKET_NUMBERS = 50_000_000  # of `trainer/engine.py`


@dataclass(frozen=True)
class RankMemory:
    """Of one rank, on its GPU if it has one."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    loss_bytes: float
    process_bytes: float = RANK_PROCESS_BYTES

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return sum(astuple(self))


@dataclass(frozen=True)
class SelectionMemory:
    """Of the task that chooses the batches of a round, on one node."""

    embeddings_bytes: float
    graph_bytes: float
    working_bytes: float
    process_bytes: float = WORKER_PROCESS_BYTES

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return sum(astuple(self))


def rank_memory(train: TrainConfig, sizes: Sizes, dim: int) -> RankMemory:
    """Weights, gradients and AdamW's state by ZeRO stage; activations of b pairs; logits of [b, B] both ways."""
    p, w, number = sizes.num_parameters, train.num_ranks, SIZES[train.precision]
    b = train.batch_size // w
    stage = train.zero_stage
    optimizer = 2 * FLOAT32 * p
    if stage:
        copy = FLOAT32 * p
        buckets = 2 * number * min(p, _BUCKET_NUMBERS)
        optimizer = (optimizer + copy) / w + buckets
    return RankMemory(
        weights_bytes=number * p / (w if stage == 3 else 1),
        gradients_bytes=number * p / (w if stage >= 2 else 1),
        optimizer_bytes=optimizer,
        activations_bytes=number * b * sizes.num_activations,
        # logits and their softmax both ways, and the rows of all ranks with their gradients
        loss_bytes=FLOAT32 * (4 * b * train.batch_size + 4 * train.batch_size * dim),
    )


def embed_worker_bytes(config: RunConfig, sizes: Sizes, train: Split) -> float:
    """Of one embedding worker: weights in float32, a few layers of one forward pass, and the rows of its shard."""
    embed = config.selection.embed
    layers = 4 * FLOAT32 * embed.batch_size * sizes.largest_layer
    rows = 2 * FLOAT32 * 2 * config.encoder.dim * train.num_pairs / train.num_shards
    return 2 * FLOAT32 * sizes.num_parameters + layers + rows + WORKER_PROCESS_BYTES


def graph_bytes(num_pairs: int, num_neighbors: int) -> float:
    """The affinity: 8 bytes for each entry, and where each row starts."""
    return num_pairs * (8 * ENTRIES_PER_NEIGHBOR * num_neighbors + FLOAT32)


def selection_memory(config: RunConfig, num_pairs: int) -> SelectionMemory:
    """Of choosing batches for `num_pairs` pairs, or for the largest region of them.

    A strategy that looks at no graph needs less.
    """
    is_divided = count_parts(config, num_pairs) > 1
    n = config.selection.regions.max_pairs if is_divided else num_pairs
    k = config.selection.graph.num_neighbors + config.selection.graph.first_rank
    rows = 2 * FLOAT32 * config.encoder.dim * n
    # the rows of those who take part are copied unless that is everybody, which a region seldom is
    num_copies = 2 if is_divided or n % config.train.batch_size else 1
    group_size = config.selection.hardness.cluster_size or config.train.batch_size
    has_swaps = config.selection.spectral.swap_sweeps > 0
    swaps = (FLOAT32 * group_size + SWAPPING_BYTES_PER_PAIR) * n if has_swaps else 0
    return SelectionMemory(
        embeddings_bytes=num_copies * rows + 24 * n,
        graph_bytes=graph_bytes(n, k),
        working_bytes=max(PARTITION_BYTES_PER_PAIR * n, LINKING_BYTES_PER_NEIGHBOR * k * n, swaps),
    )


def joining_bytes(config: RunConfig, num_pairs: int) -> float:
    """Of putting the batches of all regions together, on one node; nothing where there is one region."""
    is_divided = count_parts(config, num_pairs) > 1
    return JOINING_BYTES_PER_PAIR * num_pairs + WORKER_PROCESS_BYTES if is_divided else 0.0
