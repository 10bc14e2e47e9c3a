"""A trainer rank: a plain function of a job and the environment that Ray Train or torchrun gives its ranks.

    torchrun --nproc-per-node 2 -m trainer.worker job.json

Ranks never wait for a schedule inside a collective, which would time out while selection is at work: each looks for
the folder by itself. Importing this module imports no torch and no deepspeed, so that a controller that only starts
ranks stays light.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from selection.artifacts import has_manifest
from selection.config import Settings
from selection.errors import ArtifactError, ConfigError, JobError
from selection.schedule import open_schedule, schedule_folder
from trainer.claim import Claim
from trainer.config import EncoderConfig, TrainConfig
from trainer.length import RunLength, step_to_select_from

logger = logging.getLogger(__name__)

_POLL_S = 0.5


class TrainJob(Settings):
    """All that a rank needs to know, as JSON."""

    encoder: EncoderConfig
    train: TrainConfig
    seed: int

    config_hash: str
    """Of the run's configuration; a checkpoint of another one is refused."""

    index_folder: Path
    encoder_folder: Path
    schedules_folder: Path
    checkpoints_folder: Path
    metrics_folder: Path
    embeddings_folder: Path | None = None
    """Where the ranks note the embeddings that they compute in a round; null: nobody asks for them."""

    claim: Claim | None = None
    """The right to write into the run directory, which another attempt may take over; null: nobody else does."""

    log_folder: Path
    """Each rank writes its own `rank-N.log` here."""

    first_round: int = Field(ge=0)
    """Where a run without a checkpoint starts."""

    stop_round: int = Field(ge=1)
    """The round after the last one to train; the ranks wait for the schedule of each."""

    length: RunLength
    """Of the whole run."""

    share_cpus: bool = False
    """Whether the ranks leave their CPUs to others while they wait, so that these must not be reserved for them."""

    select_ahead: bool = False
    """Whether somebody selects the next schedule while the ranks train: then the checkpoint at the start of a round and
    the one that is selected from are kept until the next round has one, and with that its schedule."""

    def selection_step(self, num_batches: int) -> int | None:
        """Step of a round of so many batches with whose checkpoint the next schedule is selected; None: at its end."""
        if not self.select_ahead:
            return None
        collects = self.embeddings_folder is not None
        return step_to_select_from(self.train.checkpoint_every_steps, num_batches, collects)

    @property
    def stop_file(self) -> Path:
        """See `stop_file`."""
        return stop_file(self.log_folder)


def stop_file(log_folder: Path) -> Path:
    """Whoever makes this file asks the ranks to save at the next step and stop."""
    return log_folder / "stop"


def train(job: TrainJob) -> None:
    """Train rounds up to `job.stop_round`, going on from the newest complete checkpoint, if there is one.

    Raises:
        ConfigError: the batch does not divide over the ranks.
        ArtifactError: a checkpoint, a schedule or the data is not what the job expects.
        JobError: the loss is not finite, or anything else failed; the log has it.
    """
    log_path = job.log_folder / f"rank-{os.environ.get('RANK', '0')}.log"
    with output_to(log_path):
        try:
            _train(job)
        except (ConfigError, ArtifactError, JobError) as error:
            logger.error("%s", error)
            raise
        except (
            Exception
        ) as error:  # the border of the process: the launcher sees only what this raises
            logger.exception("training failed")
            raise JobError(f"{type(error).__name__}: {error}; see {log_path}") from error


def _train(job: TrainJob) -> None:
    logger.info("importing torch and DeepSpeed")
    from trainer.engine import process_group

    logger.info("joining the other ranks")
    with process_group(job.train.use_gpu):
        _train_rounds(
            job
        )  # a function of its own, so that its engine is gone when the group is left


def _train_rounds(job: TrainJob) -> None:
    from trainer.session import Session

    with Session.open(job) as session:
        for round_number in range(session.position.round, job.stop_round):
            folder = schedule_folder(job.schedules_folder, round_number)
            has_come = wait_for_schedule(folder, job.stop_file)
            if session.stops_here(wanted=not has_come):
                logger.info("stopped before round %d, as %s asks", round_number, job.stop_file)
                return
            expected = {"batch_size": job.train.batch_size}
            session.train_round(open_schedule(folder, expected, hashes=False))
            if session.position.round == round_number:
                logger.info("stopped at %s, as %s asks", session.position, job.stop_file)
                return


def wait_for_schedule(folder: Path, stop: Path) -> bool:
    """Wait until the schedule in `folder` is complete, however long that takes: ranks end with their launcher.

    Returns:
        Whether it is; not, when `stop` was made first: whoever makes that file makes no schedule any more.
    """
    while not has_manifest(folder):
        if stop.exists():
            return False
        time.sleep(_POLL_S)
    return True


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what this process writes, from Python or from C, to the end of a file; give it back at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = [os.dup(1), os.dup(2)]
    with path.open("ab") as file, _logging_to(path):
        try:
            _redirect(file.fileno(), file.fileno())
            yield
        finally:
            _redirect(*saved)
            for descriptor in saved:
                os.close(descriptor)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ours = logging.getLogger("trainer")
    level = ours.level
    logging.getLogger().addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(level)
        logging.getLogger().removeHandler(handler)
        handler.close()


def _redirect(stdout: int, stderr: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def main() -> None:
    """Train the job in the file that the command line names."""
    train(TrainJob(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
