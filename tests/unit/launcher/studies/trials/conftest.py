import json

import pytest
import yaml

from launcher.studies.trials.config import load_study
from selection.artifacts import write_json

NUM_PAIRS, BATCH_SIZE = 640, 64
STEPS_PER_EPOCH = NUM_PAIRS // BATCH_SIZE


@pytest.fixture
def make_study(tmp_path):
    """A study of the smallest base; keyword arguments are fields of it."""

    def make(**fields):
        base = {
            "run_dir": "unused",
            "rounds": 3,
            "data": {"train": "t", "heldout": "h", "validation": "v"},
        }
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        study = {
            "study_dir": str(tmp_path / "study"),
            "base": str(tmp_path / "base.yaml"),
            "arms": {
                "random": {"selection.strategy": "random"},
                "spectral": {"selection.strategy": "spectral"},
            },
            "seeds": [0, 1],
            **fields,
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        return load_study(tmp_path / "study.yaml")

    return make


def write_run(config, scores, step_s=0.1, start_s=5.0, selection_s=2.0, steps_per_round=None):
    """What a finished run of `config` leaves behind, as far as a study reads it."""
    from launcher.config import save_config

    root, per_round = config.run_dir, steps_per_round or STEPS_PER_EPOCH
    (root / "metrics").mkdir(parents=True)
    save_config(config, root / "config.yaml")
    stages, lines, rounds, now, step = [], [], [], 1000.0, 0

    def stage(name, number, seconds):
        nonlocal now
        now += seconds
        stages.append({"stage": name, "round": number, "seconds": seconds, "time": now})

    for number in range(config.rounds):
        is_last = number == config.rounds - 1
        taken = config.train.num_steps - step if is_last else per_round
        step += taken
        if number and config.selection.strategy != "random":
            stage("embed", number, selection_s / 2)
            stage("select", number, selection_s / 2)
        stage("train", number, start_s + taken * step_s)
        speed = config.train.batch_size / step_s
        lines.append(
            {"step": step, "round": number, "perf/samples_per_s": speed, "time": now - 0.5}
        )
        stage("judge", number, 1.0)
        score = scores[min(number, len(scores) - 1)]
        rounds.append(
            {
                "round": number,
                "step": step,
                "time": now,
                "u_to_v/mrr": score,
                "validation/u_to_v/mrr": score / 2,
                "corrupted/u_to_v/recall_at_1": score / 4,
            }
        )
    for name, rows in (("stages", stages), ("train", lines), ("rounds", rounds)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "metrics" / f"{name}.jsonl").write_text(text)
    return root


__all__ = ["BATCH_SIZE", "NUM_PAIRS", "STEPS_PER_EPOCH", "make_study", "write_json", "write_run"]
