"""`coterie submit`: a run as a SLURM job.

`plan_job` decides and `render` writes the script, both without side effects, so that `--dry-run` shows exactly what
would be submitted. `submit` then puts the script and the resolved configuration into a folder of the run directory,
which every node sees, and hands the script to sbatch: what the YAML file says later changes nothing for a job that
waits.
"""

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
from launcher.network import HEAD_PORTS
from launcher.run_dir import RunDir
from launcher.stopping import EXIT_STOPPED
from selection.artifacts import atomic_file
from selection.errors import ConfigError, JobError

TEMPLATES = Path(__file__).parents[1] / "slurm"
SCRIPT, CONFIG, JOBS = "job.sbatch", "config.yaml", "jobs"
_SBATCH_TIMEOUT_S = 120


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
        ConfigError: what is asked of SLURM cannot hold the run.
    """
    check_request(config)
    logs = RunDir(config.run_dir).root / "logs"
    number = 1 + max((int(p.name.split("-")[1]) for p in logs.glob("submit-*")), default=0)
    python = config.slurm.python or sys.executable
    return Job(config, logs / f"submit-{number:03d}", Path.cwd(), python)


def check_request(config: RunConfig) -> None:
    """Refuse what would fail only on the nodes.

    Raises:
        ConfigError: the ranks do not fit the nodes that are asked for, or SLURM cannot write into the run directory.
    """
    slurm, train = config.slurm, config.train
    if "\\" in str(RunDir(config.run_dir).root):
        raise ConfigError(
            f"run_dir: {config.run_dir} has a backslash, which SLURM drops from the path of a log; rename it"
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
    if config.ray.address:
        raise ConfigError(
            f"ray.address: is {config.ray.address}, but a job starts a Ray of its own; set it to null, or use `coterie "
            "run` for that cluster"
        )
    asks_otherwise = any("gpu" in option or "gres" in option for option in slurm.extra_args)
    num_gpus = slurm.nodes * (slurm.gpus_per_node or 0)
    if train.use_gpu and train.num_ranks > num_gpus and not asks_otherwise:
        raise ConfigError(
            f"slurm.gpus_per_node: the job has {num_gpus} GPUs, but train.num_ranks is {train.num_ranks} with one "
            "GPU each; ask for more, or lower it"
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
        "cpus-per-task": slurm.cpus_per_node,
        "gpus-per-node": slurm.gpus_per_node,
        "mem": slurm.memory_per_node,
        "chdir": job.working_dir,
        "output": f"{log}/slurm-%j.out",
    }
    given = (f"--{name}={value}" for name, value in options.items() if value is not None)
    # for SLURM, unlike bash, a backslash between single quotes is an escape
    return [option.replace("\\", r"\\") for option in (*given, *slurm.extra_args)]


def _container(job: Job) -> tuple[list[str], list[str]]:
    """Words for srun, and words in front of the command, that start it in the container."""
    container = job.config.slurm.container
    if container is None:
        return [], []
    mounts = [f"{root}:{root}" for root in (RunDir(job.config.run_dir).root,)]
    mounts += container.mounts
    if container.runtime == "pyxis":
        return [
            f"--container-image={container.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={job.working_dir}",
            *container.extra_args,
        ], []
    return [], [
        *("apptainer", "exec"),
        *(["--nv"] if job.config.train.use_gpu else []),
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
