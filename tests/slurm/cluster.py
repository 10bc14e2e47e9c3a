"""A real SLURM for tests: munged, slurmctld and two slurmd from Debian's packages, on this machine, over loopback.

Each node has namespaces of its own for processes, mounts and the host name, so that a job sees two machines, n1 and n2,
and n2 does not see one folder. Network, memory and CPUs stay shared, which is harder on ports than two machines would
be. Everything lies in one temporary folder; daemons end by the process ids that started them.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
_OF_SLURM = ("slurmd", "slurmstepd", "srun")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
_START_S, _STOP_S = 30, 20
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

_NODE = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
[ "$1" = n1 ] || mount -t tmpfs private "$2/not-on-n2"
exec slurmd -D -f "$2/slurm.conf" -N "$1"
"""
"""A node, inside its namespaces: its name, who is who, and on n2 an empty folder over one that the others see."""


def why_not() -> str | None:
    """Why the daemons cannot be started here; None where they can."""
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=_PATH)]
    if missing:
        return f"{', '.join(missing)}: not installed; `make test-slurm` installs SLURM and munge"
    if os.geteuid() != 0:
        return "SLURM's daemons and the namespaces of its nodes need root"
    return None


def wait_until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    """Poll until `condition` holds."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.1)


class SlurmCluster:
    """The daemons of one cluster.

    Args:
        folder: of sockets, state and logs; a short path, because a socket's has at most 107 bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.not_on_n2 = folder / "not-on-n2"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "PATH": _PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self._daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start all daemons, and wait until both nodes are idle."""
        self._write_files()
        self._start_daemon(
            "munged",
            "--foreground",
            "--force",  # or it refuses folders that others may enter, such as /tmp
            f"--socket={self.folder}/munge.socket",
            f"--key-file={self.folder}/munge/key",
            f"--pid-file={self.folder}/munge/pid",
            f"--log-file={self.folder}/munge/log",
            f"--seed-file={self.folder}/munge/seed",
        )
        wait_until((self.folder / "munge.socket").exists, "munged", _START_S)
        self._start_daemon("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        for node in NODES:
            self.start_node(node)
        wait_until(self._all_idle, "nodes n1 and n2 idle", _START_S)

    def start_node(self, node: str) -> None:
        """Start one slurmd in namespaces of its own."""
        flags = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts")
        self._start_daemon(
            node, "unshare", *flags, "sh", "-c", _NODE, "node", node, str(self.folder)
        )

    def crash_node(self, node: str) -> None:
        """End a node with everything that runs on it, as a power cut would."""
        process = self._daemons.pop(node)
        process.kill()  # --kill-child: the namespace goes with it
        process.wait(_STOP_S)

    @contextmanager
    def silent(self, node: str) -> Iterator[None]:
        """While the body runs, a node does not answer, as if its network were gone; jobs on it go on."""
        everything = psutil.Process(self._daemons[node].pid).children(recursive=True)
        of_slurm = [each for each in everything if each.name() in _OF_SLURM]
        for process in of_slurm:
            process.suspend()
        try:
            yield
        finally:
            for process in of_slurm:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def stop(self) -> None:
        """End all daemons, nodes first."""
        for name, process in reversed(self._daemons.items()):
            process.send_signal(signal.SIGKILL if name in NODES else signal.SIGTERM)
        for process in self._daemons.values():
            process.wait(_STOP_S)

    def run(self, *command: str, check: bool = True) -> str:
        """What a SLURM command prints."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert not check or result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def job(self, job_id: int) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        text = self.run("scontrol", "--oneliner", "show", "job", str(job_id))
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def state(self, job_id: int) -> str:
        """Such as RUNNING."""
        return self.job(job_id)["JobState"]

    def wait_for_end(self, job_id: int, timeout_s: float) -> str:
        """Wait until a job is over, and return its last state."""
        wait_until(lambda: self.state(job_id) in OVER, f"end of job {job_id}", timeout_s)
        return self.state(job_id)

    def _all_idle(self) -> bool:
        return set(self.run("sinfo", "-h", "-o", "%T", check=False).split()) == {"idle"}

    def _start_daemon(self, name: str, *command: str) -> None:
        arguments = command if name in NODES else (name, *command)
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def _write_files(self) -> None:
        for name in ("state", "not-on-n2", "munge"):
            (self.folder / name).mkdir(mode=0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = dict(
            zip(("control_port", "first_port", "second_port"), _free_ports(3), strict=True)
        )
        text = (Path(__file__).parent / "slurm.conf").read_text()
        text = text.format(folder=self.folder, host=socket.gethostname(), **ports)
        (self.folder / "slurm.conf").write_text(text)
        names = " ".join(("localhost", socket.gethostname(), *NODES))
        (self.folder / "hosts").write_text(f"127.0.0.1 {names}\n")
        # slurmd starts with and without cgroups on the machine
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        self._write_fake_gpus()

    def _write_fake_gpus(self) -> None:
        """Two devices that do nothing; SLURM numbers them only if they are character devices."""
        for number in range(2):
            subprocess.run(["mknod", f"{self.folder}/gpu{number}", "c", "1", "3"], check=True)
        (self.folder / "gres.conf").write_text(
            f"Name=gpu File={self.folder}/gpu[0-1] Flags=nvidia_gpu_env\n"
        )


@contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """A cluster in a temporary folder, while the body runs."""
    # not pytest's folder, whose path is too long for a socket
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = SlurmCluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def submitted_job(printed: str) -> int:
    """The number of the job in what `coterie submit` printed."""
    return int(printed.split()[1].rstrip(":"))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
