"""What a plan shows not to fit, or not to be used."""

import math
from collections.abc import Iterator
from pathlib import Path

from launcher.plan.estimate import Plan
from launcher.plan.hardware import GPUS, Resources, rank_flops_per_s
from launcher.plan.memory import RANK_PROCESS_BYTES
from launcher.plan.work import CHOOSING_STAGES, TRAIN_STAGE, num_readers
from launcher.spelling import spell_bytes, spell_seconds
from trainer.config import TextTransformerConfig

_LONG_JUDGING = 0.25
"""Of an epoch of training."""


def warnings(plan: Plan) -> Iterator[str]:
    """One line each: what does not fit or is not used, and the field to change."""
    yield from _cpu_warnings(plan)
    yield from _gpu_warnings(plan)
    yield from _node_warnings(plan)
    yield from _selection_warnings(plan)
    yield from _overlap_warnings(plan)
    yield from _use_warnings(plan)
    yield from _judging_warnings(plan)
    yield from _picture_warnings(plan)
    yield from _encoder_warnings(plan)


def _cpu_warnings(plan: Plan) -> Iterator[str]:
    """Ranks that Ray could never start."""
    there, train = plan.resources, plan.config.train
    needed, num_cpus = train.num_ranks * train.cpus_per_rank, there.num_nodes * there.cpus_per_node
    if needed > num_cpus:
        yield (
            f"train.num_ranks x train.cpus_per_rank is {needed:g} CPUs, but there are {num_cpus}; lower them, or ask "
            "for more nodes"
        )


def _gpu_warnings(plan: Plan) -> Iterator[str]:
    train, embed = plan.config.train, plan.config.selection.embed
    name = plan.config.plan.gpu
    memory = GPUS[name].memory_bytes
    if train.use_gpu and (needed := plan.rank.total_bytes) > memory:
        yield (
            f"a rank needs {spell_bytes(needed)} of GPU memory, but {name} has {spell_bytes(memory)}; take more "
            "ranks, a smaller train.batch_size or a higher train.zero_stage"
        )
    if not embed.gpus_per_worker:
        return
    share = memory * min(1.0, embed.gpus_per_worker)
    if plan.embed_worker_bytes > share:
        yield (
            f"an embedding worker needs {spell_bytes(plan.embed_worker_bytes)} of GPU memory, but its share of {name} "
            f"is {spell_bytes(share)}; lower selection.embed.batch_size"
        )


def _node_warnings(plan: Plan) -> Iterator[str]:
    there, train, embed = plan.resources, plan.config.train, plan.config.selection.embed
    if there.memory_per_node_bytes is None:
        return
    num_ranks = math.ceil(train.num_ranks / there.num_nodes)
    collected = plan.disk.collected_bytes / train.num_ranks
    rank_bytes = collected + (RANK_PROCESS_BYTES if train.use_gpu else plan.rank.total_bytes)
    num_workers = 0 if embed.gpus_per_worker else math.ceil(embed.num_workers / there.num_nodes)
    both = [
        (num_ranks, "ranks", rank_bytes, "train.num_ranks or train.batch_size"),
        (num_workers, "embedding workers", plan.embed_worker_bytes, "selection.embed.num_workers"),
    ]
    for count, who, each, fields in both:
        if count * each > there.memory_per_node_bytes:
            yield (
                f"{count} {who} of a node need {spell_bytes(count * each)}, but {_node_memory(there)}; lower {fields}"
            )


def _selection_warnings(plan: Plan) -> Iterator[str]:
    if plan.selection is None:
        return
    there = plan.resources
    what = "a region" if plan.num_parts > 1 else "all pairs at once"
    step = "lower selection.regions.max_pairs"
    if plan.regions_per_node > 1:
        what = f"{plan.regions_per_node} regions side by side"
        step += ", or raise selection.regions.cpus_per_region"
    needs = [
        (f"selection from {what}", plan.selection_bytes, step),
        ("putting regions together", plan.joining_bytes, "ask for larger nodes"),
    ]
    if there.memory_per_node_bytes is None:
        needed = max(plan.selection_bytes, plan.joining_bytes)
        step = "set slurm.memory_per_node" if there.where == "slurm" else "see that they have it"
        yield f"selection needs {spell_bytes(needed)} on one node, and nobody says what nodes have; {step}"
    else:
        for who, needed, step in needs:
            if needed > there.memory_per_node_bytes:
                yield f"{who} needs {spell_bytes(needed)} on one node, but {_node_memory(there)}; {step}"
    in_all = {stage.name: stage.times * stage.seconds for stage in plan.stages}
    choosing_s = sum(in_all.get(name, 0.0) for name in CHOOSING_STAGES)
    if choosing_s > in_all[TRAIN_STAGE]:
        other = ", or take what training computed (selection.refresh.embeddings)"
        yield (
            f"embedding and selection take {spell_seconds(choosing_s)} in all, training "
            f"{spell_seconds(in_all[TRAIN_STAGE])}; choose more rarely (selection.refresh.epochs_per_round)"
            f"{'' if plan.disk.collected_bytes else other}"
        )


def _overlap_warnings(plan: Plan) -> Iterator[str]:
    """Ranks, embedding workers and selection on a node at the same time."""
    there, config = plan.resources, plan.config
    needed = config.selection.cpus_beside_ranks
    if not needed:
        return
    ranks_cpus = config.train.num_ranks * config.train.cpus_per_rank
    left = there.num_nodes * there.cpus_per_node - ranks_cpus
    if min(left, there.cpus_per_node) < needed:
        yield (
            f"selection.refresh.mode is overlap, but ranks keep {ranks_cpus:g} of the {there.num_nodes} nodes' "
            f"{there.num_nodes * there.cpus_per_node} CPUs, and selection needs {needed:g} on one of them; lower "
            "train.num_ranks, or set mode to alternate"
        )
    if there.memory_per_node_bytes is None or plan.selection is None:
        return
    num_ranks = math.ceil(config.train.num_ranks / there.num_nodes)
    rank_bytes = RANK_PROCESS_BYTES if config.train.use_gpu else plan.rank.total_bytes
    together = num_ranks * rank_bytes + plan.selection_bytes
    if together > there.memory_per_node_bytes:
        yield (
            f"selection beside {num_ranks} ranks of a node needs {spell_bytes(together)}, but {_node_memory(there)}; "
            "set selection.refresh.mode to alternate, or keep nodes apart with ray.train_labels and "
            "ray.selection_labels"
        )


def _use_warnings(plan: Plan) -> Iterator[str]:
    there, train, embed = plan.resources, plan.config.train, plan.config.selection.embed
    num_gpus = there.num_nodes * there.gpus_per_node
    if train.use_gpu and train.num_ranks < num_gpus:
        yield (
            f"train.num_ranks is {train.num_ranks}, but the job has {num_gpus} GPUs; the others train nothing"
        )
    selection, embed_gpus = plan.config.selection, embed.num_workers * embed.gpus_per_worker
    wanted = {"embedding workers": embed_gpus, "eigenvectors": selection.gpus_to_select}
    for who, gpus in wanted.items() if train.use_gpu and selection.refresh.keep_ranks else ():
        if gpus and train.num_ranks + gpus > num_gpus:
            yield (
                f"selection.refresh.keep_ranks is true, so ranks keep the GPUs that {who} wait for; set it to false"
            )
    if plan.selection is None or plan.disk.collected_bytes:
        return
    if num_gpus and not embed.gpus_per_worker:
        yield (
            "selection.embed.gpus_per_worker is 0, so CPUs embed while the GPUs wait; set it to 1"
        )
    if 0 < embed_gpus < num_gpus:
        yield (
            f"selection.embed.num_workers is {embed.num_workers}, but the job has {num_gpus} GPUs; the others "
            "embed nothing"
        )
    num_shards = plan.splits[0].num_shards
    if embed.num_workers > num_shards:
        yield (
            f"selection.embed.num_workers is {embed.num_workers}, but data.train has {num_shards} shards, and a shard "
            "goes to one worker; write smaller shards, or take fewer workers"
        )


def _judging_warnings(plan: Plan) -> Iterator[str]:
    """A shard goes to one worker, and what is judged has few."""
    took = {stage.name: stage.seconds for stage in plan.stages}
    num_shards = sum(split.num_shards for split in plan.splits[1:])
    num_workers = plan.config.selection.embed.num_workers
    if num_shards < num_workers and took["judge"] > _LONG_JUDGING * took[TRAIN_STAGE]:
        yield (
            f"judging takes {spell_seconds(took['judge'])} a round, as {num_shards} shards keep {num_shards} of "
            f"{num_workers} embedding workers at work; write smaller shards of what is judged"
        )


def _picture_warnings(plan: Plan) -> Iterator[str]:
    """Where decoding, and not computing, says how long an epoch takes."""
    (epoch,) = (stage for stage in plan.stages if stage.name == TRAIN_STAGE)
    computing_s = epoch.flops / (plan.config.train.num_ranks * rank_flops_per_s(plan.config))
    if plan.config.train.use_gpu and epoch.seconds > computing_s:
        yield (
            f"ranks wait for their pictures, which {num_readers(plan.config)} processes decode; raise "
            "train.reader_processes, or write smaller pictures"
        )


def _encoder_warnings(plan: Plan) -> Iterator[str]:
    encoder = plan.config.encoder
    towers = {} if isinstance(encoder, TextTransformerConfig) else encoder.towers
    for kind, tower in towers.items():
        if tower.pretrained and not (Path(tower.pretrained) / "config.json").is_file():
            yield (
                f"encoder.{kind}.pretrained: {tower.pretrained} is not here, so a {tower.architecture} of the usual "
                "size was counted; give a folder that has its config.json"
            )


def _node_memory(there: Resources) -> str:
    memory = spell_bytes(there.memory_per_node_bytes or 0)
    if there.where == "slurm":
        return f"slurm.memory_per_node gives {memory}"
    return f"{there.where} has {memory}"
