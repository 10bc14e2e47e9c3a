import json
import time

from launcher.console import describe_step, following

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
