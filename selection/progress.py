"""How a long stage says how far it is, on this terminal or, from another process, in a file.

A stage calls a `Progress` with its name, the work done and the work in all. `TerminalProgress` draws a
bar with rate and time left. `FileProgress` appends JSON lines that the launcher follows, so that workers on any
node share one screen, and `tail -f` works as well.
"""

import json
import sys
import time
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

_FILE_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 10.0


class Progress(Protocol):
    """Receives the state of one stage at a time."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "pairs") -> None:
        """Report `done` of `total` units of `stage`; the stage ends when they are equal."""
        ...


def silent(stage: str, done: int, total: int, unit: str = "pairs") -> None:
    """The `Progress` that shows nothing."""


class TerminalProgress:
    """Draws one bar at a time on standard error; a log file gets a line every ten seconds at most.

    Two of them have bars below each other. As a context it ends its bar, so that an error message begins on a line of
    its own.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> "TerminalProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, stage: str, done: int, total: int, unit: str = "pairs") -> None:
        """See `Progress`."""
        if self._bar is not None and self._bar.desc != stage:
            self.close()
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                desc=stage,
                unit=f" {unit}",
                unit_scale=True,
                mininterval=0.1 if sys.stderr.isatty() else _LOG_INTERVAL_S,
                dynamic_ncols=True,
                position=None if sys.stderr.isatty() else 0,  # no moving about in a log
            )
            self._bar.desc = stage  # tqdm appends ": ", which would hide a change of stage
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class FileProgress:
    """Appends `{"stage", "done", "total", "unit", "time"}` lines to a file of its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._next_time = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, unit: str = "pairs") -> None:
        """See `Progress`."""
        now = time.time()
        if now < self._next_time and done < total and stage == self._stage:
            return
        self._stage, self._next_time = stage, now + _FILE_INTERVAL_S
        event = {"stage": stage, "done": done, "total": total, "unit": unit, "time": now}
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
