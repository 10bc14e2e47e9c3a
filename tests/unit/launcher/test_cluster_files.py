"""The files for `ray up` and KubeRay: as their schemas want them, as far as that goes without a cloud, and in
agreement with the run that they start."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from launcher.config import load_config
from launcher.ray_variables import RAY_VARIABLES
from trainer.config import TrainConfig

FOLDER = Path("configs/cluster")


def run_of(command):
    """The configuration of `coterie run CONFIG a.b=c ...` in a shell command."""
    words = shlex.split(command.partition("coterie run ")[2].replace("\\\n#", " "))
    return load_config(Path(words[0]), words[1:])


def check_fits(config, trainers, selectors, num_nodes):
    """The ranks take the GPUs of the trainers, the embedding workers those of the selectors.

    Args:
        config: of the run.
        trainers, selectors: nodes of each group, their CPUs and their GPUs.
        num_nodes: of the whole cluster.
    """
    train, embed = config.train, config.selection.embed
    for count, nodes, cpus, gpus in (
        (train.num_ranks, trainers, train.cpus_per_rank, 1),
        (embed.num_workers, selectors, embed.cpus_per_worker, embed.gpus_per_worker),
    ):
        num, node_cpus, node_gpus = nodes
        assert count * gpus == num * node_gpus
        assert node_gpus / gpus * cpus <= node_cpus
    assert config.ray.num_nodes == num_nodes
    assert config.ray.train_labels != config.ray.selection_labels
    lost_a_node = train.num_ranks * (trainers[0] - 1) // trainers[0]
    assert lost_a_node in TrainConfig.possible_num_ranks(train)


def test_ray_up_on_aws():
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (FOLDER / "aws.yaml").read_text()
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert json.dumps(config)
    (command,) = re.findall(r'ray exec \S+ "(.*?)"', text, re.DOTALL)
    types = config["available_node_types"]

    def group(labels):
        (found,) = (each for each in types.values() if each.get("labels") == labels)
        assert found["min_workers"] == found["max_workers"]
        return found["max_workers"], found["resources"]["CPU"], found["resources"]["GPU"]

    run = run_of(command)
    num_nodes = 1 + sum(each["max_workers"] for each in types.values())
    assert num_nodes == 1 + config["max_workers"]
    check_fits(run, group(run.ray.train_labels), group(run.ray.selection_labels), num_nodes)
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert any("RAY_AUTH_MODE=token ray start" in each for each in commands)


def test_what_git_ignores_stays_at_home():
    text = (FOLDER / "aws.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["rsync_filter"] == [".gitignore"]
    assert config["file_mounts"]["~/coterie"] == "."  # where that file lies
    ignored = Path(".gitignore").read_text().splitlines()
    assert {".venv/", "/data/", "/runs/", "/studies/"} <= set(ignored)
    assert "chmod 600 ~/.ray/auth_token" in text


JOB_FIELDS = {
    "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "submissionMode",
    "rayClusterSpec",
}  # fmt: skip
GROUP_FIELDS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
}  # fmt: skip


def test_a_ray_job_on_kubernetes():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", job["metadata"]["name"])
    assert job["spec"].keys() == JOB_FIELDS
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster.keys() == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in pods:
        (container,) = pod["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in pod["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert all(isinstance(value, str) for value in pod["rayStartParams"].values())
    assert all(group.keys() == GROUP_FIELDS for group in cluster["workerGroupSpecs"])

    def group(labels):
        (found,) = (
            each
            for each in cluster["workerGroupSpecs"]
            if {"ray.io/node-group": each["groupName"]} == labels
        )
        limits = found["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert found["minReplicas"] == found["replicas"] == found["maxReplicas"]
        return found["replicas"], int(limits["cpu"]), int(limits["nvidia.com/gpu"])

    run = run_of(job["spec"]["entrypoint"])
    num_nodes = 1 + sum(each["replicas"] for each in cluster["workerGroupSpecs"])
    check_fits(run, group(run.ray.train_labels), group(run.ray.selection_labels), num_nodes)


@pytest.mark.parametrize("name", ["kuberay.yaml"])
def test_ray_is_the_one_that_is_tested(name):
    import ray

    text = (FOLDER / name).read_text()
    assert set(re.findall(r'rayVersion: "([^"]+)"', text)) == {ray.__version__}


def test_nodes_are_started_with_what_workers_must_see():
    """Where a cluster is joined, they have it from their nodes."""
    aws = yaml.safe_load((FOLDER / "aws.yaml").read_text())
    for commands in (aws["head_start_ray_commands"], aws["worker_start_ray_commands"]):
        (start,) = (each for each in commands if "ray start" in each)
        told = dict(word.split("=", 1) for word in shlex.split(start) if "=" in word)
        assert told.items() >= RAY_VARIABLES.items()
    cluster = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    for pod in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = pod["template"]["spec"]["containers"]
        assert {each["name"]: each["value"] for each in container["env"]} == RAY_VARIABLES
