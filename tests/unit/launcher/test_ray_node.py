import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import children, ray_cluster, ray_node
from launcher.children import leaving_no_process, started
from launcher.config import RayConfig
from launcher.ray_node import Grant, granted, ray_command, ray_environ
from selection.errors import ConfigError, JobError

PORTS = range(14_000, 14_250)


@pytest.mark.parametrize(
    ("environ", "grant"),
    [
        ({"SLURM_CPUS_ON_NODE": "8"}, Grant(8, 0, None)),
        (
            {"SLURM_CPUS_ON_NODE": "8", "SLURM_GPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "100"},
            Grant(8, 4, 100 * 2**20),
        ),
        ({"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_CPU": "1000"}, Grant(3, 0, 3000 * 2**20)),
    ],
)
def test_granted(environ, grant):
    assert granted(environ) == grant


@pytest.mark.parametrize("place", [["--head", "--port=32000"], ["--address=n1:32000"]])
def test_every_port_that_ray_knows_is_one_of_the_block(place):
    from ray.scripts.scripts import start

    command = ray_command(place, "10.0.0.1", PORTS, Grant(8, 2, 10**10), Path("/tmp/x"), 10**9)
    given = dict(word.split("=") for word in command if "=" in word and "-port=" in word)
    ports = [int(port) for name, port in given.items() if name != "--port"]
    ports += map(int, ray_environ(PORTS).values())
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(PORTS)
    known = {option.opts[0] for option in start.params if option.opts[0].endswith("-port")}
    of_the_head = {"--port", "--dashboard-port", "--ray-client-server-port"}
    assert given.keys() == (known if "--head" in place else known - of_the_head)
    assert f"--memory={10**10 - 10**9}" in command


def test_a_token_that_is_missing_on_a_node(tmp_path, monkeypatch, capsys):
    token = str(tmp_path / "ray_token")
    for name, value in {"SLURMD_NODENAME": "n2", "RAY_AUTH_TOKEN_PATH": token}.items():
        monkeypatch.setenv(name, value)
    words = ["n1:32000", f"--logs={tmp_path}", "--temp-dir=/tmp", "--store-bytes=100000000"]
    words += ["--join-timeout-s=9"]
    monkeypatch.setattr(sys, "argv", ["ray_node", *words])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    assert ray_node.main() == 2
    assert f"coterie: n2: {token}: Ray's token cannot be read here" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_refused_and_ours_is_made_anew(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        pytest.raises(ConfigError, match=r"is there and not ours; set another slurm.temp_dir"),
        ray_node._private_folder(tmp_path / "link", tmp_path / "logs"),
    ):
        pass
    (tmp_path / "ours").mkdir(mode=0o755)
    (tmp_path / "ours" / "old").touch()
    folder = tmp_path / "ours"
    with ray_node._private_folder(folder, tmp_path / "logs"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not list(folder.iterdir())
    assert not folder.exists()


def test_a_child_ends_by_its_signal_or_is_killed_and_orphans_are_ended(monkeypatch):
    monkeypatch.setattr(children, "_STOP_S", 0.3)
    stubborn = "trap '' TERM; sleep 100 & sleep 100 & wait; wait"
    with (
        leaving_no_process(),
        started(["sh", "-c", stubborn], {"PATH": "/bin:/usr/bin"}, signal.SIGTERM) as one,
        started(["sleep", "100"], {"PATH": "/bin:/usr/bin"}, signal.SIGINT) as two,
    ):
        time.sleep(0.3)
    assert (one.returncode, two.returncode) == (-signal.SIGKILL, -signal.SIGINT)
    assert not subprocess.run(
        ["pgrep", "-g", str(one.pid)], capture_output=True, text=True, check=False
    ).stdout


def test_an_address_at_which_nobody_listens_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_ANSWER_TIMEOUT_S", 0.2)
    with (
        pytest.raises(JobError, match=r"Ray at 127.0.0.1:1 does not answer .*unset RAY_ADDRESS"),
        ray_cluster.ray_cluster(RayConfig(address="127.0.0.1:1"), tmp_path),
    ):
        pass


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_an_address_that_is_not_that_of_the_cluster(address, tmp_path):
    with (
        pytest.raises(ConfigError, match=f"{address} is not the address of the cluster itself"),
        ray_cluster.ray_cluster(RayConfig(address=address), tmp_path),
    ):
        pass


def test_nodes_that_do_not_join(monkeypatch):
    nodes = [{"Alive": True, "NodeManagerHostname": "n1"}, {"Alive": False}]
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: nodes)
    ray_cluster._wait_for_nodes(1, 0.3)
    with pytest.raises(JobError, match=r"1 of 2 nodes joined within 0.3 s \(n1\)"):
        ray_cluster._wait_for_nodes(2, 0.3)
