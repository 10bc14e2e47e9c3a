"""Where on Ray's nodes ranks and selection run, and whether the nodes hold them at all."""

from collections import defaultdict

import ray
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launcher.config import RayConfig, RunConfig
from selection.errors import ConfigError, JobError
from selection.ray_tasks import Placement
from trainer.config import TrainConfig


def on_nodes(labels: dict[str, str]) -> Placement:
    """Only on nodes with these labels."""
    return {"label_selector": labels} if labels else {}


def to_select(config: RunConfig) -> Placement:
    """Where batches are chosen: on the nodes for it, with a GPU where one computes eigenvectors."""
    return {
        **on_nodes(config.ray.selection_labels),
        "num_gpus": config.selection.gpus_to_select,
    }


def on_this_node() -> Placement:
    """On the node of the launcher, with which the run ends anyway."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def largest_node_cpus(
    labels: dict[str, str], beside_ranks: bool = False, num_gpus: int = 0
) -> float:
    """CPUs of the node that has most: a task runs on one node, and Ray waits for ever for one that it fits on.

    Args:
        labels: of the nodes that count.
        beside_ranks: whether ranks are at work meanwhile, and keep theirs.
        num_gpus: that the node must have, too.

    Raises:
        JobError: there is no such node any more.
    """
    held = _held("CPU") if beside_ranks else {}
    # also between rounds, in which ranks that are kept give their CPUs back
    held_gpus = _held("GPU") if num_gpus else {}
    nodes = _find_nodes(labels).items()
    left = [
        node.get("CPU", 0) - held.get(name, 0)
        for name, node in nodes
        if node.get("GPU", 0) - held_gpus.get(name, 0) >= num_gpus
    ]
    if not left:
        raise JobError(
            f"Ray: no node with the labels {labels} and {num_gpus} GPUs is left for selection; start one, and the same "
            "command again"
        )
    return max(left)


def selection_cpus(config: RunConfig) -> float:
    """CPUs that selection has: those of a node, or what the ranks leave of it."""
    selection, labels = config.selection, config.ray.selection_labels
    return largest_node_cpus(labels, selection.overlaps, selection.gpus_to_select)


def region_cpus(config: RunConfig) -> float:
    """CPUs that a region is selected with: as many as are asked for, at most all that selection has."""
    largest = selection_cpus(config)
    return min(largest, config.selection.regions.cpus_per_region or largest)


def check_room(config: RunConfig) -> None:
    """Refuse to wait for CPUs that the ranks will not give back, now that they are where Ray has put them.

    Raises:
        ConfigError: no node has as many left as selection needs.
    """
    wanted, labels = config.selection.cpus_beside_ranks, config.ray.selection_labels
    if (left := largest_node_cpus(labels, beside_ranks=True)) < wanted:
        raise ConfigError(
            f"selection.refresh.mode: is overlap, but Ray has put the ranks so that no node has more than {left:g} of "
            f"the {wanted:g} CPUs left that selection needs; keep nodes apart with ray.train_labels and "
            "ray.selection_labels, or set mode to alternate"
        )


def _held(kind: str) -> dict[str, float]:
    """CPUs or GPUs that placement groups hold, by node: Ray Train has one for its ranks."""
    held: dict[str, float] = defaultdict(float)
    for group in placement_group_table().values():
        if group["state"] == "CREATED":
            for number, bundle in group["bundles"].items():
                held[group["bundles_to_node_id"][number]] += bundle.get(kind, 0)
    return held


def rank_resources(train: TrainConfig, share_cpus: bool = False) -> dict[str, float]:
    """What Ray sets aside for a rank.

    Ranks that share their CPUs ask for none, so that selection can have them; Ray wants something to be asked for, so
    it is a byte of memory.
    """
    resources = {"memory": 1.0} if share_cpus else {"CPU": train.cpus_per_rank}
    return {**resources, "GPU": 1.0} if train.use_gpu else resources


def num_places(wanted: dict[str, float], labels: dict[str, str]) -> int:
    """How many workers that want these amounts the nodes hold, if nothing else runs there."""
    return sum(_num_places(wanted, node) for node in _find_nodes(labels).values())


def num_places_beside(wanted: dict[str, float], config: RayConfig, cpus_beside: float) -> int:
    """The same for ranks, where one node must have some CPUs left for selection.

    Args:
        wanted: amounts of a rank.
        config: which nodes are for ranks, and which for selection.
        cpus_beside: CPUs that selection needs; 0: it needs none while ranks are there.
    """
    places = num_places(wanted, config.train_labels)
    if not cpus_beside:
        return places
    for_ranks, for_selection = map(_find_nodes, (config.train_labels, config.selection_labels))
    most = 0
    for name, node in for_selection.items():
        left = {**node, "CPU": node.get("CPU", 0) - cpus_beside}
        if left["CPU"] >= 0:
            lost = _num_places(wanted, node) - _num_places(wanted, left) if name in for_ranks else 0
            most = max(most, places - lost)
    return most


def _num_places(wanted: dict[str, float], node: dict[str, float]) -> int:
    return min(int(node.get(kind, 0) / amount) for kind, amount in wanted.items() if amount)


def _find_nodes(labels: dict[str, str]) -> dict[str, dict[str, float]]:
    """Amounts by kind of every node that is alive and has these labels, by its id."""
    return {
        node["NodeID"]: node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and labels.items() <= node["Labels"].items()
    }


def check_resources(config: RunConfig) -> None:
    """Refuse what the cluster can never give; Ray itself would wait for ever.

    Raises:
        ConfigError: no node has the labels, or more CPUs or GPUs are asked for than there are.
    """
    train, embed = config.train, config.selection.embed
    *_, num_ranks = train.possible_num_ranks()
    ranks = "train.num_ranks" if train.min_ranks is None else "train.min_ranks"
    for_ranks = _named_nodes("ray.train_labels", config.ray.train_labels)
    for_selection = _named_nodes("ray.selection_labels", config.ray.selection_labels)
    in_all = [
        (f"{ranks} x train.cpus_per_rank", "CPU", num_ranks * train.cpus_per_rank),
        (ranks, "GPU", num_ranks * train.use_gpu),
    ]
    for field, kind, amount in in_all:
        there = sum(node.get(kind, 0) for node in for_ranks)
        _check_amount(field, kind, amount, there, "Ray has", config.ray.train_labels)
    on_one_node = [
        ("selection.embed.cpus_per_worker", "CPU", embed.cpus_per_worker),
        ("selection.embed.gpus_per_worker", "GPU", embed.gpus_per_worker),
        ("selection.spectral.device", "GPU", config.selection.gpus_to_select),
    ]
    for field, kind, amount in on_one_node:
        most = max(node.get(kind, 0) for node in for_selection)
        where = "the largest of Ray's nodes has"
        _check_amount(field, kind, amount, most, where, config.ray.selection_labels)
    _check_embed_worker(config)
    keeps_ranks = config.selection.refresh.keep_ranks
    if not keeps_ranks:  # those that are kept share their CPUs, or must leave some, see below
        _check_places(config, ranks, num_ranks)
    if train.use_gpu and keeps_ranks:
        places = num_places({"GPU": 1.0}, config.ray.train_labels)
        _check_gpus_beside_ranks(config, next(n for n in train.possible_num_ranks() if n <= places))
    if config.selection.overlaps:
        _check_cpus_beside_ranks(config, num_ranks)


def _check_places(config: RunConfig, field: str, num_ranks: int) -> None:
    """No rank is divided between nodes."""
    train = config.train
    places = num_places(rank_resources(train), config.ray.train_labels)
    if places < num_ranks:
        raise ConfigError(
            f"{field}: is {num_ranks}, but Ray's nodes hold {places} ranks of {train.cpus_per_rank:g} CPUs"
            f"{' and a GPU' if train.use_gpu else ''}; lower it or train.cpus_per_rank, or use a larger cluster "
            "(ray.address)"
        )


def _check_cpus_beside_ranks(config: RunConfig, num_ranks: int) -> None:
    """Ranks that train while selection is at work keep their CPUs, and selection must find others."""
    beside = config.selection.cpus_beside_ranks
    places = num_places_beside(rank_resources(config.train), config.ray, beside)
    if places < num_ranks:
        raise ConfigError(
            f"selection.refresh.mode: is overlap, but with {beside:g} CPUs of one node for selection Ray has room for "
            f"{places} ranks, and training needs {num_ranks}; set it to alternate, or use a larger cluster "
            "(ray.address)"
        )


def _check_gpus_beside_ranks(config: RunConfig, num_ranks: int) -> None:
    """Ranks that wait for the next round keep their GPUs, and embedding and selection must find others."""
    for_ranks, for_selection = map(
        _find_nodes, (config.ray.train_labels, config.ray.selection_labels)
    )
    gpus = {name: node.get("GPU", 0) for name, node in {**for_ranks, **for_selection}.items()}
    there = sum(gpus.values())
    elsewhere = sum(gpus[name] for name in for_ranks.keys() - for_selection.keys())
    left = there - elsewhere - max(0, num_ranks - elsewhere)
    told = {
        "selection.embed.gpus_per_worker": (
            f"{config.selection.embed.gpus_per_worker:g}",
            "gpus_per_worker=0",
        ),
        "selection.spectral.device": (config.selection.spectral.device, "device=cpu"),
    }
    for field, wanted in config.gpus_beside_ranks.items():
        if wanted > left:
            value, instead = told[field]
            raise ConfigError(
                f"{field}: is {value}, but the ranks keep {num_ranks} of Ray's {there:g} GPUs; "
                f"set selection.refresh.keep_ranks=false, or {instead}"
            )


def _check_embed_worker(config: RunConfig) -> None:
    """CPUs and GPUs of an embedding worker are on the same node."""
    embed = config.selection.embed
    wanted = {"CPU": embed.cpus_per_worker, "GPU": embed.gpus_per_worker}
    if not num_places(wanted, config.ray.selection_labels):
        raise ConfigError(
            f"selection.embed: a worker wants {embed.cpus_per_worker:g} CPUs and {embed.gpus_per_worker:g} GPUs, and "
            "no node has both; lower cpus_per_worker or gpus_per_worker, or use a larger cluster (ray.address)"
        )


def _named_nodes(field: str, labels: dict[str, str]) -> list[dict[str, float]]:
    """Amounts of the nodes that have these labels.

    Raises:
        ConfigError: there is none.
    """
    if nodes := list(_find_nodes(labels).values()):
        return nodes
    raise ConfigError(
        f"{field}: no node of Ray's has {labels}; start nodes with `ray start --labels`, or change it"
    )


def _check_amount(
    field: str, kind: str, amount: float, there: float, where: str, labels: dict[str, str]
) -> None:
    if amount > there:
        among = f" with {labels}" if labels else ""
        raise ConfigError(
            f"{field}: asks for {amount:g} {kind}s, but {where} {there:g}{among}; lower it, or use a larger cluster "
            "(ray.address)"
        )
