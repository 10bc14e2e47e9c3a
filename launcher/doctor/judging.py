"""What the facts about a machine mean for a run: pure functions, a finding each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.network import BLOCK_PORTS, choose_block
from selection.errors import JobError

SOCKET_BYTES = 107
"""Longest path of a socket, a limit of Linux."""

RAY_BYTES = 60
"""What Ray puts behind its temporary folder."""

MIN_OPEN_FILES = 4096
MIN_FREE_BYTES = 10 * 2**30
MAX_SKEW_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    level: Literal["ok", "warning", "problem"]
    text: str
    """What was found and, unless it is fine, what to do."""


def judge_compiler(compiler: str | None, ninja: str | None) -> Finding:
    """DeepSpeed can build operators of its own; `trainer/engine.py` lets it build none."""
    missing = [
        name for name, path in (("C++ compiler", compiler), ("ninja", ninja)) if path is None
    ]
    if missing:
        text = f"no {' and no '.join(missing)}; only needed to build DeepSpeed's own operators"
        return Finding("compiler", "ok", f"{text}, which Coterie does not use")
    return Finding("compiler", "ok", f"{compiler}, {ninja}")


def judge_faiss(installed: Mapping[str, str]) -> Finding:
    """All builds install the module `faiss`, and the last one overwrites the others."""
    names = ", ".join(f"{name} {version}" for name, version in installed.items())
    if not installed:
        return Finding("faiss", "problem", "not installed; `pip install -e '.[cpu]'`, or [gpu]")
    if len(installed) > 1:
        return Finding(
            "faiss", "problem", f"{names} overwrite each other; uninstall all, then install one"
        )
    return Finding("faiss", "ok", names)


def judge_torch(version: str | None, cuda: str | None, driver_cuda: str | None) -> Finding:
    """Args: version of torch, the CUDA that it was built for, and the newest that the driver serves."""
    if version is None:
        return Finding("torch", "problem", "not installed; `make install` in the repository")
    if driver_cuda is None:
        return Finding("torch", "ok", f"{version}, no GPU here")
    if cuda is None:
        return Finding(
            "torch",
            "problem",
            f"{version} is built for CPUs, but there is a GPU; install a CUDA build",
        )
    if int(cuda.split(".")[0]) > int(driver_cuda.split(".")[0]):
        return Finding(
            "torch", "problem",
            f"{version} is built for CUDA {cuda}, but the driver serves {driver_cuda}; "
            "update the driver, or install a build for an older CUDA",
        )  # fmt: skip
    return Finding("torch", "ok", f"{version} for CUDA {cuda}, the driver serves {driver_cuda}")


def judge_gpus(names: Sequence[str], wanted: Sequence[str], error: str = "") -> Finding:
    """Args: GPUs of this machine, the settings that ask for some, and why a driver that is here shows none."""
    if error:
        advice = "reload the driver, or uninstall it where there is no GPU"
        return Finding("gpus", "problem", f"nvidia-smi fails: {error}; {advice}")
    if names:
        return Finding("gpus", "ok", f"{len(names)}: {', '.join(dict.fromkeys(names))}")
    if wanted:
        return Finding(
            "gpus",
            "warning",
            f"none here, but asked for by {' and '.join(wanted)}; fine on a login node only",
        )
    return Finding("gpus", "ok", "none, and none is asked for")


def judge_shared_memory(free_bytes: int, store_bytes: int) -> Finding:
    """Args: what /dev/shm has left, and what Ray's object store takes."""
    text = f"/dev/shm has {_gib(free_bytes)} free, Ray's object store takes {_gib(store_bytes)}"
    if free_bytes < store_bytes:
        advice = "enlarge it (docker: --shm-size), or lower ray.object_store_bytes"
        return Finding("shared memory", "problem", f"{text}; {advice}")
    return Finding("shared memory", "ok", text)


def judge_ports(used: set[int], first_ephemeral: int, has_slurm: bool) -> Finding:
    """Args: ports that somebody listens on, the lowest that Linux gives away by itself, and whether SLURM is here,
    whose jobs alone need so many in a row.
    """
    try:
        block = choose_block(0, 0, first_ephemeral, used)
    except JobError as error:
        if not has_slurm:
            return Finding("ports", "ok", "too few in a row for SLURM jobs, and SLURM is not here")
        return Finding("ports", "problem", str(error))
    return Finding("ports", "ok", f"{BLOCK_PORTS} in a row are free from {block.start} on")


def judge_temp_dir(path: str) -> Finding:
    """Where Ray puts its sockets."""
    num_bytes = len(path.encode())
    if num_bytes > SOCKET_BYTES - RAY_BYTES:
        return Finding(
            "temp dir", "problem",
            f"{path} has {num_bytes} bytes, but Ray's sockets leave room for {SOCKET_BYTES - RAY_BYTES}; "
            "set RAY_TMPDIR to a shorter one",
        )  # fmt: skip
    return Finding("temp dir", "ok", path)


def judge_open_files(soft: int, hard: int) -> Finding:
    """Limits of this shell; Ray raises the soft one by itself up to the hard one."""
    if hard < MIN_OPEN_FILES:
        return Finding(
            "open files", "warning", f"at most {hard}; ask for {MIN_OPEN_FILES} (limits.conf)"
        )
    return Finding("open files", "ok", f"{soft}, up to {hard}")


def judge_slurm(missing: list[str], answer: str | None, error: str) -> Finding:
    """Args: commands that are not there, of three; what sinfo printed, None where it failed; its message."""
    if len(missing) == 3:
        return Finding("slurm", "ok", "not here; runs start with `coterie run`")
    if missing:
        return Finding("slurm", "problem", f"no {', '.join(missing)} on the PATH; load its module")
    if answer is None:
        return Finding(
            "slurm", "warning", f"sinfo does not answer ({error or 'timeout'}); ask its operator"
        )
    return Finding("slurm", "ok", f"partitions {', '.join(answer.split()) or 'none'}")


def judge_ray_address(address: str | None, has_answered: bool) -> Finding:
    """RAY_ADDRESS, or that of the configuration."""
    if address and "://" in address:
        return Finding(
            "ray address", "problem",
            f"{address} is not the address of the cluster itself; give host:6379, or hand the command to "
            "`ray job submit`",
        )  # fmt: skip
    if address and not has_answered:
        return Finding(
            "ray address", "problem",
            f"nobody answers at {address}; `unset RAY_ADDRESS`, or change ray.address",
        )  # fmt: skip
    return Finding("ray address", "ok", address or "none, so Ray starts on this machine")


def judge_token(path: str, permissions: int | None, is_wanted: bool) -> Finding:
    """Args: the file of Ray's token, its permission bits or None without one, and whether Ray is told to ask for it."""
    if permissions is None:
        if is_wanted:
            return Finding(
                "ray token", "problem", f"RAY_AUTH_MODE is token, but there is no {path}; make one"
            )
        return Finding("ray token", "ok", "none, and none is asked for")
    if permissions & 0o077:
        level = "problem" if is_wanted else "warning"
        return Finding("ray token", level, f"others may read {path}; `chmod 600 {path}`")
    return Finding("ray token", "ok", f"{path}, for your eyes only")


def judge_threads(value: str | None, num_cpus: int) -> Finding:
    """OMP_NUM_THREADS, which every worker inherits."""
    if value and value.isdecimal() and int(value) > num_cpus:
        return Finding(
            "threads", "warning",
            f"OMP_NUM_THREADS is {value}, but there are {num_cpus} CPUs; `unset OMP_NUM_THREADS`",
        )  # fmt: skip
    text = f"OMP_NUM_THREADS is {value}" if value else "OMP_NUM_THREADS is not set"
    return Finding("threads", "ok", f"{text}, {num_cpus} CPUs")


def judge_disk(path: str, free_bytes: int, is_writable: bool) -> Finding:
    """Of the run directory."""
    if not is_writable:
        return Finding("disk", "problem", f"{path} cannot be written; choose another run_dir")
    text = f"{path} has {_gib(free_bytes)} free"
    if free_bytes < MIN_FREE_BYTES:
        return Finding("disk", "warning", f"{text}; `coterie plan` says what a run takes")
    return Finding("disk", "ok", text)


def judge_clock(skew_s: float | None) -> Finding:
    """Args: by how much the file system's clock is ahead of this machine's; None: nothing could be written."""
    if skew_s is None:
        return Finding("clock", "warning", "not compared, as nothing could be written")
    text = f"{abs(skew_s):.1f} s between this machine and the file system"
    if abs(skew_s) > MAX_SKEW_S:
        return Finding("clock", "warning", f"{text}; set it, or `coterie status` misjudges ages")
    return Finding("clock", "ok", text)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
