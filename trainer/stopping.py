"""Stopping at a step: anybody asks by a file, all ranks agree, and the step after the next is the last.

Ranks must leave their loop at the same step, or those that go on wait for the others for ever. So every rank tells at
every step whether it has seen the file, and learns one step later what all have seen: the exchange takes place beside
the step and nobody waits for it. One rank that sees the file is enough; on a network file system, ranks on other
machines than the one that wrote it may see it half a minute later.
"""

import time
from pathlib import Path

import torch
import torch.distributed as dist

_LOOK_EVERY_S = 0.5


class StopRequest:
    """What the ranks know of a request to stop.

    Args:
        file: whoever makes it asks the ranks to stop.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next_look_s = 0.0
        self._seen = False
        # On CPUs, also where the ranks train on GPUs: reading the answer must not wait for a GPU.
        self._group = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def agreed(self) -> bool:
        """Whether all ranks stop here; every rank calls this once at every step."""
        answer = self._answer()
        self._flag.fill_(self._looks())
        self._exchange = dist.all_reduce(
            self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return answer

    def agreed_now(self, wanted: bool) -> bool:
        """Whether any rank wants to stop between two rounds; every rank calls this and waits for the others."""
        self._flag.fill_(self._answer() or wanted)
        dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group)
        return bool(self._flag.item())

    def close(self) -> None:
        """Wait for the last exchange, so that the process group can go."""
        self._answer()

    def _answer(self) -> bool:
        if self._exchange is None:
            return False
        self._exchange.wait()
        self._exchange = None
        return bool(self._flag.item())

    def _looks(self) -> bool:
        if not self._seen and time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + _LOOK_EVERY_S
            self._seen = self._file.exists()
        return self._seen
