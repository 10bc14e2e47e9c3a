"""Ray: the cluster that is named, or one of our own on this machine."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from launcher.config import RayConfig
from launcher.cpus import usable_cpus
from launcher.network import answers, is_plain
from launcher.ray_variables import RAY_VARIABLES
from launcher.stopping import keeping_handlers, not_to_be_stopped
from selection.errors import ConfigError, JobError

_LOG_SUFFIXES = {".log", ".out", ".err"}
_ANSWER_TIMEOUT_S = 10.0
"""Of a cluster that should be there already."""
_POLL_S = 0.1


@contextmanager
def ray_cluster(config: RayConfig, log_folder: Path) -> Iterator[None]:
    """Connect to Ray for the time of a run; what Ray says goes to `log_folder`, not to the screen.

    Raises:
        ConfigError: the address is none of a cluster.
        JobError: the cluster cannot be reached or started.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address and "://" in address:
        raise ConfigError(
            f"ray.address: {address} is not the address of the cluster itself; give host:6379, or hand the command to "
            "`ray job submit`"
        )
    _prepare_environment()
    if address:
        _wait_for_head(address, config)
    try:
        with keeping_handlers():
            context = _connect(address, config)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        where = f"at {address}" if address else "on this machine"
        raise JobError(f"Ray {where} cannot be used: {' '.join(str(error).split())}") from error
    session = Path(context.address_info["session_dir"])
    try:
        if config.num_nodes:
            _wait_for_nodes(config.num_nodes, config.join_timeout_s)
        yield
    finally:
        with not_to_be_stopped():
            ray.shutdown()
        if not address:
            keep_logs(session / "logs", log_folder / "ray")


def _connect(address: str | None, config: RayConfig) -> Any:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        return ray.init(address=address, **quiet)
    return ray.init(
        address="local",  # never attach to a Ray that somebody else left on this machine
        num_cpus=config.num_cpus or usable_cpus(),
        object_store_memory=config.object_store_bytes,
        include_dashboard=False,
        **quiet,
    )


def _wait_for_head(address: str, config: RayConfig) -> None:
    """Ray itself tries a dead address for more than ten minutes before it says so."""
    if not is_plain(address):
        return
    timeout_s = config.join_timeout_s if config.num_nodes else _ANSWER_TIMEOUT_S
    give_up_s = time.monotonic() + timeout_s
    while not answers(address):
        if time.monotonic() > give_up_s:
            raise JobError(
                f"Ray at {address} does not answer within {timeout_s:g} s; if that cluster is gone, change ray.address "
                "or `unset RAY_ADDRESS`"
            )
        time.sleep(_POLL_S)


def _wait_for_nodes(num_nodes: int, timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    while (
        len(names := [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]])
        < num_nodes
    ):
        if time.monotonic() > give_up_s:
            raise JobError(
                f"Ray: {len(names)} of {num_nodes} nodes joined within {timeout_s:g} s ({', '.join(names)}); the job's "
                "log says what the others did; ray.join_timeout_s may be raised"
            )
        time.sleep(_POLL_S)


def _prepare_environment() -> None:
    """Settings that every process of the run must see: those of a Ray that is started here inherit them.

    Where a cluster is joined, whoever started its nodes has set them, as `slurm/` and `configs/cluster/` do.
    """
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)


def keep_logs(source: Path, target: Path) -> None:
    """Copy Ray's own logs into the run; its session folder lies in a temporary place."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        # Ray's last processes may still be at work; a log is never a reason to fail
        with suppress(OSError):
            if path.suffix in _LOG_SUFFIXES and path.is_file() and path.stat().st_size:
                shutil.copy(path, target / path.name)
