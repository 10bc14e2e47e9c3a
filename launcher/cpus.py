"""How many CPUs this process may use."""

import os


def usable_cpus() -> int:
    """Fewer than the machine has where SLURM, a container or `taskset` holds this process on some of them."""
    return len(os.sched_getaffinity(0))
