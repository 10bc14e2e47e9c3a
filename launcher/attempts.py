"""The attempts of a run: a log folder each, how it ended, and what went wrong in it."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.run_dir import VERSIONS, RunDir
from selection.artifacts import write_json
from selection.errors import ArtifactError, ConfigError, JobError

_END = "end.json"
_END_BYTES = 64 * 1024
_ERROR = re.compile(
    r"^(?:coterie: (?!stopped|interrupted)(?P<ours>.+)"
    r"|\d{4}-\d\d-\d\d \S+ (?:ERROR|CRITICAL) \S+: (?P<logged>.+)"
    r"|(?P<raised>(?:\w+\.)*\w+(?:Error|Exception|Exit)(?:: .*)?))$"
)
"""A line that says what went wrong: of the command, of a log, or the last one of a traceback."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One attempt, over or under way."""

    number: int
    folder: Path

    began: float
    """Seconds since the epoch."""

    outcome: str | None
    """`finished`, `stopped` or `failed`; None: it is under way, or was killed."""

    error: str | None
    """Why it failed, as far as it could say so itself."""

    @property
    def logs(self) -> list[Path]:
        """What the driver, the ranks and selection wrote; Ray's own logs lie below."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in (".log", ".jsonl"))


@contextmanager
def noting_end(folder: Path) -> Iterator[None]:
    """Note in the log folder of an attempt how the body ended."""
    try:
        yield
    except KeyboardInterrupt:  # `Stopped` as well
        _note(folder, "stopped")
        raise
    except (ConfigError, ArtifactError, JobError) as error:
        _note(folder, "failed", str(error))
        raise
    except Exception as error:  # the border of the process
        logger.exception("the run failed")
        _note(folder, "failed", f"{type(error).__name__}: {error}")
        raise
    _note(folder, "finished")


def _note(folder: Path, outcome: str, error: str | None = None) -> None:
    write_json(folder / _END, {"outcome": outcome, "error": error, "time": time.time()})


def read_attempts(run_dir: RunDir) -> list[Attempt]:
    """All attempts of a run, oldest first."""
    folders = sorted((run_dir.root / "logs").glob("attempt-*"))
    return [_read(folder) for folder in folders if (folder / VERSIONS).is_file()]


def _read(folder: Path) -> Attempt:
    end = folder / _END
    note = json.loads(end.read_text()) if end.is_file() else {}
    return Attempt(
        number=int(folder.name.split("-")[1]),
        folder=folder,
        began=(folder / VERSIONS).stat().st_mtime,
        outcome=note.get("outcome"),
        error=note.get("error"),
    )


def last_error(attempts: list[Attempt]) -> tuple[int, str] | None:
    """Number of the newest attempt in which something went wrong, and what.

    What an attempt says of its own end counts; of one that was killed, the last error in its logs.
    """
    for attempt in reversed(attempts):
        if error := attempt.error or (attempt.outcome is None and find_error(attempt.logs)):
            return attempt.number, error
    return None


def find_error(logs: list[Path]) -> str | None:
    """The last line that says what went wrong, of the first of some logs that has one."""
    for path in logs:
        end, _ = read_end(path, _END_BYTES)
        for line in reversed(end.decode(errors="replace").splitlines()):
            if found := _ERROR.match(line):
                return next(text for text in found.groups() if text)
    return None


def read_end(path: Path, num_bytes: int) -> tuple[bytes, int]:
    """The end of a file, from the beginning of a line on if one begins there, and the place in the file behind it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - num_bytes))
        data, end = file.read(), file.tell()
    if size > num_bytes and (found := re.search(rb"\r?\n|\r", data)):  # progress bars know \r alone
        data = data[found.end() :]
    return data, end
