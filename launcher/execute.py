"""`coterie run`: claim the run directory, connect Ray, do the rounds, leave a folder that explains itself."""

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.attempts import noting_end
from launcher.compare import comparison, summarize, to_text
from launcher.config import RunConfig
from launcher.console import say
from launcher.cpus import usable_cpus
from launcher.ownership import owning
from launcher.plan.data import check_parts
from launcher.run_dir import RunDir, read_lines
from launcher.shadows import check_working_folder
from selection.artifacts import atomic_file
from selection.shards import expand_shards
from trainer.claim import Claim

if TYPE_CHECKING:
    from launcher.run_state import Run

_README = """\
# {name}

A run of Coterie: {strategy} batches of {batch_size}, {num_rounds} rounds. To go on with it:

    cd {working_dir}
    coterie run {run_dir}/config.yaml

{table}

| path | what it is |
|---|---|
| `config.yaml` | the resolved configuration |
| `data.json` | hashes of what the shards held when it began |
| `index/` | where every pair lies in the tar shards |
| `encoder/` | what the encoder needs beside its weights: the tokenizer |
| `schedules/round-*/` | `batches.npy`, pair ids by batch; `manifest.json` says how they came about |
| `checkpoints/step-*/` | DeepSpeed's state, and `model.pt`, the weights alone |
| `embeddings/` | the newest U and V, a file per shard |
| `metrics/train.jsonl` | loss, temperature, speed by step; `tensorboard --logdir metrics` shows the same |
| `metrics/rounds.jsonl` | held-out retrieval by round |
| `metrics/stages.jsonl` | seconds of every stage of every attempt |
| `metrics/examples.jsonl` | batches to look at: ids and similarities |
| `logs/attempt-*/` | what was said; `versions.json`, what it ran on; `end.json`, how it ended |
"""


def execute(config: RunConfig) -> None:
    """Do, or finish, a run.

    Raises:
        ConfigError: the run directory is in use or another configuration's, or data and ranks do not fit.
        ArtifactError: a file of the run or a shard is damaged.
        JobError: a worker failed.
    """
    check_working_folder()
    shards = {
        split: expand_shards(pattern, f"data.{split}") for split, pattern in config.data.splits()
    }
    run_dir = RunDir(config.run_dir)
    if not run_dir.config.is_file():  # or else its pairs are numbered already
        check_parts(config, shards)
    with run_dir.claimed(config), owning(run_dir.owner) as claim:
        if len(read_lines(run_dir.results)) < config.rounds:
            _do_rounds(config, run_dir, shards, claim)
        else:
            say(f"{config.run_dir}: all {config.rounds} rounds were finished before")
    _explain(config, run_dir, to_text(comparison([summarize(config.run_dir)])))


def _do_rounds(
    config: RunConfig, run_dir: RunDir, shards: dict[str, list[Path]], claim: Claim
) -> None:
    # These take seconds, for which a mistake, or a run with nothing to do, should not have to wait.
    from launcher.placement import check_resources
    from launcher.preparing import keep_data, prepare
    from launcher.ray_cluster import ray_cluster
    from launcher.rounds import run_rounds
    from launcher.run_state import Run

    run = Run(config, run_dir, run_dir.new_attempt(), claim)
    logging.basicConfig(filename=run.logs / "driver.log", level=logging.INFO)
    with noting_end(run.logs), run.progress:
        prepare(run, shards, num_workers=usable_cpus())
        run_dir.keep(config)
        keep_data(run)
        _explain(config, run_dir, "Not finished yet; `coterie status` says how far it is.")
        say(_describe_start(run))
        with ray_cluster(config.ray, run.logs):
            check_resources(config)
            run_rounds(run)


def _explain(config: RunConfig, run_dir: RunDir, table: str) -> None:
    """Write the README of a run."""
    with atomic_file(run_dir.readme, "w") as file:
        file.write(
            _README.format(
                name=config.run_dir.name,
                strategy=config.selection.strategy,
                batch_size=config.train.batch_size,
                num_rounds=config.rounds,
                working_dir=shlex.quote(str(Path.cwd())),
                run_dir=shlex.quote(str(config.run_dir)),
                table=table,
            )
        )


def _describe_start(run: "Run") -> str:
    config = run.config
    text = (
        f"{config.run_dir}: {len(run.indexes['train']):,} pairs, {config.rounds} rounds, "
        f"{run.total_steps(run.num_schedules()):,} steps with {config.selection.strategy} batches of "
        f"{config.train.batch_size} on {config.train.num_ranks} ranks"
    )
    if checkpoint := run.newest_checkpoint():
        text += f"; going on from step {checkpoint.position.step:,}"
    return text
