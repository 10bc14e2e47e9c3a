import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launcher.run_dir import read_lines
from selection.errors import JobError
from trainer.metrics import FILE, MetricsLog, Window, check_finite, peak_memory_gib


def write_steps(folder, start, steps):
    log = MetricsLog(folder, start)
    for step in steps:
        log.write(step, {"round": 0, "train/loss": step / 10})
    log.close()


def test_a_resumed_run_has_each_step_once(tmp_path):
    write_steps(tmp_path, 0, range(1, 8))
    write_steps(tmp_path, 4, range(5, 10))
    assert [line["step"] for line in read_lines(tmp_path / FILE)] == list(range(1, 10))


def test_a_torn_line_is_removed(tmp_path):
    write_steps(tmp_path, 0, [1, 2])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 3, "trai')
    assert [line["step"] for line in read_lines(tmp_path / FILE)] == [1, 2]
    write_steps(tmp_path, 2, [3])
    assert [line["step"] for line in read_lines(tmp_path / FILE)] == [1, 2, 3]


def test_a_new_run_starts_an_empty_file(tmp_path):
    write_steps(tmp_path, 0, [1, 2])
    write_steps(tmp_path, 0, [1])
    assert [line["step"] for line in read_lines(tmp_path / FILE)] == [1]


def test_lines_hold_all_metrics_and_the_time(tmp_path):
    write_steps(tmp_path, 0, [7])
    (line,) = (tmp_path / FILE).read_text().splitlines()
    found = json.loads(line)
    assert found.pop("time") > 1.7e9
    assert found == {"step": 7, "round": 0, "train/loss": 0.7}


def test_tensorboard_gets_the_scalars(tmp_path):
    write_steps(tmp_path, 0, [1, 2])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run(value):
    check_finite(3.0, "train/loss", 20, 20)
    with pytest.raises(JobError, match=r"train/loss is .* in steps 21 to 40, .*lr"):
        check_finite(value, "train/loss", 40, 20)
    with pytest.raises(JobError, match=r"train/grad_norm is .* in step 40, "):
        check_finite(value, "train/grad_norm", 40)


def test_a_window_adds_up():
    window = Window.open(torch.device("cpu"))
    for loss, norm in ((1.0, 0.5), (2.5, 0.25)):
        window.add(torch.tensor(loss, requires_grad=True), torch.tensor(norm))
    assert (window.loss_sum.item(), window.norm_sum.item(), window.num_steps) == (3.5, 0.75, 2)
    assert not window.loss_sum.requires_grad


def test_peak_memory_is_plausible():
    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 64
