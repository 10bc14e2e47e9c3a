"""How many ranks are started, and where, by what Ray says of its nodes; tests/integration loses real ones."""

from itertools import count

import pytest

from launcher import placement, training
from launcher.config import RunConfig, validate
from launcher.placement import (
    check_resources,
    check_room,
    largest_node_cpus,
    num_places,
    num_places_beside,
    on_nodes,
    region_cpus,
    selection_cpus,
    to_select,
)
from selection.errors import ConfigError, JobError

NUMBERS = count()
OVERLAP = {"refresh": {"mode": "overlap"}}


def node(cpus=0, gpus=0, alive=True, name=None, **labels):
    return {
        "NodeID": name or f"node-{next(NUMBERS)}",
        "Alive": alive,
        "Labels": labels,
        "Resources": {"CPU": cpus, "GPU": gpus},
    }


@pytest.fixture
def nodes(monkeypatch):
    """What `ray.nodes` answers."""
    nodes = []
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
    return nodes


def config(train, ray=None, **more):
    values = {"data": {"train": "t", "heldout": "h"}, "train": train, "ray": ray or {}, **more}
    return validate(RunConfig, {"run_dir": "r", **values}, "c")


def test_numbers_between_that_divide_the_batch():
    assert config({"batch_size": 96, "num_ranks": 8, "min_ranks": 3}).train.possible_num_ranks() == [
        8, 6, 4, 3,
    ]  # fmt: skip
    assert config({"batch_size": 96, "num_ranks": 8}).train.possible_num_ranks() == [8]


@pytest.mark.parametrize("min_ranks", [5, 16])
def test_the_fewest_ranks_must_divide_the_batch_too(min_ranks):
    with pytest.raises(
        ConfigError, match=rf"min_ranks is {min_ranks}, but must divide batch_size \(96"
    ):
        config({"batch_size": 96, "num_ranks": 8, "min_ranks": min_ranks})


def test_places_are_counted_node_by_node(nodes):
    nodes += [node(3), node(3, alive=False), node(1), node(9, role="select")]
    assert num_places({"CPU": 2}, {}) == 1 + 0 + 4
    assert num_places({"CPU": 2}, {"role": "select"}) == 4
    nodes[:] = [node(cpus=16, gpus=2), node(cpus=1, gpus=8)]
    assert num_places({"CPU": 1, "GPU": 1}, {}) == 2 + 1


class Job:
    """What of a TrainJob says how many ranks there are."""

    share_cpus, log_folder, stop_round = False, "logs", 1

    def __init__(self, train):
        self.train = train

    def model_dump_json(self):
        return ""


def test_as_many_ranks_as_there_are_places(nodes, capsys):
    wanted = config({"batch_size": 12, "num_ranks": 4, "min_ranks": 2})
    nodes += [node(2), node(2)]
    assert training.choose_num_ranks(Job(wanted.train), wanted.ray) == 4
    assert capsys.readouterr().out == ""
    nodes.pop()
    assert training.choose_num_ranks(Job(wanted.train), wanted.ray) == 2
    assert "training on 2 ranks instead of 4" in capsys.readouterr().out
    nodes[0] = node(1)
    with pytest.raises(
        JobError, match=r"nodes hold 1 ranks, but train needs 2; bring back the nodes"
    ):
        training.choose_num_ranks(Job(wanted.train), wanted.ray)


def test_ranks_that_do_not_start_are_fewer_next_time_or_an_error(nodes, monkeypatch):
    nodes += [node(2)]
    wanted, started = config({"num_ranks": 2, "min_ranks": 1}), []
    monkeypatch.setattr(training, "on_this_node", dict)
    monkeypatch.setattr(training, "result_of", lambda future: future)
    monkeypatch.setattr(training.ray, "wait", lambda futures, timeout: (futures, []))

    def start_remote(_fit, _text, num_ranks, *_args, **_options):
        started.append(num_ranks)
        return "a reason of Ray's"

    monkeypatch.setattr(training, "start_remote", start_remote)
    ranks = training.Ranks(Job(wanted.train), "storage", wanted.ray)
    nodes[0] = node(1)
    with pytest.raises(JobError, match="did not start: a reason of Ray's; see logs"):
        ranks.wait(0, lambda: False)
    assert started == [2, 1]


def test_a_cluster_that_cannot_hold_the_run(nodes):
    nodes += [node(4, role="train"), node(1, role="select")]
    labels = {"train_labels": {"role": "train"}, "selection_labels": {"role": "select"}}
    check_resources(config({"num_ranks": 4}, labels))
    with pytest.raises(
        ConfigError, match=r"train.num_ranks x train.cpus_per_rank: asks for 8 CPUs"
    ):
        check_resources(config({"num_ranks": 8}, labels))
    check_resources(config({"num_ranks": 8, "min_ranks": 4}, labels))
    with pytest.raises(
        ConfigError, match=r"ray.train_labels: no node of Ray's has .*ray start --labels"
    ):
        check_resources(config({}, {"train_labels": {"role": "trains"}}))
    with pytest.raises(ConfigError, match=r"Ray has 1 with .*select"):
        check_resources(config({}, {"train_labels": {"role": "select"}}))


def test_ranks_that_are_kept_leave_too_few_gpus_for_embedding(nodes):
    nodes += [node(cpus=8, gpus=4)]
    train = {"num_ranks": 4, "use_gpu": True}
    embed = {"selection": {"embed": {"gpus_per_worker": 1}}}
    with pytest.raises(ConfigError, match=r"the ranks keep 4 of Ray's 4 GPUs; set .*keep_ranks=fa"):
        check_resources(config(train, **embed))
    embed["selection"]["refresh"] = {"keep_ranks": False}
    check_resources(config(train, **embed))
    nodes[0] = node(cpus=8, gpus=5)
    del embed["selection"]["refresh"]
    check_resources(config(train, **embed))


def test_as_many_ranks_as_fit_are_started_and_keep_their_gpus(nodes):
    """Not the fewest, with which a GPU would be left."""
    nodes += [node(cpus=8, gpus=4)]
    embed = {"selection": {"embed": {"gpus_per_worker": 1}}}
    train = {"num_ranks": 4, "min_ranks": 2, "use_gpu": True}
    with pytest.raises(ConfigError, match=r"the ranks keep 4 of Ray's 4 GPUs; set .*keep_ranks=fa"):
        check_resources(config(train, **embed))
    check_resources(config({**train, "num_ranks": 2}, **embed))


def test_gpus_of_nodes_that_are_not_for_selection_do_not_count(nodes):
    nodes += [node(cpus=8, gpus=8, role="train"), node(cpus=8, gpus=1, role="both")]
    labels = {"selection_labels": {"role": "both"}}
    embed = {"selection": {"embed": {"gpus_per_worker": 1}}}
    check_resources(config({"num_ranks": 8, "use_gpu": True}, labels, **embed))
    nodes[0] = node(cpus=8, gpus=7, role="train")
    with pytest.raises(ConfigError, match=r"the ranks keep 8 of Ray's 8 GPUs"):
        check_resources(config({"num_ranks": 8, "use_gpu": True}, labels, **embed))


def test_cpus_and_gpus_of_a_worker_are_on_one_node(nodes):
    nodes += [node(cpus=64), node(cpus=4, gpus=1)]
    embed = {"embed": {"cpus_per_worker": 8, "gpus_per_worker": 1}}
    with pytest.raises(ConfigError, match="a worker wants 8 CPUs and 1 GPUs, and no node has both"):
        check_resources(config({}, selection=embed))
    embed["embed"]["cpus_per_worker"] = 4
    check_resources(config({}, selection=embed))


def test_no_rank_is_divided_between_nodes(nodes):
    nodes += [node(3), node(3)]
    train = {"num_ranks": 3, "batch_size": 63, "cpus_per_rank": 2}
    check_resources(config(train))  # they share CPUs
    with pytest.raises(ConfigError, match=r"num_ranks: is 3, but Ray's nodes hold 2 ranks of 2 CP"):
        check_resources(config(train, selection={"refresh": {"keep_ranks": False}}))


def test_eigenvectors_on_a_gpu_have_one_set_aside(nodes, monkeypatch):
    table = {}
    monkeypatch.setattr(placement, "placement_group_table", lambda: table)
    nodes += [node(cpus=8, gpus=4)]
    on_gpu = {"selection": {"spectral": {"device": "cuda"}}}
    assert to_select(config({}))["num_gpus"] == 0
    assert to_select(config({}, **on_gpu))["num_gpus"] == 1
    check_resources(config({}, **on_gpu))
    with pytest.raises(ConfigError, match=r"spectral.device: is cuda, .* keep 4 of Ray's 4 GPUs"):
        check_resources(config({"num_ranks": 4, "use_gpu": True}, **on_gpu))
    on_gpu["selection"]["strategy"] = "kmeans"
    check_resources(config({"num_ranks": 4, "use_gpu": True}, **on_gpu))
    del on_gpu["selection"]["strategy"]
    nodes[0] = node(cpus=8)
    with pytest.raises(ConfigError, match=r"spectral.device: asks for 1 GPUs, .* nodes has 0"):
        check_resources(config({}, **on_gpu))
    nodes += [node(cpus=4, gpus=1, name="a"), node(cpus=2, gpus=1)]
    assert selection_cpus(config({}, **on_gpu)) == 4  # of those that have both
    bundles = {"bundles": {0: {"GPU": 1.0}}, "bundles_to_node_id": {0: "a"}}
    table["ranks"] = {**bundles, "state": "CREATED"}
    assert selection_cpus(config({}, **on_gpu)) == 2  # ranks keep the other one
    assert selection_cpus(config({})) == 8


def test_no_node_is_larger_than_the_largest(nodes):
    nodes += [node(4), node(4)]
    with pytest.raises(ConfigError, match=r"cpus_per_worker: asks for 6 CPUs, .* nodes has 4;"):
        check_resources(config({}, selection={"embed": {"cpus_per_worker": 6}}))


def test_the_last_node_for_selection_was_lost(nodes):
    nodes += [node(4), node(4, alive=False, role="select")]
    apart = config({}, {"selection_labels": {"role": "select"}})
    with pytest.raises(JobError, match=r"no node with the labels .*select.* left for selection"):
        selection_cpus(apart)


def test_a_region_takes_as_much_of_a_node_as_it_is_given(nodes):
    nodes += [node(8), node(6, role="select")]
    assert region_cpus(config({})) == 8
    few = {"selection": {"regions": {"cpus_per_region": 3}}}
    assert region_cpus(config({}, **few)) == 3
    many = {"selection": {"regions": {"cpus_per_region": 16}}}
    assert region_cpus(config({}, {"selection_labels": {"role": "select"}}, **many)) == 6


def test_without_labels_ray_chooses_the_nodes():
    assert on_nodes({}) == {}
    assert on_nodes({"role": "train"}) == {"label_selector": {"role": "train"}}
    with pytest.raises(ConfigError, match="train_labels"):
        config({}, {"train_labels": {"role": "!train"}})


def test_places_that_leave_a_node_for_selection(nodes):
    nodes += [node(8), node(4)]
    ray = config({}).ray
    places = [num_places_beside({"CPU": 2}, ray, beside) for beside in (0, 1, 2, 4, 5, 8, 9)]
    assert places == [6, 5, 5, 4, 3, 2, 0]
    nodes += [node(3, role="select")]
    apart = config({}, {"selection_labels": {"role": "select"}}).ray
    assert num_places_beside({"CPU": 2}, apart, 3) == 6  # of the others, and none of that node
    labels = {"train_labels": {"role": "train"}, "selection_labels": {"role": "select"}}
    nodes += [node(5, role="train")]
    assert num_places_beside({"CPU": 2}, config({}, labels).ray, 3) == 2
    assert num_places_beside({"CPU": 2}, config({}, labels).ray, 4) == 0


def test_ranks_that_train_meanwhile_leave_too_few_cpus(nodes):
    nodes += [node(4)]
    check_resources(config({"num_ranks": 4}))
    check_resources(config({"num_ranks": 3, "batch_size": 63}, selection=OVERLAP))
    with pytest.raises(
        ConfigError,
        match=r"refresh.mode: is overlap, but with 1 CPUs .* room for 3 ranks, .* 4; set",
    ):
        check_resources(config({"num_ranks": 4}, selection=OVERLAP))
    workers = {**OVERLAP, "embed": {"cpus_per_worker": 2}}
    with pytest.raises(ConfigError, match=r"with 2 CPUs .* room for 2 ranks"):
        check_resources(config({"num_ranks": 3, "batch_size": 63}, selection=workers))
    check_resources(config({"num_ranks": 4, "min_ranks": 2}, selection=workers))


def test_fewer_ranks_where_selection_must_have_a_place(nodes):
    nodes += [node(4)]
    wanted = config({"batch_size": 12, "num_ranks": 4, "min_ranks": 2})
    assert training.choose_num_ranks(Job(wanted.train), wanted.ray) == 4
    assert training.choose_num_ranks(Job(wanted.train), wanted.ray, cpus_beside=1) == 3
    assert training.choose_num_ranks(Job(wanted.train), wanted.ray, cpus_beside=2) == 2


def test_what_ranks_leave_of_the_largest_node(nodes, monkeypatch):
    nodes += [node(8, name="a"), node(6, name="b", role="select")]
    group = {"bundles": {0: {"CPU": 3.0}, 1: {"CPU": 3.0}}, "bundles_to_node_id": {0: "a", 1: "a"}}
    gone = {"state": "REMOVED", "bundles": {0: {"CPU": 9.0}}, "bundles_to_node_id": {0: "b"}}
    table = {"ranks": {**group, "state": "CREATED"}, "gone": gone}
    monkeypatch.setattr(placement, "placement_group_table", lambda: table)
    assert largest_node_cpus({}) == 8
    assert largest_node_cpus({}, beside_ranks=True) == 6
    assert largest_node_cpus({"role": "select"}, beside_ranks=True) == 6
    wanting = {**OVERLAP, "embed": {"cpus_per_worker": 6}}
    check_room(config({}, selection=wanting))
    table["ranks"]["bundles_to_node_id"] = {0: "a", 1: "b"}
    assert largest_node_cpus({}, beside_ranks=True) == 5
    with pytest.raises(ConfigError, match=r"no node has more than 5 of the 6 CPUs left .*labels"):
        check_room(config({}, selection=wanting))
