"""Ray on one node of a SLURM job and, on the first node, the run; srun starts it once per node.

    python -m launcher.ray_node n1:31766 --logs DIR --temp-dir /tmp --store-bytes 1000000000 --join-timeout-s 300

is a worker; with `--peer n2 --stop-file FILE --run COMMAND ...` it is the head.

It ends when the run ends, when Ray does, or when SLURM or the batch script sends a signal. Every process that it
started ends before it.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from launcher.children import leaving_no_process, started
from launcher.network import answers, choose_block, first_ephemeral_port, listening_ports, own_ip
from launcher.ray_variables import RAY_VARIABLES
from selection.errors import ConfigError, JobError

_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
)
_HEAD_PORTS = ("dashboard-port", "ray-client-server-port")
_PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")  # without an option
_NUM_NAMED = len(_PORTS + _HEAD_PORTS + _PORT_VARIABLES)
_POLL_S = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class Grant:
    """What the job has on this node.

    Attributes:
        num_cpus: CPUs.
        num_gpus: GPUs.
        memory_bytes: memory; None where SLURM does not count it.
    """

    num_cpus: int
    num_gpus: int
    memory_bytes: int | None


def granted(environ: Mapping[str, str]) -> Grant:
    """Read the grant from the environment of a job step.

    SLURM_CPUS_PER_TASK and SLURM_GPUS_PER_TASK are not asked: they may be unset, or say less than the step has.
    """
    num_cpus = int(environ["SLURM_CPUS_ON_NODE"])
    mib = int(environ.get("SLURM_MEM_PER_NODE", 0))
    mib = mib or num_cpus * int(environ.get("SLURM_MEM_PER_CPU", 0))
    return Grant(num_cpus, int(environ.get("SLURM_GPUS_ON_NODE", 0)), mib * 2**20 or None)


def ray_command(
    place: list[str], node_ip: str, ports: range, grant: Grant, temp_dir: Path, store_bytes: int
) -> list[str]:
    """The command that runs Ray on this node until it gets a signal.

    Args:
        place: options that make it the head, or name the head.
        node_ip: address at which the other nodes reach this one.
        ports: all that this node may use.
        grant: what Ray may use of the node.
        temp_dir: of sockets and logs.
        store_bytes: shared memory of the object store.
    """
    names = _PORTS + _HEAD_PORTS * ("--head" in place)
    memory = [f"--memory={grant.memory_bytes - store_bytes}"] if grant.memory_bytes else []
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place),
        f"--node-ip-address={node_ip}",
        *(f"--{name}={port}" for name, port in zip(names, ports, strict=False)),
        f"--min-worker-port={ports[_NUM_NAMED]}",
        f"--max-worker-port={ports[-1]}",
        f"--num-cpus={grant.num_cpus}",
        f"--num-gpus={grant.num_gpus}",
        f"--object-store-memory={store_bytes}",
        *memory,
        f"--temp-dir={temp_dir}",
    ]


def ray_environ(ports: range) -> dict[str, str]:
    """Variables for the ports that Ray's command has no option for."""
    chosen = ports[_NUM_NAMED - len(_PORT_VARIABLES) : _NUM_NAMED]
    return dict(zip(_PORT_VARIABLES, map(str, chosen), strict=True))


def serve(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run Ray, and on the head the run, until one of them ends.

    Returns:
        Exit status of the run.

    Raises:
        ConfigError: the token cannot be read, or the folder for temporary files is somebody else's.
        JobError: the head does not answer, or Ray ended by itself.
    """
    if not os.access(token := environ["RAY_AUTH_TOKEN_PATH"], os.R_OK):
        raise ConfigError(
            f"{token}: Ray's token cannot be read here; choose a run_dir that all nodes share"
        )
    job_id = int(environ["SLURM_JOB_ID"])
    number = 0 if args.run else 1 + int(environ["SLURM_NODEID"])  # counted within the step
    host, _, port = args.head.rpartition(":")
    if args.run:
        place = ["--head", f"--port={port}", "--include-dashboard=false"]
        node_ip = own_ip(args.peer)
    else:
        _wait_for_head(args.head, args.join_timeout_s)
        place, node_ip = [f"--address={args.head}"], own_ip(host)
    ports = choose_block(job_id, number, first_ephemeral_port(), listening_ports())
    folder = args.temp_dir / f"ct-{job_id}-{number}"
    with _private_folder(folder, keep_logs_in=args.logs), leaving_no_process():
        command = ray_command(place, node_ip, ports, granted(environ), folder, args.store_bytes)
        environ = {**RAY_VARIABLES, **environ, **ray_environ(ports)}
        log = args.logs / "ray_start.log"
        with started(command, environ, signal.SIGTERM, log) as ray:
            if not args.run:
                raise _ended(ray.wait(), args.logs)
            return _run(args, {**environ, "RAY_ADDRESS": f"{node_ip}:{port}"}, ray)


def _run(args: argparse.Namespace, environ: Mapping[str, str], ray: Popen) -> int:
    """The run, as long as Ray is there."""
    with started(args.run, environ, signal.SIGINT) as run:
        while run.poll() is None:
            if ray.poll() is not None:
                raise _ended(ray.returncode, args.logs)
            if args.stop_file.exists():
                run.send_signal(signal.SIGUSR1)  # again and again: it may not listen yet
            time.sleep(_POLL_S)
        return run.returncode


def _wait_for_head(head: str, timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not answers(head):
        if time.monotonic() > give_up_s:
            raise JobError(
                f"Ray's head {head} did not answer within {timeout_s:g} s; see what the head says above, ask whether "
                "the nodes may reach each other on all ports, or raise ray.join_timeout_s"
            )
        time.sleep(_POLL_S)


def _ended(status: int, logs: Path) -> JobError:
    return JobError(f"Ray ended with status {status}; see {logs}")


@contextmanager
def _private_folder(path: Path, keep_logs_in: Path) -> Iterator[None]:
    """A folder that only we can enter; Ray's logs are kept when it goes.

    Raises:
        ConfigError: somebody else has that name.
    """
    if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
        shutil.rmtree(path)  # of an attempt of this job that was killed
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ConfigError(f"{path}: is there and not ours; set another slurm.temp_dir") from None
    try:
        yield
    finally:
        from launcher.ray_cluster import keep_logs

        keep_logs(path / "session_latest" / "logs", keep_logs_in)
        shutil.rmtree(path, ignore_errors=True)


class _Stopped(Exception):
    """SLURM or the batch script wants this node to end."""


def _stop(number: int, _frame: object) -> None:
    for each in _SIGNALS:  # one is enough, however many follow
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(signal.Signals(number).name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launcher.ray_node")
    parser.add_argument("head", help="host:port of Ray's head")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the logs of all nodes")
    parser.add_argument("--temp-dir", type=Path, required=True)
    parser.add_argument("--store-bytes", type=int, required=True)
    parser.add_argument(
        "--join-timeout-s", type=float, required=True, help="how long the head is waited for"
    )
    parser.add_argument("--peer", help="on the head: another node, to find the network they share")
    parser.add_argument(
        "--stop-file", type=Path, help="on the head: whoever makes it asks the run to stop"
    )
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="on the head: the command to run")
    return parser


def main() -> int:
    """Serve this node.

    Returns:
        Exit status of the run, 0 of a worker; 1 failed, 2 wrong input, 128 + SIGTERM stopped from outside.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    args, node = _parser().parse_args(), os.environ["SLURMD_NODENAME"]
    args.logs /= f"ray-{node}"
    try:
        args.logs.mkdir(parents=True, exist_ok=True)
        return serve(args, os.environ)
    except _Stopped as stopped:
        if not args.run:
            return 0  # how every worker ends
        print(f"coterie: {node}: stopped by {stopped}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (ConfigError, JobError) as error:
        print(f"coterie: {node}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(main())
