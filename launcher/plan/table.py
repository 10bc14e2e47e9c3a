"""A plan for people: a few short tables, and what does not fit at the end."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from launcher.compare import to_text
from launcher.plan.data import Split
from launcher.plan.disk import NEEDED_CHECKPOINTS
from launcher.plan.estimate import Plan
from launcher.plan.fit import warnings
from launcher.plan.hardware import CORE_FLOPS_PER_S, UTILIZATION
from launcher.spelling import (
    spell_bytes,
    spell_count,
    spell_flops,
    spell_seconds,
)


def to_page(plan: Plan) -> str:
    """All tables."""
    blocks = [
        _summary(plan),
        to_text([["disk", "bytes"], *_disk(plan)]),
        to_text([["memory of one", "where", "bytes"], *_memory(plan)]),
        to_text([["stage", "operations", "time", "times", "in all"], *_stages(plan)]),
        to_text([["reads", "requests", "bytes", "in a second"], *_reads(plan)]),
        _NOTES,
    ]
    lines = [f"warning: {warning}" for warning in warnings(plan)]
    return "\n\n".join([*blocks, *(["\n".join(lines)] if lines else [])])


def to_json(plan: Plan) -> dict[str, Any]:
    """The same as plain values: bytes, seconds, operations."""
    values = {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.name != "config"
    }
    plain: dict[str, Any] = {name: _plain(value) for name, value in values.items()}
    return {**plain, "total_s": plan.total_s, "warnings": list(warnings(plan))}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _summary(plan: Plan) -> str:
    config, there = plan.config, plan.resources
    train, num_workers = config.train, config.selection.embed.num_workers
    kind = f"one {config.plan.gpu} each" if train.use_gpu else f"{train.cpus_per_rank:g} CPUs each"
    return "\n".join(
        [
            *map(_describe_split, plan.splits),
            f"encoder: {spell_count(plan.sizes.num_parameters)} parameters, d = {config.encoder.dim}, "
            f"{spell_flops(plan.sizes.forward_flops)} forward for a pair of full length",
            f"hardware: {there.num_nodes} nodes of {there.cpus_per_node} CPUs and {there.gpus_per_node} GPUs "
            f"({there.where}); {train.num_ranks} ranks, {kind}; {num_workers} embedding workers",
            f"run: {config.rounds} rounds, {plan.num_steps:,} steps of {train.batch_size:,} pairs, "
            f"{config.selection.strategy} batches; about {spell_seconds(plan.total_s)}",
        ]
    )


def _describe_split(split: Split) -> str:
    size = (
        f"{split.num_pairs:,} pairs in {split.num_shards:,} shards, {spell_bytes(split.num_bytes)}"
    )
    return f"data.{split.name}: {size}; {split.source}"


def _disk(plan: Plan) -> Iterator[list[str]]:
    found, config = plan.disk, plan.config
    yield ["index", spell_bytes(found.index_bytes)]
    kind = config.selection.embed.dtype
    yield [f"embeddings of the newest round, {kind}", spell_bytes(found.embeddings_bytes)]
    if found.judged_bytes:
        yield [
            "- of the round before, while the new one is judged",
            spell_bytes(found.judged_bytes),
        ]
    if found.collected_bytes:
        yield ["- as the ranks note them", spell_bytes(found.collected_bytes)]
    if found.sorted_bytes:
        yield ["- sorted by region", spell_bytes(found.sorted_bytes)]
    yield [f"schedules of {config.rounds} rounds", spell_bytes(found.schedules_bytes)]
    kept = config.train.keep_checkpoints
    needed = f", {NEEDED_CHECKPOINTS} for selection" if config.selection.overlaps else ""
    yield [
        f"checkpoints, {kept}{needed} and one in the making",
        spell_bytes(found.checkpoints_bytes),
    ]
    yield ["together", spell_bytes(found.peak_bytes)]


def _memory(plan: Plan) -> Iterator[list[str]]:
    train, rank, chosen = plan.config.train, plan.rank, plan.selection
    name = f"rank, ZeRO {train.zero_stage}, {train.precision}"
    yield [name, _where(train.use_gpu), spell_bytes(rank.total_bytes)]
    yield ["- weights, gradients", "", _pair(rank.weights_bytes, rank.gradients_bytes)]
    yield ["- optimizer", "", spell_bytes(rank.optimizer_bytes)]
    yield ["- activations, loss", "", _pair(rank.activations_bytes, rank.loss_bytes)]
    if plan.disk.collected_bytes:
        each = plan.disk.collected_bytes / train.num_ranks
        yield ["- collected u and v", "node", spell_bytes(each)]
    where = _where(plan.config.selection.embed.gpus_per_worker > 0)
    yield ["embedding worker", where, spell_bytes(plan.embed_worker_bytes)]
    if chosen is not None:
        what = (
            "selection" if plan.num_parts == 1 else f"selection of one of {plan.num_parts} regions"
        )
        yield [f"{what}, at its peak", "node", spell_bytes(chosen.total_bytes)]
        yield ["- U and V in float32", "", spell_bytes(chosen.embeddings_bytes)]
        yield ["- graph", "", spell_bytes(chosen.graph_bytes)]
        yield ["- working memory", "", spell_bytes(chosen.working_bytes)]
        if plan.regions_per_node > 1:
            side_by_side = f"{plan.regions_per_node} regions side by side"
            yield [side_by_side, "node", spell_bytes(plan.selection_bytes)]
        if plan.num_parts > 1:
            yield ["putting regions together", "one node", spell_bytes(plan.joining_bytes)]


def _where(is_on_gpu: bool) -> str:
    return "GPU" if is_on_gpu else "node"


def _pair(first: float, second: float) -> str:
    return f"{spell_bytes(first)}, {spell_bytes(second)}"


def _stages(plan: Plan) -> Iterator[list[str]]:
    for stage in plan.stages:
        yield [
            stage.name,
            spell_flops(stage.flops),
            spell_seconds(stage.seconds),
            f"{stage.times:,}",
            spell_seconds(stage.times * stage.seconds),
        ]
    if plan.hidden_s:
        yield ["of it beside training", "-", "-", "-", spell_seconds(plan.hidden_s)]


def _reads(plan: Plan) -> Iterator[list[str]]:
    seconds = {stage.name: stage.seconds for stage in plan.stages}
    for read in plan.reads:
        rate = read.num_bytes / seconds[read.name] if read.name in seconds else 0
        row = [read.name, spell_count(read.num_requests), spell_bytes(read.num_bytes)]
        yield [*row, spell_bytes(rate) if rate else "-"]


_NOTES = (
    f"Times are rough: {UTILIZATION:.0%} of a GPU's peak, {CORE_FLOPS_PER_S / 1e9:g} GFLOP/s for a core of a CPU.\n"
    "Shards are read from a file system; object stores are not supported, each request would be a GET there."
)
