"""What reaches SLURM and the nodes: options, values with every kind of quote, and what was granted. No Ray."""

import json
import re

import pytest

from launcher.ray_node import Grant, granted
from tests.slurm.cluster import wait_until

pytestmark = pytest.mark.slurm

HOSTILE = """it's "q" $(touch pwned) `touch pwned` ; touch pwned & # \\ %j ${HOME} {{ 7 }}"""


def override(name, value):
    return f"{name}={json.dumps(value)}"


def test_nothing_that_a_user_writes_breaks_out(cluster, tell, tmp_path):
    run_dir = tmp_path / HOSTILE.replace("\\", "")  # SLURM drops it from paths, so we refuse it
    told = tell(
        run_dir,
        override("slurm.job_name", HOSTILE),
        override("slurm.env", {"A": HOSTILE, "B": "two\nlines'; touch pwned\n"}),
        override("slurm.setup", [f"export C='{HOSTILE}'".replace("it's", "its"), "export D=1"]),
        override("slurm.extra_args", [f"--comment={HOSTILE}"]),
    )
    assert set(told) == {"n1", "n2"}
    for node in told.values():
        assert node["environ"]["A"] == HOSTILE
        assert node["environ"]["B"] == "two\nlines'; touch pwned\n"
        assert node["environ"]["C"] == HOSTILE.replace("it's", "its")
        assert node["environ"]["D"] == "1"
    head = told["n1"]["words"]
    assert head[head.index("run") + 1] == f"{run_dir}/logs/submit-001/config.yaml"
    assert not list(tmp_path.rglob("pwned"))
    assert HOSTILE in cluster.run("squeue", "-t", "all", "-h", "-o", "%j").splitlines()


def test_the_node_has_what_slurm_granted(tell, tmp_path):
    told = tell(tmp_path / "run", "--cpus-per-node", 3, "--gpus-per-node", 2)
    for node in told.values():
        assert granted(node["environ"]) == Grant(3, 2, 3 * 1000 * 2**20)
        assert node["environ"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    told = tell(tmp_path / "memory", "--cpus-per-node", 3, "--memory-per-node", "2G")
    assert granted(told["n2"]["environ"]) == Grant(3, 0, 2 * 2**30)


def test_ray_of_the_submitting_shell_stays_outside(tell, tmp_path, monkeypatch, cluster):
    monkeypatch.setitem(cluster.environment, "RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", "of another cluster")
    for node in tell(tmp_path / "run").values():
        assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(node["environ"])
        assert node["environ"]["RAY_AUTH_MODE"] == "token"


def test_a_setup_command_that_fails_ends_the_job(cluster, submit, tmp_path):
    for number, command in enumerate(["false", "echo 'open", "exit 3"]):
        run_dir = tmp_path / str(number)
        job = submit(run_dir, override("slurm.setup", [command]))
        assert cluster.wait_for_end(job, timeout_s=60) == "FAILED"
        log = (run_dir / "logs" / "submit-001" / f"slurm-{job}.out").read_text()
        # the node that comes first ends the other one, which may not get to say so
        assert re.search(rf"on n[12]: {re.escape(command)}", log) or command == "exit 3"
        assert not list(run_dir.rglob("ray-n*"))  # where a node keeps Ray's logs


def test_a_run_directory_that_a_node_does_not_see(cluster, submit):
    run_dir = cluster.not_on_n2 / "run"
    job = submit(run_dir)
    assert cluster.wait_for_end(job, timeout_s=60) == "FAILED"
    log = (run_dir / "logs" / "submit-001" / f"slurm-{job}.out").read_text()
    assert "job.sbatch cannot be read on node n2; choose a run_dir that all nodes share" in log


def test_sbatch_refuses(coterie, cluster, tiny_overrides, tmp_path):
    result = coterie(
        *("submit", "configs/quickstart.yaml", *tiny_overrides, f"run_dir={tmp_path / 'run'}"),
        *("--partition", "nowhere"),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("coterie: sbatch refuses the job: ")
    assert "invalid partition specified: nowhere" in result.stderr
    assert not list(tmp_path.rglob("submit-*"))


def test_the_token_is_ours_alone_and_gone_with_the_job(cluster, submit, tmp_path):
    run_dir = tmp_path / "run"
    job = submit(run_dir, override("slurm.setup", ["sleep 3; exit 1"]))
    folder = run_dir / "logs" / "submit-001" / f"job-{job}.0"
    wait_until((folder / "ray_token").is_file, "token", 30)
    assert (folder / "ray_token").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len((folder / "ray_token").read_text()) == 64
    cluster.wait_for_end(job, timeout_s=60)
    wait_until(lambda: not (folder / "ray_token").exists(), "end of the token", 10)
