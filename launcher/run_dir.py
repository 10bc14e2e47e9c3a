"""The run directory: every path of a run in one place, one owner at a time, one log folder per attempt."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.config import RunConfig, differences, load_config, save_config
from launcher.ownership import is_orphan
from launcher.versions import versions
from selection.artifacts import is_temporary, write_json
from selection.errors import ConfigError
from trainer.claim import read_owner

VERSIONS = "versions.json"
_LOCK, _OWNER = ".lock", ".owner.json"
_MADE_BEFORE_CONFIG = {_LOCK, _OWNER, "index", "encoder", "logs", "metrics"}


class RunDir:
    """Paths below the folder of a run.

    Args:
        root: the folder; it need not be there yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "config.yaml"
        self.data = self.root / "data.json"
        self.owner = self.root / _OWNER
        self.encoder = self.root / "encoder"
        self.schedules = self.root / "schedules"
        self.checkpoints = self.root / "checkpoints"
        self.all_embeddings = self.root / "embeddings"
        self.metrics = self.root / "metrics"
        self.stages = self.root / "metrics" / "stages.jsonl"
        self.results = self.root / "metrics" / "rounds.jsonl"
        self.training = self.root / "metrics" / "train.jsonl"  # as `trainer.metrics` calls it
        self.examples = self.root / "metrics" / "examples.jsonl"
        self.readme = self.root / "README.md"

    def index(self, split: str) -> Path:
        """Index of the training or held-out shards."""
        return self.root / "index" / split

    def embeddings(self, split: str, round_number: int) -> Path:
        """Embeddings by a checkpoint of a round: the one at its end, or one inside if it is selected from ahead."""
        return self.all_embeddings / f"round-{round_number:05d}" / split

    def new_attempt(self) -> Path:
        """A fresh log folder, which says what it ran on; `logs/latest` points to it."""
        logs = self.root / "logs"
        number = 1 + max((int(p.name.split("-")[1]) for p in logs.glob("attempt-*")), default=0)
        attempt = logs / f"attempt-{number:03d}"
        attempt.mkdir(parents=True)
        write_json(attempt / VERSIONS, versions())
        link = logs / "latest"
        link.unlink(missing_ok=True)
        link.symlink_to(attempt.name)
        return attempt

    @contextmanager
    def claimed(self, config: RunConfig) -> Iterator[None]:
        """Lock the folder; the lock goes away with the process, however it ends. `owning` does the rest.

        It becomes a run of `config` with `keep`, so that a configuration which does not fit its data leaves it free.

        Raises:
            ConfigError: it is in use, belongs to another configuration, is no run at all, or cannot be made.
        """
        if not self.config.is_file() and self.root.is_dir() and self._holds_something():
            raise ConfigError(
                f"run_dir: {self.root} is not empty and holds no config.yaml; choose another folder"
            )
        make_folder(self.root, "run_dir")
        with self._locked():
            if self.config.is_file() and (changed := differences(load_config(self.config), config)):
                raise ConfigError(
                    f"run_dir: {self.root} is a run of another configuration ({'; '.join(changed[:3])}); "
                    "choose another run_dir, or delete that one"
                )
            yield

    def keep(self, config: RunConfig) -> None:
        """Make the folder a run of `config`, for good."""
        if not self.config.is_file():
            save_config(config, self.config)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / _LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if is_orphan(read_owner(self.owner)):
                    yield  # it loses the folder to `owning`, and stops
                    return
                file.seek(0)
                raise ConfigError(
                    f"run_dir: {self.root} is in use by {file.read().strip() or 'another process'}; "
                    "wait for it, or choose another folder"
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"run_dir: {self.root} lies on a file system without locks ({error.strerror}); choose another "
                    "folder, or have it mounted with them (Lustre: -o flock)"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def _holds_something(self) -> bool:
        names = {path.name for path in self.root.iterdir() if not is_temporary(path)}
        return bool(names - _MADE_BEFORE_CONFIG)

    def forget_embeddings(self, before_round: int, *splits: str) -> None:
        """Delete the embeddings of these splits by earlier rounds; the newest serve `coterie search` and people."""
        for folder in self.all_embeddings.glob("round-*"):
            if int(folder.name.split("-")[1]) < before_round:
                for split in splits:
                    shutil.rmtree(folder / split, ignore_errors=True)
                if not any(folder.iterdir()):
                    folder.rmdir()


def no_run(root: Path) -> ConfigError:
    """The error for a folder that is no run."""
    return ConfigError(f"{root}: holds no config.yaml, so it is no run; `coterie run` makes one")


def make_folder(path: Path, field: str) -> None:
    """A folder that `field` names.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{field}: {path}: {error.strerror}; choose another folder") from None


def open_run(root: Path) -> tuple[RunDir, RunConfig]:
    """A run that was made before.

    Raises:
        ConfigError: there is none.
    """
    run_dir = RunDir(root)
    if not run_dir.config.is_file():
        raise no_run(root)
    return run_dir, load_config(run_dir.config)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line, with the time; in place of a last line that was cut off, as by a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.read_bytes() if path.exists() else b""
    if written and not written.endswith(b"\n"):
        os.truncate(path, written.rfind(b"\n") + 1)
    with path.open("a") as file:
        file.write(json.dumps({**record, "time": time.time()}) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none where there is no file, and a cut-off last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
