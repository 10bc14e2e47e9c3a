"""The smallest real run: pairs whose texts share rare words, so that a small encoder learns something in seconds."""

import subprocess
import sys
import time

import numpy as np
import webdataset as wds

from launcher.run_dir import read_lines

NUM_TRAIN, NUM_HELDOUT = 330, 60
BATCH_SIZE = 8
NUM_BATCHES = NUM_TRAIN // BATCH_SIZE
EPOCHS_PER_ROUND = 8  # a round of seconds, so that there is time to interrupt it
STEPS_PER_ROUND = EPOCHS_PER_ROUND * NUM_BATCHES
TOTAL_STEPS = 2 * STEPS_PER_ROUND
DEADLINE_S = 240
WORDS = [
    f"{a}{b}"
    for a in ("lo", "mi", "ra", "tu", "se", "ka")
    for b in ("bex", "dol", "fin", "gar", "hup")
]


def write_shards(folder, num_pairs, pairs_per_shard, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for shard, first in enumerate(range(0, num_pairs, pairs_per_shard)):
        with wds.TarWriter(str(folder / f"shard-{shard:06d}.tar"), mtime=0) as writer:
            for number in range(first, min(first + pairs_per_shard, num_pairs)):
                words = rng.choice(WORDS, 6)
                writer.write(
                    {
                        "__key__": f"{number:06d}",
                        "txt": " ".join(words[:4]),
                        "py": "return " + " + ".join(words[2:]),
                        "json": {"qualname": f"f{number}", "path": "m.py", "line": number},
                    }
                )


def wait_for(condition, process=None):
    """Wait until something is so while a process is at work; it must not end before."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process is None or process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def write_tiny_data(folder):
    write_shards(folder / "train", NUM_TRAIN, 70, seed=0)
    write_shards(folder / "heldout", NUM_HELDOUT, 60, seed=1)


def tiny_settings(tiny_data):
    """Overrides of the quickstart configuration that make it run in a minute."""
    return [
        f"data.train={tiny_data}/train/shard-*.tar",
        f"data.heldout={tiny_data}/heldout/shard-*.tar",
        "rounds=2",
        "encoder.width=32",
        "encoder.dim=16",
        "encoder.vocab_size=300",
        f"train.batch_size={BATCH_SIZE}",
        "train.log_every_steps=1",
        "train.checkpoint_every_steps=60",
        "train.optimizer.warmup_steps=5",
        "selection.graph.num_neighbors=6",
        "selection.hardness.cluster_size=8",
        "selection.hardness.margin=null",
        "selection.spectral.fan_out=4",
        f"selection.refresh.epochs_per_round={EPOCHS_PER_ROUND}",
        "selection.embed.num_workers=1",
    ]


def command(run_dir, overrides):
    program = [sys.executable, "-m", "launcher.cli", "run", "configs/quickstart.yaml"]
    return [*program, f"run_dir={run_dir}", *overrides]


def complete(run_dir, overrides):
    """Run to the end, and return what it printed."""
    result = subprocess.run(
        command(run_dir, overrides), capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def losses(run_dir):
    return {
        line["step"]: line["train/loss"] for line in read_lines(run_dir / "metrics" / "train.jsonl")
    }


def wait_for_step(run_dir, step, process):
    wait_for(lambda: max(losses(run_dir), default=0) >= step, process)


def coterie(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
