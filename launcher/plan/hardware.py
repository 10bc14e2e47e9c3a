"""What a run is given: nodes, CPUs, GPUs and memory, and how fast they are.

Speeds are rough on purpose: `UTILIZATION` of what the maker states for a GPU, and for a core of a CPU what the
quickstart reaches. A plan tells hours from weeks, not one hour from two.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.cpus import usable_cpus
from launcher.plan.config import GpuName
from launcher.slurm_config import SlurmConfig

UTILIZATION = 0.35
"""Share of a GPU's peak that training and embedding are taken to reach."""

CORE_FLOPS_PER_S = 25e9
"""Float32 operations of one core of a CPU: the quickstart trains at about this speed."""


@dataclass(frozen=True)
class Gpu:
    """One device, by its data sheet: dense operations per second, without sparsity."""

    memory_bytes: float
    bfloat16_flops_per_s: float
    float32_flops_per_s: float


GPUS: Mapping[GpuName, Gpu] = {
    "a100": Gpu(80e9, 312e12, 19.5e12),
    "l40s": Gpu(48e9, 362e12, 91.6e12),
    "h100": Gpu(80e9, 989e12, 67e12),
    "h200": Gpu(141e9, 989e12, 67e12),
    "b200": Gpu(180e9, 2250e12, 75e12),
}
"""SXM models where there are several."""


@dataclass(frozen=True)
class Resources:
    """What there is to run on.

    Attributes:
        where: `this machine`, `slurm` or `ray`.
        num_nodes: nodes.
        cpus_per_node: CPUs of each.
        gpus_per_node: GPUs of each; on this machine as many as are asked for, because nobody looks.
        memory_per_node_bytes: of each; None where nobody says.
    """

    where: str
    num_nodes: int
    cpus_per_node: int
    gpus_per_node: int
    memory_per_node_bytes: float | None


def resources(config: RunConfig) -> Resources:
    """What the configuration asks SLURM for; without a section `slurm`, this machine or the cluster it names."""
    slurm, train, beside = config.slurm, config.train, config.selection.cpus_beside_ranks
    num_gpus = train.num_ranks if train.use_gpu else 0
    if slurm != SlurmConfig():
        ranks_per_node = math.ceil(train.num_ranks / slurm.nodes)
        cpus = slurm.cpus_per_node or math.ceil(ranks_per_node * train.cpus_per_rank + beside)
        memory = memory_bytes(slurm.memory_per_node) if slurm.memory_per_node else None
        return Resources("slurm", slurm.nodes, cpus, slurm.gpus_per_node or 0, memory)
    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        num_nodes = config.ray.num_nodes or 1
        ranks_per_node = math.ceil(train.num_ranks / num_nodes)
        cpus = math.ceil(ranks_per_node * train.cpus_per_rank + beside)
        return Resources("ray", num_nodes, cpus, ranks_per_node * train.use_gpu, None)
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Resources("this machine", 1, config.ray.num_cpus or usable_cpus(), num_gpus, memory)


def memory_bytes(text: str) -> float | None:
    """Bytes of `480G`, as sbatch reads it; None for `0`, all that a node has, and for what sbatch would refuse."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if not match or not int(match[1]):
        return None
    return int(match[1]) * 1024.0 ** (1 + "KMGT".index(match[2] or "M"))


def rank_flops_per_s(config: RunConfig) -> float:
    """Operations of one rank in a second."""
    if not config.train.use_gpu:
        return config.train.cpus_per_rank * CORE_FLOPS_PER_S
    return _gpu_flops_per_s(config, config.train.precision)


def embed_flops_per_s(config: RunConfig, there: Resources, num_shards: int) -> float:
    """Operations in a second of all embedding workers that have a shard and a place; others wait."""
    embed = config.selection.embed
    if not embed.gpus_per_worker:
        return embed_cores(config, there, num_shards) * CORE_FLOPS_PER_S
    num_workers = min(embed.num_workers, num_shards)
    wanted = num_workers * min(1.0, embed.gpus_per_worker)
    gpus = min(wanted, there.num_nodes * there.gpus_per_node or wanted)  # 0: nobody says
    return gpus * _gpu_flops_per_s(config, embed.precision)


def embed_cores(config: RunConfig, there: Resources, num_shards: int) -> float:
    """CPUs of those workers."""
    embed = config.selection.embed
    cores = min(embed.num_workers, num_shards) * embed.cpus_per_worker
    return min(cores, there.num_nodes * there.cpus_per_node)


def _gpu_flops_per_s(config: RunConfig, precision: str) -> float:
    gpu = GPUS[config.plan.gpu]
    peak = gpu.bfloat16_flops_per_s if precision == "bfloat16" else gpu.float32_flops_per_s
    return UTILIZATION * peak


def selection_cpus(config: RunConfig, there: Resources) -> int:
    """CPUs of a node that selection has: all, or those that the ranks leave where both are at work."""
    if not config.selection.overlaps:
        return there.cpus_per_node
    ranks_per_node = math.ceil(config.train.num_ranks / there.num_nodes)
    return max(1, int(there.cpus_per_node - ranks_per_node * config.train.cpus_per_rank))


def regions_per_node(config: RunConfig, there: Resources) -> int:
    """Regions that a node selects side by side, of a data set that is divided into regions."""
    cpus = selection_cpus(config, there)
    return max(1, cpus // (config.selection.regions.cpus_per_region or cpus))
