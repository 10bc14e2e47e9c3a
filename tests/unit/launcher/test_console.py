import json
import time

import numpy as np
import pytest

from launcher.cli import main
from launcher.console import describe_schedule, describe_step, following
from selection.config import SelectionConfig
from selection.schedule import open_schedule
from selection.select import make_random_schedule, make_schedule
from tests.conftest import planted_pairs

NOTHING = np.empty(0, np.int64)

LINE = {
    "round": 1,
    "step": 20,
    "total_steps": 100,
    "train/loss": 1.25,
    "train/temperature": 0.07,
    "train/lr": 1e-3,
    "perf/samples_per_s": 1234.5,
    "perf/data_wait_s": 0.01,
}


def test_following_sees_new_lines_only_and_none_twice(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"n": 0}\n')
    seen = []
    with following(path, lambda line: seen.append(line["n"])), path.open("a") as file:
        for number in range(1, 6):
            file.write(json.dumps({"n": number})[:4])
            file.flush()
            time.sleep(0.06)  # the follower meets half a line
            file.write(json.dumps({"n": number})[4:] + "\n")
            file.flush()
    assert seen == [1, 2, 3, 4, 5]


def test_following_a_file_that_is_cut_goes_on(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"n": 0}\n{"n": 1}\n')
    seen = []
    with following(path, lambda line: seen.append(line["n"])):
        path.write_text('{"n": 0}\n')
        time.sleep(0.5)
        with path.open("a") as file:
            file.write('{"n": 7}\n')
    assert seen == [7]


def test_a_step_is_one_line():
    text = describe_step(LINE)
    assert "\n" not in text
    assert "20/100" in text
    assert "loss 1.2500" in text
    assert "1,234 pairs/s" in text


def test_a_random_schedule_is_one_line(tmp_path):
    manifest = make_random_schedule(tmp_path / "s", 2050, 2, (0, 0), NOTHING, {}).manifest
    text = describe_schedule("round 0", manifest)
    assert text == "round 0  1,025 batches of 2, 0 left over, by random"


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The manifest of a schedule that was chosen, with a round before it, and an eigengap."""
    folder = tmp_path_factory.mktemp("schedules")
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=16, dim=16)
    config = SelectionConfig()
    first = make_schedule(folder / "1", (U, V), 9, 0.1, config, (0, 1), NOTHING, {})
    second = make_schedule(
        folder / "2", (U, V), 9, 0.1, config, (0, 2), first.leftover, {"eigengap": 0.25},
        previous_batches=first.batches,
    )  # fmt: skip
    return second.manifest


def test_a_chosen_schedule_is_two_lines_and_its_alarms(chosen):
    head, signals, *warnings = describe_schedule("round 2", chosen).splitlines()
    assert head.startswith("round 2  35 batches of 9, 5 left over, by spectral; batch loss ")
    assert f"random {chosen['random_batch_loss']:.3f} (" in head
    assert "partition " in head
    assert signals.startswith(
        f"round 2  affinity captured {chosen['captured_affinity']:.1%} (random 2.5%)"
    )
    for text in ("neighbour recall 1.000", "isolated 0, components ", "eigengap 0.250"):
        assert text in signals
    assert f"batch changed for {chosen['changed_pairs']:.1%} of the pairs" in signals
    assert warnings == [f"warning: {alarm}" for alarm in chosen["alarms"]]


def test_alarms_are_warnings(chosen):
    text = describe_schedule(
        "round 2", {**chosen, "alarms": ["too hot; open a window", "too dark"]}
    )
    assert text.splitlines()[2:] == ["warning: too hot; open a window", "warning: too dark"]


@pytest.mark.parametrize("strategy", ["random", "kmeans", "spectral"])
def test_select_describes_what_it_wrote(tmp_path, capsys, strategy):
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=10, dim=16)
    np.save(tmp_path / "U.npy", U)
    np.save(tmp_path / "V.npy", V)
    files, out = [str(tmp_path / "U.npy"), str(tmp_path / "V.npy")], tmp_path / "s"
    assert (
        main(["select", *files, "--batch-size", "9", "--out", str(out), "--strategy", strategy])
        == 0
    )
    text = capsys.readouterr().out.strip()
    assert text == describe_schedule(f"{out}:", open_schedule(out).manifest)
    assert f"22 batches of 9, 2 left over, by {strategy}; batch loss" in text
    assert ("affinity captured" in text) == (strategy == "spectral")
