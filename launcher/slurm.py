"""`coterie submit`: a run as a SLURM job.

`plan_job` decides and `render` writes the script, both without side effects, so that `--dry-run` shows exactly what
would be submitted. `submit` then puts the script and the resolved configuration into a folder of the run directory,
which every node sees, and hands the script to sbatch: what the YAML file says later changes nothing for a job that
waits.
"""

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launcher.config import RunConfig, save_config
from launcher.network import FIRST_PORT, HEAD_PORTS
from launcher.plan.hardware import resources
from launcher.run_dir import RunDir
from launcher.shadows import check_working_folder
from launcher.slurm_config import SlurmConfig, is_one_line, time_limit_s
from launcher.stopping import EXIT_STOPPED
from selection.artifacts import atomic_file
from selection.errors import ConfigError, JobError

TEMPLATES = Path(__file__).parents[1] / "slurm"
SCRIPT, CONFIG, JOBS = "job.sbatch", "config.yaml", "jobs"
_SBATCH_TIMEOUT_S = 120
_ASKS_FOR_GPUS = re.compile("--(gres|gpus|tres)|-G")


@dataclass(frozen=True)
class Job:
    """A run to submit.

    Attributes:
        config: of the run; all paths in it are taken from `working_dir`.
        folder: of the script, the configuration and the logs, below the run directory.
        working_dir: where the job runs.
        python: on the nodes.
    """

    config: RunConfig
    folder: Path
    working_dir: Path
    python: str


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has accepted.

    Attributes:
        job_id: its number.
        log: what the job prints.
    """

    job_id: int
    log: Path


def plan_job(config: RunConfig) -> Job:
    """The job that `submit` would submit now.

    Raises:
        ConfigError: what is asked of SLURM cannot hold the run, or a path has what SLURM or a container misreads.
    """
    working_dir = Path.cwd()
    _check_path("working directory", working_dir, config)
    check_working_folder()
    check_request(config)
    _check_kept_gpus(config)
    logs = RunDir(config.run_dir).root / "logs"
    number = 1 + max((int(p.name.split("-")[1]) for p in logs.glob("submit-*")), default=0)
    python = config.slurm.python or sys.executable
    return Job(config, logs / f"submit-{number:03d}", working_dir, python)


def check_request(config: RunConfig) -> None:
    """Refuse what would fail only on the nodes.

    Raises:
        ConfigError: the ranks do not fit the nodes that are asked for, SLURM cannot write into the run directory, the
            time is over before it begins, or nobody knows the container's Python.
    """
    slurm = config.slurm
    root = RunDir(config.run_dir).root
    if "\\" in str(root):
        raise ConfigError(
            f"run_dir: {config.run_dir} has a backslash, which SLURM drops from the path of a log; rename it"
        )
    _check_path("run_dir", root, config)
    _check_time(slurm)
    if slurm.container and not slurm.python:
        raise ConfigError(
            f"slurm.python: is not set, and {sys.executable}, which runs this command, need not be in the image "
            f"{slurm.container.image}; set it to the path of Python there"
        )
    _check_cpus(config)
    if config.ray.address:
        raise ConfigError(
            f"ray.address: is {config.ray.address}, but a job starts a Ray of its own; set it to null, or use `coterie "
            "run` for that cluster"
        )
    for role in ("train_labels", "selection_labels"):
        if labels := getattr(config.ray, role):
            raise ConfigError(
                f"ray.{role}: is {labels}, but the nodes of a job have no labels; set it to {{}}, or use `coterie run` "
                "for a cluster whose nodes have some"
            )
    if not any(_ASKS_FOR_GPUS.match(option) for option in slurm.extra_args):
        _check_gpus(config)


def _check_cpus(config: RunConfig) -> None:
    """Refuse nodes that do not hold the ranks, where their CPUs are named."""
    slurm, train = config.slurm, config.train
    per_worker = config.selection.embed.cpus_per_worker
    if slurm.cpus_per_node and per_worker > slurm.cpus_per_node:
        raise ConfigError(
            f"slurm.cpus_per_node: is {slurm.cpus_per_node}, but selection.embed.cpus_per_worker is {per_worker:g}; "
            "ask for more, or lower it"
        )
    if slurm.cpus_per_node:
        fitting = int(slurm.cpus_per_node / train.cpus_per_rank) * (slurm.nodes - 1)
        beside = config.selection.cpus_beside_ranks  # on one node
        fitting += int(max(0.0, slurm.cpus_per_node - beside) / train.cpus_per_rank)
        if train.num_ranks > fitting:
            raise ConfigError(
                f"slurm.cpus_per_node: {slurm.nodes} nodes of {slurm.cpus_per_node} CPUs hold {fitting} ranks of "
                f"{train.cpus_per_rank:g} CPUs{f' beside {beside:g} for selection' if beside else ''}, but "
                f"train.num_ranks is {train.num_ranks}; ask for more, or lower it"
            )


def _check_path(name: str, path: Path, config: RunConfig) -> None:
    """Refuse what would end a line of the script or, where a container mounts the path, the path itself."""
    if not is_one_line(str(path)):
        raise ConfigError(
            f"{name}: {str(path)!r} has a line break or another control character, which would end a line of the job's "
            "script; rename it"
        )
    if config.slurm.container and (found := re.search("[,:]", str(path))):
        raise ConfigError(
            f"{name}: {path} has a {found[0]!r}, at which slurm.container would cut the path that it mounts; rename it"
        )


def _check_time(slurm: SlurmConfig) -> None:
    """A job that is told to stop as soon as it begins would put itself into the queue again and again."""
    limit_s = time_limit_s(slurm.time) if slurm.time else None
    if limit_s is not None and limit_s <= slurm.stop_before_end_s:
        raise ConfigError(
            f"slurm.time: is {slurm.time}, which is {limit_s} s, but slurm.stop_before_end_s is "
            f"{slurm.stop_before_end_s}, so the run would have to stop at once; ask for more time, or lower the latter"
        )


def _check_gpus(config: RunConfig) -> None:
    """Refuse a job with fewer GPUs than there are ranks, or with none where something else wants one."""
    train = config.train
    num_gpus = config.slurm.nodes * (config.slurm.gpus_per_node or 0)
    if train.use_gpu and train.num_ranks > num_gpus:
        raise ConfigError(
            f"slurm.gpus_per_node: the job has {num_gpus} GPUs, but train.num_ranks is {train.num_ranks} with one "
            "GPU each; ask for more, or lower it"
        )
    if not num_gpus and (fields := config.gpu_settings):
        raise ConfigError(
            f"slurm.gpus_per_node: is not set, but {' and '.join(fields)} asks for GPUs; set it, or lower the latter"
        )


def _check_kept_gpus(config: RunConfig) -> None:
    """Refuse ranks that keep the GPUs for which embedding or selection would wait for ever."""
    train, num_gpus = config.train, config.slurm.nodes * (config.slurm.gpus_per_node or 0)
    if not (num_gpus and train.use_gpu and config.selection.refresh.keep_ranks):
        return
    for field, wanted in config.gpus_beside_ranks.items():
        if train.num_ranks + wanted > num_gpus:
            raise ConfigError(
                f"slurm.gpus_per_node: the job has {num_gpus} GPUs, of which the ranks keep {train.num_ranks}, but "
                f"{field} wants {wanted:g} beside them; ask for more, or set "
                "selection.refresh.keep_ranks=false"
            )


def render(job: Job) -> str:
    """The script of a job."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=_quote,
        autoescape=False,  # `finalize` escapes, for bash
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["words"] = shlex.join
    srun_words, container_words = _container(job)
    return environment.get_template("job.sbatch.j2").render(
        slurm=job.config.slurm,
        options=_options(job),
        folder=job.folder,
        python=job.python,
        first_port=FIRST_PORT,
        head_ports=HEAD_PORTS,
        exit_stopped=EXIT_STOPPED,
        jobs=JOBS,
        ray=job.config.ray,
        srun_words=srun_words,
        container_words=container_words,
    )


def _quote(value: Any) -> str:
    return shlex.quote(str(value))


def _options(job: Job) -> Iterable[str]:
    """Options of sbatch, of which none that is not asked for."""
    slurm = job.config.slurm
    # SLURM replaces %j and the like, in whatever folder the run lies
    log = str(job.folder).replace("%", "%%")
    options = {
        "job-name": slurm.job_name or job.config.run_dir.name,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time,
        "nodes": slurm.nodes,
        "cpus-per-task": _cpus_per_node(job.config),
        "gpus-per-node": slurm.gpus_per_node,
        "mem": slurm.memory_per_node,
        "chdir": job.working_dir,
        "output": f"{log}/slurm-%j.out",
    }
    given = (f"--{name}={value}" for name, value in options.items() if value is not None)
    # for SLURM, unlike bash, a backslash between single quotes is an escape
    return [option.replace("\\", r"\\") for option in (*given, *slurm.extra_args)]


def _cpus_per_node(config: RunConfig) -> int | None:
    """CPUs to ask for; where nodes are divided a job gets a single one, unless they come with whole nodes or GPUs."""
    slurm = config.slurm
    otherwise = ("--exclusive", "--cpus-per-")
    if slurm.cpus_per_node or any(option.startswith(otherwise) for option in slurm.extra_args):
        return slurm.cpus_per_node
    # a section without any setting would be taken for none at all
    named = slurm.model_copy(update={"job_name": slurm.job_name or config.run_dir.name})
    of_plan = resources(config.model_copy(update={"slurm": named})).cpus_per_node
    return max(of_plan, math.ceil(config.selection.embed.cpus_per_worker))


def _container(job: Job) -> tuple[list[str], list[str]]:
    """Words for srun, and words in front of the command, that start it in the container."""
    container = job.config.slurm.container
    if container is None:
        return [], []
    # paths of the configuration are taken from the working directory
    ours = dict.fromkeys([job.working_dir, RunDir(job.config.run_dir).root])
    mounts = [*(f"{path}:{path}" for path in ours), *container.mounts]
    if container.runtime == "pyxis":
        return [
            f"--container-image={container.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={job.working_dir}",
            *container.extra_args,
        ], []
    return [], [
        *("apptainer", "exec"),
        *(["--nv"] if job.config.gpu_settings else []),
        *(word for mount in mounts for word in ("--bind", mount)),
        *("--pwd", str(job.working_dir)),
        *container.extra_args,
        container.image,
    ]


def submit(job: Job) -> Submitted:
    """Write the script and the configuration, and hand the script to sbatch.

    Raises:
        ConfigError: the run directory is in use or another configuration's, there is no sbatch, or it refuses.
        JobError: it does not answer.
    """
    if not shutil.which("sbatch"):
        raise ConfigError(
            "sbatch: not found on the PATH; submit on a login node of the cluster, or load its SLURM module "
            "(--dry-run shows the script anywhere)"
        )
    with RunDir(job.config.run_dir).claimed(job.config):
        job.folder.mkdir(parents=True)
        save_config(job.config, job.folder / CONFIG)
        with atomic_file(job.folder / SCRIPT, "w") as file:
            file.write(render(job))
    try:
        job_id = _sbatch(job.folder / SCRIPT)
    except ConfigError:
        shutil.rmtree(job.folder)
        raise
    with (job.folder / JOBS).open("a") as file:
        file.write(f"{job_id}\n")
    return Submitted(job_id, job.folder / f"slurm-{job_id}.out")


def tell_slurm(
    command: Sequence[str], name: str, timeout_s: float, next_step: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that changes something in SLURM, and wait for what it says.

    Args:
        command: its words.
        name: what a message calls it.
        timeout_s: how long to wait.
        next_step: what a message ends with.

    Raises:
        JobError: it does not answer.
    """
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"{name}: no answer within {timeout_s} s; {next_step}") from None


def _sbatch(script: Path) -> int:
    result = tell_slurm(
        ["sbatch", "--parsable", str(script)],
        "sbatch",
        _SBATCH_TIMEOUT_S,
        "before you submit again, see with `squeue --me` whether the job is there all the same",
    )
    # The number, on some sites with the cluster's name behind it, or with a greeting in front
    number = re.search(r"^(\d+)(;.*)?$", result.stdout, re.MULTILINE)
    if result.returncode or not number:
        said = " ".join((result.stderr or result.stdout).split())
        raise ConfigError(
            f"sbatch refuses the job: {said.removeprefix('sbatch: error: ')}; change the options or the section slurm"
        )
    return int(number[1])
