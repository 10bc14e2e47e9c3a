"""Ports and addresses of this machine.

Ray's random ports may fall into the range of its own workers, and jobs that share a node would meet. So every Ray node
gets a block of ports of its own, chosen by job and node and passed over where somebody listens in it; two jobs, or two
nodes that a test puts on one machine, keep apart. All ports lie below those that Linux gives to outgoing connections.
"""

import re
import socket
from pathlib import Path

from selection.errors import JobError

FIRST_PORT = 1024
"""The lowest port that is not root's."""

HEAD_PORTS = 1000
"""Ports just below the ephemeral ones, among which the batch script finds that of the head."""

BLOCK_PORTS = 250
"""Ports of one Ray node: some with names, the others for its workers."""

_BLOCKS_BELOW = 20_000
_USUAL_FIRST_EPHEMERAL = 32768
_LISTEN = "0A"  # as /proc/net/tcp spells it


def choose_block(job_id: int, node: int, first_ephemeral: int, used: set[int]) -> range:
    """The block of ports of a Ray node.

    Args:
        job_id: SLURM's number of the job.
        node: number of the node within the job.
        first_ephemeral: lowest port that the system gives away by itself.
        used: ports that somebody listens on.

    Raises:
        JobError: no block is free, or there is no place for one.
    """
    stop = first_ephemeral - HEAD_PORTS
    lowest = max(FIRST_PORT, first_ephemeral - _BLOCKS_BELOW)
    starts = range(lowest, stop - BLOCK_PORTS + 1, BLOCK_PORTS)
    begins = f"net.ipv4.ip_local_port_range begins at {first_ephemeral} on {socket.gethostname()}"
    if not starts:
        raise JobError(
            f"ports: {begins}, but Ray needs {HEAD_PORTS + BLOCK_PORTS} ports between {FIRST_PORT} and there; ask its "
            f"operator to let it begin at {_USUAL_FIRST_EPHEMERAL}, as Linux does, or take other nodes"
        )
    for attempt in range(len(starts)):
        # A job that comes after another begins some blocks later, a node next to the one before it.
        start = starts[(job_id * 7 + node + attempt) % len(starts)]
        block = range(start, start + BLOCK_PORTS)
        if used.isdisjoint(block):
            return block
    raise JobError(
        f"ports: no {BLOCK_PORTS} ports in a row are free from {lowest} to {stop}, as {begins}; "
        "ask for whole nodes (slurm.extra_args: [--exclusive])"
    )


def first_ephemeral_port() -> int:
    """The lowest port that Linux gives to outgoing connections."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def listening_ports() -> set[int]:
    """TCP ports on which somebody listens on this machine."""
    ports = set()
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            _, local, _, state, *_ = line.split()
            if state == _LISTEN:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def own_ip(other: str) -> str:
    """The address of this machine on the network on which it reaches `other`; nothing is sent.

    A node may have several networks, and its own name often stands for 127.0.1.1 in its /etc/hosts.

    Raises:
        JobError: there is no way to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError as error:
            raise JobError(
                f"{other}: cannot be reached from {socket.gethostname()} ({error}); ask whether nodes know each other "
                "by name"
            ) from None
        return probe.getsockname()[0]


def is_plain(address: str) -> bool:
    """Whether an address is host:port; `auto` and ray://... are Ray's to resolve."""
    return bool(re.fullmatch(r"[^/]+:\d+", address))


def answers(address: str) -> bool:
    """Whether somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
