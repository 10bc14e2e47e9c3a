"""Run directories with known numbers, written by hand as a run would write them."""

import json
from pathlib import Path

import numpy as np
import webdataset as wds

from launcher.config import load_config
from launcher.run_dir import RunDir
from selection.artifacts import write_json
from selection.schedule import schedule_folder, write_schedule
from selection.shards import build_index, expand_shards

HOSTILE = "<script>alert('pair')</script>"
NUM_PAIRS, BATCH_SIZE = 32, 8
START = 1_700_000_000.0
STAGES_S = {"embed": 2.0, "select": 3.0, "train": 10.0, "judge": 4.0}
GAP_S = 1.0  # between two stages
CHOSEN = {
    "batch_loss": 3.0,
    "random_batch_loss": 2.0,
    "captured_affinity": 0.25,
    "random_captured_affinity": 0.05,
    "eigengap": 0.01,
    "eigenvalues": [1.0, 0.9, 0.5],
    "staleness_steps": 0,
    "seconds": {"neighbors_s": 0.5, "partition_s": 1.5},
}
EXAMPLE = {
    "kind": "hardest",
    "batch": 1,
    "loss": 3.5,
    "confusions": [{"ids": [0, 9], "own": [0.5, 0.4], "across": [0.6, 0.3]}],
}


def write_data(folder: Path, text: str = HOSTILE) -> Path:
    """Shards of which pair 0 reads `text`; their pattern."""
    folder.mkdir(parents=True)
    with wds.TarWriter(str(folder / "shard-000000.tar"), mtime=0) as writer:
        for number in range(NUM_PAIRS):
            query = text if number == 0 else f"query {number}"
            writer.write({"__key__": f"{number:03d}", "txt": query, "py": f"return {number}"})
    return folder / "shard-*.tar"


def write_run(
    root: Path,
    data: Path,
    strategy: str = "spectral",
    num_finished: int = 2,
    alarms: tuple[str, ...] = (),
    chosen: dict | None = None,
    **overrides: object,
) -> Path:
    """A run of two rounds, of which `num_finished` are finished, and of the next one half a training."""
    config_file = root.parent / f"{root.name}.yaml"
    config_file.parent.mkdir(parents=True, exist_ok=True)
    config_file.write_text(
        json.dumps(
            {"run_dir": str(root), "rounds": 2, "data": {"train": str(data), "heldout": "h"}}
        )
    )
    settings = {"train.batch_size": BATCH_SIZE, "selection.strategy": strategy, **overrides}
    config = load_config(config_file, [f"{key}={value}" for key, value in settings.items()])
    run_dir = RunDir(root)
    run_dir.keep(config)
    build_index(expand_shards(str(data)), run_dir.index("train"))
    write_json(run_dir.new_attempt() / "versions.json", {"python": "3.11.7", "torch": "2.13.0"})
    is_chosen = strategy != "random"
    clock = START
    for number in range(min(2, num_finished + 1)):
        fields = {
            "seed": 0, "round": number, "strategy": "random", "seconds": {}, "staleness_steps": None,
        }  # fmt: skip
        if number and is_chosen:
            fields |= {**(chosen or CHOSEN), "strategy": strategy, "alarms": list(alarms)}
        ids = np.random.default_rng(number).permutation(NUM_PAIRS).reshape(-1, BATCH_SIZE)
        write_schedule(schedule_folder(run_dir.schedules, number), ids, np.empty(0, int), fields)
        if number and is_chosen:
            _append(run_dir.examples, {"round": number, "batches": [EXAMPLE], "time": clock})
        clock = _write_round(
            run_dir, number, clock, number < num_finished, bool(number and is_chosen)
        )
    return root


def _write_round(
    run_dir: RunDir, number: int, clock: float, is_finished: bool, is_chosen: bool
) -> float:
    """Stages and metrics of a round that begins at `clock`; when it ended."""
    for stage, seconds in STAGES_S.items():
        if stage in ("embed", "select") and not is_chosen:
            continue
        if stage == "train":
            for step in range(1, 5 if is_finished else 3):
                line = {
                    "step": 4 * number + step,
                    "round": number,
                    "train/loss": 4.0 - step / 2 - number,
                }
                _append(run_dir.training, {**line, "time": clock + 2 * step})
            if not is_finished:
                break
        clock += seconds
        _append(
            run_dir.stages, {"stage": stage, "round": number, "seconds": seconds, "time": clock}
        )
        clock += GAP_S
    if is_finished:
        values = {
            f"{direction}/{metric}": 0.25 * (number + 1)
            for direction in ("u_to_v", "v_to_u")
            for metric in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")
        }
        _append(
            run_dir.results, {"round": number, "step": 4 * (number + 1), **values, "time": clock}
        )
    return clock


def _append(path: Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
