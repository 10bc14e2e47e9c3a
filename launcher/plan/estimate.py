"""The plan of a run: every estimate of this folder."""

from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.expected_length import check_batch, check_length, expected_length
from launcher.plan.data import Split, count_splits
from launcher.plan.disk import Disk, disk
from launcher.plan.hardware import Resources, regions_per_node, resources
from launcher.plan.memory import (
    RankMemory,
    SelectionMemory,
    embed_worker_bytes,
    joining_bytes,
    rank_memory,
    selection_memory,
)
from launcher.plan.parts import chooses, count_parts
from launcher.plan.work import TRAIN_STAGE, Reads, Stage, hidden_s, reads, stages
from launcher.slurm import check_request
from launcher.slurm_config import SlurmConfig
from trainer.sizes import Sizes, encoder_sizes


@dataclass(frozen=True)
class Plan:
    """What a run would need and cost; bytes, operations and seconds."""

    config: RunConfig
    splits: list[Split]
    resources: Resources
    sizes: Sizes
    num_steps: int
    disk: Disk
    rank: RankMemory
    embed_worker_bytes: float
    num_parts: int
    regions_per_node: int
    """Regions that a node selects side by side; 1 where the data set is not divided."""

    selection: SelectionMemory | None
    joining_bytes: float
    stages: list[Stage]
    reads: list[Reads]
    hidden_s: float
    """Of selecting and judging, while the ranks train."""

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return sum(stage.times * stage.seconds for stage in self.stages) - self.hidden_s

    @property
    def selection_bytes(self) -> float:
        """Of a node that selects; 0 where nothing is chosen."""
        return self.regions_per_node * self.selection.total_bytes if self.selection else 0.0


def plan_run(config: RunConfig) -> Plan:
    """Plan a run; looks at shards, and changes nothing.

    Raises:
        ConfigError: data, encoder, sizes or what is asked of SLURM do not go together.
        ArtifactError: a shard that was looked at is damaged.
    """
    if config.slurm != SlurmConfig():
        check_request(config)
    splits = count_splits(config)
    train = splits[0]
    check_batch(config, train.num_pairs)
    selection = config.selection
    selection.regions.check(selection.strategy, train.num_pairs, config.train.batch_size)
    sizes = encoder_sizes(config.encoder)
    there = resources(config)
    check_length(config, train.num_pairs)
    num_steps = expected_length(config, train.num_pairs).total_steps(known=[])
    num_parts = count_parts(config, train.num_pairs)
    all_stages = stages(config, splits, sizes, there, num_steps)
    (num_epochs,) = (stage.times for stage in all_stages if stage.name == TRAIN_STAGE)
    return Plan(
        config=config,
        splits=splits,
        resources=there,
        sizes=sizes,
        num_steps=num_steps,
        disk=disk(config, splits, sizes.num_parameters),
        rank=rank_memory(config.train, sizes, config.encoder.dim),
        embed_worker_bytes=embed_worker_bytes(config, sizes, train),
        num_parts=num_parts,
        regions_per_node=regions_per_node(config, there) if num_parts > 1 else 1,
        selection=selection_memory(config, train.num_pairs) if chooses(config) else None,
        joining_bytes=joining_bytes(config, train.num_pairs),
        stages=all_stages,
        reads=reads(config, train, num_steps, num_epochs),
        hidden_s=hidden_s(config, num_steps, all_stages),
    )
