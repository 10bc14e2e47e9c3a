"""How many CPUs this process may use."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OLD_QUOTA = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cpus() -> int:
    """Fewer than the machine has where SLURM, a container or `taskset` holds this process on some of them, or where a
    container may use only so many at a time.
    """
    held = len(os.sched_getaffinity(0))
    try:
        if _QUOTA.is_file():
            return min(held, quota_cpus(_QUOTA.read_text()) or held)
        return min(held, quota_cpus(" ".join(path.read_text() for path in _OLD_QUOTA)) or held)
    except OSError:
        return held


def quota_cpus(text: str) -> int | None:
    """CPUs that a control group may use at a time; None: any number.

    Args:
        text: microseconds of CPUs, and of the period in which they may be spent: `200000 100000` are 2 CPUs.
    """
    quota, period = text.split()
    if quota in ("max", "-1"):
        return None
    return max(1, math.ceil(int(quota) / int(period)))
