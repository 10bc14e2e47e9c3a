"""A study with real trials: side by side over Ray, stopped in the middle, and gone on with."""

import json
import signal
import subprocess
import sys
from functools import partial

import psutil
import pytest
import yaml

from launcher.run_dir import read_lines
from tests.tiny_run import DEADLINE_S, TOTAL_STEPS, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def study_file(tmp_path, tiny_overrides):
    settings = dict(yaml.safe_load(text.replace("=", ": ", 1)).popitem() for text in tiny_overrides)
    study = {
        "study_dir": str(tmp_path / "study"),
        "base": "configs/quickstart.yaml",
        "arms": {
            "random": {"selection.strategy": "random"},
            "rcm": {"selection.strategy": "rcm", "selection.hardness.cluster_size": 4},
        },
        "split": "validation",
        "seeds": [0],
        "shares": [],
        "trials_at_once": 2,
        "settings": {
            **settings,
            "train.num_ranks": 1,
            "data.validation": settings["data.heldout"],
        },
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def processes_that_name(path):
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(path) in word for word in process.info["cmdline"] or [])
    ]


def test_trials_side_by_side_stopped_and_gone_on_with(study_file, tmp_path):
    command = [sys.executable, "-m", "launcher.cli", "study", "selectors", str(study_file)]
    folders = [
        tmp_path / "study" / "trials" / "steps" / arm / "seed-0" for arm in ("random", "rcm")
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: all(read_lines(f / "metrics" / "train.jsonl") for f in folders), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    wait_for(lambda: not processes_that_name(tmp_path / "study"))
    assert not any(read_lines(f / "metrics" / "rounds.jsonl")[1:] for f in folders)

    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "## Equal steps" in again.stdout
    for folder in folders:
        for line in read_lines(folder / "metrics" / "rounds.jsonl"):
            assert line["validation/u_to_v/mrr"] == line["u_to_v/mrr"]  # the same shards
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [(t["arm"], t["steps"][-1]) for t in results["trials"]] == [
        ("random", TOTAL_STEPS), ("rcm", TOTAL_STEPS),
    ]  # fmt: skip
    assert results["prices"]["refresh_s"]["rcm"] > results["prices"]["refresh_s"]["random"] == 0
