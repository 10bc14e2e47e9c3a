"""Where on Ray's nodes ranks and selection run, and whether the nodes hold them at all."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launcher.config import RunConfig
from selection.errors import ConfigError
from selection.ray_tasks import Placement


def on_nodes(labels: dict[str, str]) -> Placement:
    """Only on nodes with these labels."""
    return {"label_selector": labels} if labels else {}


def on_this_node() -> Placement:
    """On the node of the launcher, with which the run ends anyway."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def largest_node_cpus(labels: dict[str, str]) -> float:
    """CPUs of the node that has most: a task runs on one node, and Ray waits for ever for one that it fits on."""
    return max(node.get("CPU", 0) for node in _resources_by_node(labels))


def num_places(wanted: dict[str, float], labels: dict[str, str]) -> int:
    """How many workers that want these amounts the nodes hold, if nothing else runs there."""
    return sum(
        min(int(node.get(kind, 0) / amount) for kind, amount in wanted.items())
        for node in _resources_by_node(labels)
    )


def _resources_by_node(labels: dict[str, str]) -> list[dict[str, float]]:
    """Amounts by kind of every node that is alive and has these labels."""
    return [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and labels.items() <= node["Labels"].items()
    ]


def check_resources(config: RunConfig) -> None:
    """Refuse what the cluster can never give; Ray itself would wait for ever.

    Raises:
        ConfigError: no node has the labels, or more CPUs or GPUs are asked for than there are.
    """
    train, embed = config.train, config.selection.embed
    num_ranks = train.possible_num_ranks()[-1]
    ranks = "train.num_ranks" if train.min_ranks is None else "train.min_ranks"
    _check_amounts(
        "ray.train_labels",
        config.ray.train_labels,
        [
            (f"{ranks} x train.cpus_per_rank", "CPU", num_ranks * train.cpus_per_rank),
            (ranks, "GPU", num_ranks * train.use_gpu),
        ],
    )
    _check_amounts(
        "ray.selection_labels",
        config.ray.selection_labels,
        [
            ("selection.embed.cpus_per_worker", "CPU", embed.cpus_per_worker),
            ("selection.embed.gpus_per_worker", "GPU", embed.gpus_per_worker),
        ],
    )
    if train.use_gpu and config.selection.refresh.keep_ranks:
        _check_gpus_beside_ranks(num_ranks, embed.gpus_per_worker)


def _check_gpus_beside_ranks(num_ranks: int, wanted: float) -> None:
    """Ranks that wait for the next round keep their GPUs, and embedding must find others."""
    there = sum(node.get("GPU", 0) for node in _resources_by_node({}))
    if wanted and num_ranks + wanted > there:
        raise ConfigError(
            f"selection.embed.gpus_per_worker: is {wanted:g}, but the ranks keep {num_ranks} of Ray's {there:g} GPUs; "
            "set selection.refresh.keep_ranks=false, or gpus_per_worker=0"
        )


def _check_amounts(
    labels_field: str, labels: dict[str, str], wanted: list[tuple[str, str, float]]
) -> None:
    nodes = _resources_by_node(labels)
    if not nodes:
        raise ConfigError(
            f"{labels_field}: no node of Ray's has {labels}; start nodes with `ray start --labels`, or change it"
        )
    for field, kind, amount in wanted:
        there = sum(node.get(kind, 0) for node in nodes)
        if amount > there:
            where = f"Ray's nodes with {labels} have" if labels else "Ray has"
            raise ConfigError(
                f"{field}: asks for {amount:g} {kind}s, but {where} {there:g}; "
                f"lower it, or use a larger cluster (ray.address)"
            )
