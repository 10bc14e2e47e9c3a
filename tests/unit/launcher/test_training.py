"""How many ranks are started, and where, by what Ray says of its nodes; tests/integration loses real ones."""

import pytest

from launcher import placement, training
from launcher.config import RunConfig, validate
from launcher.placement import check_resources, num_places, on_nodes
from selection.errors import ConfigError, JobError


def node(cpus=0, gpus=0, alive=True, **labels):
    return {"Alive": alive, "Labels": labels, "Resources": {"CPU": cpus, "GPU": gpus}}


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
    with pytest.raises(ConfigError, match=r"Ray's nodes with .*select.* have 1"):
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


def test_without_labels_ray_chooses_the_nodes():
    assert on_nodes({}) == {}
    assert on_nodes({"role": "train"}) == {"label_selector": {"role": "train"}}
    with pytest.raises(ConfigError, match="train_labels"):
        config({}, {"train_labels": {"role": "!train"}})
