"""`coterie logs`: what went wrong, then the end of what the processes of an attempt wrote, and what comes after."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from launcher.attempts import Attempt, find_error, last_error, read_attempts, read_end
from launcher.run_dir import RunDir
from launcher.slurm_jobs import read_jobs
from launcher.status.standing import newest_without_attempt
from selection.errors import ConfigError

_POLL_S = 0.5
_LINE_BYTES = 2000  # more than nearly every line has


class LogFiles:
    """The files of an attempt, those to come included, and how far each was shown.

    Args:
        find: lists the files that there are now.
    """

    def __init__(self, find: Callable[[], list[Path]]) -> None:
        self._find = find
        self._shown: dict[Path, int] = {}
        self._last: Path | None = None

    def show_ends(self, num_lines: int) -> None:
        """Print the last lines of each file."""
        for path in self._find():
            data, end = read_end(path, max(1, num_lines) * _LINE_BYTES)
            if path.suffix == ".jsonl":  # half a line says nothing yet
                whole = data[: data.rfind(b"\n") + 1]
                data, end = whole, end - len(data) + len(whole)
            lines = _spell(path, data)
            self._print(path, lines[max(0, len(lines) - num_lines) :])
            self._shown[path] = end

    def show_more(self) -> None:
        """Print the whole lines that were written since."""
        for path in self._find():
            start = self._shown.get(path, 0)
            if path.stat().st_size < start:  # somebody has cut it
                start = 0
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._shown[path] = start + len(whole)
            self._print(path, _spell(path, whole))

    def _print(self, path: Path, lines: list[str]) -> None:
        if not lines:
            return
        if path != self._last:
            print(f"\n==> {path} <==" if self._last else f"==> {path} <==")
            self._last = path
        print("\n".join(lines), flush=True)


def _spell(path: Path, data: bytes) -> list[str]:
    """The lines of a log, or of what `FileProgress` wrote, as people read them."""
    lines = data.decode(errors="replace").splitlines()
    if path.suffix != ".jsonl":
        return lines
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return ["{stage}: {done:,} of {total:,} {unit}".format_map(event) for event in events]


def show_logs(root: Path, attempt: int | None, rank: int | None, num_lines: int) -> LogFiles:
    """Print what went wrong, then the last lines of each log.

    Args:
        root: folder of the run.
        attempt: its number; None is the newest, and those that come while one follows.
        rank: whose log alone is shown; None shows all.
        num_lines: of each file.

    Raises:
        ConfigError: there is no such run, attempt or log.
    """
    run_dir = _open(root)
    found = _files(run_dir, attempt, rank)
    if not found:
        what = "log" if rank is None else f"log of rank {rank}"
        raise ConfigError(f"{root}: there is no {what} yet; --list shows all that there are")
    if error := _error(run_dir, attempt):
        print(f"last error: {error}\n")
    logs = LogFiles(lambda: _files(run_dir, attempt, rank))
    logs.show_ends(num_lines)
    return logs


def follow(logs: LogFiles) -> None:
    """Print what is written from now on, until Ctrl-C."""
    while True:
        time.sleep(_POLL_S)
        logs.show_more()


def list_logs(root: Path) -> str:
    """Attempts, how they ended, and their files with sizes.

    Raises:
        ConfigError: there is no run.
    """
    run_dir = _open(root)
    lines = []
    for attempt in read_attempts(run_dir):
        began = datetime.fromtimestamp(attempt.began).strftime("%Y-%m-%d %H:%M:%S")
        error = f": {attempt.error}" if attempt.error else ""
        outcome = attempt.outcome or "no end noted"
        lines.append(f"attempt {attempt.number}, {began}, {outcome}{error}")
        lines += map(_describe_file, attempt.logs)
        lines += _describe_folders([attempt.folder / "ray"])
    for job in read_jobs(run_dir):
        lines.append(f"job {job.job_id}")
        lines += map(_describe_file, [path for path in (job.log,) if path.is_file()])
        lines += _describe_folders(job.attempts)
    return "\n".join(lines)


def _open(root: Path) -> RunDir:
    run_dir = RunDir(root)
    if not (run_dir.root / "logs").is_dir():
        raise ConfigError(f"{root}: holds no logs, so no run has begun there")
    return run_dir


def _newest_job_logs(run_dir: RunDir) -> list[Path]:
    """What the newest job has printed; nothing before it has begun."""
    return [job.log for job in read_jobs(run_dir)[-1:] if job.log.is_file()]


def _describe_file(path: Path) -> str:
    return f"  {path.stat().st_size:>12,} bytes  {path}"


def _describe_folders(folders: list[Path]) -> list[str]:
    """What Ray wrote, dozens of files."""
    numbers = {folder: sum(1 for _ in folder.rglob("*.log")) for folder in folders}
    return [f"  {number:>12} files  {folder}" for folder, number in numbers.items() if number]


def _files(run_dir: RunDir, number: int | None, rank: int | None) -> list[Path]:
    """What is shown: of the newest job and the newest attempt, or of one attempt alone."""
    attempt = _attempt(run_dir, number)
    logs = attempt.logs if attempt else []
    if rank is not None:
        return [path for path in logs if path.name == f"rank-{rank}.log"]
    return [*_newest_job_logs(run_dir), *logs] if number is None else logs


def _attempt(run_dir: RunDir, number: int | None) -> Attempt | None:
    attempts = read_attempts(run_dir)
    if number is None:
        return attempts[-1] if attempts else None
    found = [attempt for attempt in attempts if attempt.number == number]
    if not found:
        raise ConfigError(
            f"--attempt: is {number}, but there are attempts 1 to {len(attempts)}; --list shows them"
        )
    return found[0]


def _error(run_dir: RunDir, number: int | None) -> str | None:
    """What went wrong in one attempt, or last of all, which may be a job in which the run has not begun."""
    attempts = read_attempts(run_dir)
    job = newest_without_attempt(read_jobs(run_dir), attempts) if number is None else None
    if job and job.log.is_file() and (error := find_error([job.log])):
        return error
    if found := last_error([each for each in attempts if number in (None, each.number)]):
        return "attempt {}: {}".format(*found)
    return find_error(_newest_job_logs(run_dir)) if number is None else None
