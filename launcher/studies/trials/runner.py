"""Trials side by side: each is `coterie run` in a process of its own, on CPUs of its own, placed by Ray.

A slot is a Ray actor that runs one trial after the other and holds them on fixed cores. The trial has its own small Ray
on those cores, so that what it finds there, and its seconds, do not depend on its neighbours; the outer Ray only
says on which machine. A trial whose slot dies is told to stop, and goes on at the next call.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.actor_pool import ActorPool

from launcher.config import save_config
from launcher.ray_cluster import ray_cluster
from launcher.studies.trials.plan import Trial
from selection.errors import ConfigError, JobError

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_FULL_PRIORITY = {"RAY_worker_niceness": "0"}
"""Ray's workers are nice by default, those of a Ray inside one twice: what else runs would count as their seconds."""


@dataclass(frozen=True)
class Outcome:
    """How the process of a trial ended."""

    trial: Trial
    status: int
    log: Path


class Slot:
    """Runs one trial at a time; a plain class, which Ray makes an actor."""

    def place(self) -> tuple[str, list[int]]:
        """The node, and the cores that it lets this process use."""
        return ray.get_runtime_context().get_node_id(), sorted(os.sched_getaffinity(0))

    def hold(self, cores: list[int]) -> None:
        """Stay on `cores`, as do all processes that are started from here."""
        os.sched_setaffinity(0, cores)

    def run(self, trial: Trial, log: Path, environment: dict[str, str]) -> Outcome:
        """Run a trial to its end; what it says goes to the end of `log`."""
        config = log.with_suffix(".yaml")
        own_ray = trial.config.ray.model_copy(
            update={"address": None, "num_cpus": len(os.sched_getaffinity(0))}
        )
        save_config(trial.config.model_copy(update={"ray": own_ray}), config)
        visible = {
            name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ
        }
        with log.open("ab") as file:
            finished = subprocess.run(
                [sys.executable, "-m", "launcher.cli", "run", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**environment, **visible},
                preexec_fn=_stop_with_parent,
                check=False,
            )
        return Outcome(trial, finished.returncode, log)


def _stop_with_parent() -> None:
    """In the new process: be interrupted, as by Ctrl-C, when the slot is gone, and heed it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGINT)


def run_trials(trials: Sequence[Trial], at_once: int, cpus: int, logs: Path) -> Iterator[Outcome]:
    """Run trials, `at_once` of them side by side, and yield each as it ends.

    Args:
        trials: which, in the order in which they are begun.
        at_once: slots.
        cpus: of each slot.
        logs: folder of a log for each trial, and of Ray's.

    Raises:
        ConfigError: Ray has too little for all slots.
        JobError: Ray cannot be used.
    """
    logs.mkdir(parents=True, exist_ok=True)
    os.environ.update(_FULL_PRIORITY)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    config = trials[0].config
    gpus = config.train.num_ranks if config.train.use_gpu else 0
    num_slots = min(at_once, len(trials))
    with ray_cluster(config.ray, logs):
        _check_resources({"CPU": num_slots * cpus, "GPU": num_slots * gpus})
        new_slot: Any = ray.remote(Slot).options(num_cpus=cpus, num_gpus=gpus)
        slots = [new_slot.remote() for _ in range(num_slots)]
        places = ray.get([slot.place.remote() for slot in slots])
        cores = share_cores(places, cpus)
        ray.get([slot.hold.remote(own) for slot, own in zip(slots, cores, strict=True)])
        outcomes: Any = ActorPool(slots).map_unordered(
            lambda slot, trial: slot.run.remote(trial, _log(logs, trial), environment), list(trials)
        )
        try:
            yield from outcomes
        except RayActorError as error:
            raise JobError(
                f"a machine or process that ran trials was lost: {error}; resume"
            ) from error


def _check_resources(wanted: dict[str, int]) -> None:
    there = ray.cluster_resources()
    for kind, amount in wanted.items():
        if amount > there.get(kind, 0):
            raise ConfigError(
                f"trials_at_once: the slots ask for {amount} {kind}s, but Ray has {there.get(kind, 0):g}; "
                "run fewer trials at once"
            )


def share_cores(places: Sequence[tuple[str, list[int]]], cpus: int) -> list[list[int]]:
    """Cores of each slot: `cpus` of its node that no other slot has; all of them where the node has too few.

    Args:
        places: node and its cores, by slot.
        cpus: of each slot.
    """
    taken: dict[str, int] = defaultdict(int)
    shares = []
    for node, cores in places:
        own = cores[taken[node] : taken[node] + cpus]
        taken[node] += cpus
        shares.append(own if len(own) == cpus else cores)
    return shares


def _log(logs: Path, trial: Trial) -> Path:
    return logs / f"{trial.budget}-{trial.arm.replace(' ', '-')}-seed-{trial.seed}.log"
