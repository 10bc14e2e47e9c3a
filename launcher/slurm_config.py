"""The section `slurm` of a configuration: what `coterie submit` asks SLURM for, and how a node is made ready.

Nothing in it decides the result of a run, so `RunConfig.identity` leaves it out.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from selection.config import Settings

_OWNED = {
    "account",
    "array",  # one run directory has one owner
    "chdir",
    "cpus-per-task",
    "gpus-per-node",
    "job-name",
    "mem",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "partition",
    "qos",
    "time",
}
"""Options of sbatch that the script sets by itself."""

_SHORT = {
    "A": "account", "a": "array", "c": "cpus-per-task", "D": "chdir", "J": "job-name", "N": "nodes", "n": "ntasks",
    "o": "output", "p": "partition", "q": "qos", "t": "time",
}  # fmt: skip


def is_one_line(text: str) -> bool:
    """Whether it may stand in an `#SBATCH` line: there is something, and no control character."""
    return bool(re.fullmatch(r"[^\x00-\x1f\x7f]+", text))


def time_limit_s(text: str) -> int | None:
    """Seconds of a limit as sbatch reads it; None where there is none, or it is written in no way that we know."""
    parts = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})", text.strip())
    if parts is None:
        return None
    clock = [int(number) for number in parts["clock"].split(":")]
    # behind days, hours come first; a number alone is minutes, and two are minutes and seconds
    begins_with_hours = parts["days"] is not None or len(clock) == 3
    hours, minutes, seconds, *_ = [*([] if begins_with_hours else [0]), *clock, 0, 0]
    limit_s = 86400 * int(parts["days"] or 0) + 3600 * hours + 60 * minutes + seconds
    return 60 * math.ceil(limit_s / 60) or None  # SLURM counts begun minutes, and 0 is no limit


def _one_line(value: Any) -> Any:
    if isinstance(value, str) and not is_one_line(value):
        raise ValueError(
            f"is {value!r}, but must be one line without control characters; change it"
        )
    return value


def _without_nul(value: Any) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"is {value!r}, but no shell can hold a NUL character; remove it")
    return value


Line = Annotated[str, BeforeValidator(_one_line)]
"""Text that may stand in an `#SBATCH` line: a line break in it would begin a line of shell."""

ShellText = Annotated[str, BeforeValidator(_without_nul)]


class ContainerConfig(Settings):
    """The container in which Ray and the run work on every node; `slurm.python` is the Python in it."""

    runtime: Literal["pyxis", "apptainer"]
    """`pyxis`: SLURM's plugin of that name starts it; `apptainer`: the command of that name."""

    image: Line
    """As the runtime spells it: `nvcr.io#nvidia/pytorch:25.10-py3`, or a path of a .sqsh or .sif file."""

    mounts: tuple[Line, ...] = ()
    """`/outside` or `/outside:/inside`; the run directory and the working directory are mounted anyway. The data must
    have the same path inside."""

    extra_args: tuple[Line, ...] = ()
    """More options of srun (pyxis) or of `apptainer exec`, one per entry: `--container-remap-root`."""


class SlurmConfig(Settings):
    """A job of `coterie submit`; null leaves a value to the cluster's default."""

    job_name: Line | None = None
    """Null takes the name of the run directory."""

    nodes: int = Field(default=1, ge=1)
    """Nodes of the job; Ray runs on all of them, the run itself on the first."""

    gpus_per_node: int | None = Field(default=None, ge=1)

    cpus_per_node: int | None = Field(default=None, ge=1)
    """Null asks for what `coterie plan` counts with, or for none where `extra_args` has --exclusive or --cpus-per-*."""

    memory_per_node: Line | None = None
    """With a unit, as sbatch reads it: `480G`; `0` is all that the node has."""

    time: Line | None = None
    """Limit as sbatch reads it, in quotes: "90" minutes, "2:00:00", "3-12:00:00"."""

    stop_before_end_s: int = Field(default=120, ge=1, le=65535)
    """Seconds before the time limit at which the run saves its state, stops and puts itself into the queue again; less
    than `time`, and no more than SLURM can hold."""

    max_restarts: int = Field(default=100, ge=0)
    """How often it does so; a run that never gets to its first step would do it for ever."""

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None

    extra_args: tuple[Line, ...] = ()
    """More options of sbatch, one per entry: `--constraint=a100`, `--exclusive`, `--no-requeue`."""

    python: Line | None = None
    """Python on the nodes, or in `container`; null, without a container, takes the one that runs `coterie submit`."""

    modules: tuple[Line, ...] = ()
    """Environment modules that are loaded before anything else."""

    env: dict[str, ShellText] = Field(default_factory=dict)
    """Environment variables of the whole job."""

    setup: tuple[ShellText, ...] = ()
    """Commands of bash that every node runs once, before Ray, inside the container if there is one."""

    container: ContainerConfig | None = None

    temp_dir: Line = "/tmp"
    """Local disk of a node for Ray's sockets and logs. Short, because the path of a socket has at most 107 bytes."""

    @field_validator("time", mode="before")
    @classmethod
    def _time_is_quoted(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(
                f"is the number {value}: YAML reads 2:00:00 as 7200, and SLURM would take it for minutes; "
                'put it in quotes, as in time: "2:00:00"'
            )
        return value

    @field_validator("env")
    @classmethod
    def _names_are_names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(
                    f"{name!r} is no name of an environment variable; use letters, digits and _"
                )
        return env

    @field_validator("extra_args")
    @classmethod
    def _are_options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            name = option.lstrip("-").partition("=")[0]
            if option.startswith("-") and not option.startswith("--"):
                name = _SHORT.get(option[1:2], name)
            if not option.startswith("-"):
                raise ValueError(f"{option!r} is no option of sbatch; write --name=value")
            if name in _OWNED:
                raise ValueError(
                    f"{option!r} is set by `coterie submit` itself; use its option, or a field beside this one"
                )
        return options

    @field_validator("temp_dir")
    @classmethod
    def _leaves_room_for_sockets(cls, path: str) -> str:
        if not path.startswith("/") or len(path.encode()) > _MAX_TEMP_DIR_BYTES:
            raise ValueError(
                f"is {path!r}, but must be an absolute path of at most {_MAX_TEMP_DIR_BYTES} bytes, or Ray's sockets "
                "below it get too long a path; take a shorter one"
            )
        return path


_MAX_TEMP_DIR_BYTES = 24
"""107 of a socket's path, less about 60 of Ray's own part and 20 of ours, see `launcher/ray_node.py`."""
