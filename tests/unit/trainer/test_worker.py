import json
import logging
import os
import threading

import numpy as np
import pytest

from selection.errors import ArtifactError, JobError
from selection.schedule import write_schedule
from trainer import worker
from trainer.worker import TrainJob, output_to, train, wait_for_schedule


@pytest.fixture
def job(tmp_path):
    folders = {
        f"{name}_folder": tmp_path / name
        for name in ("index", "encoder", "schedules", "checkpoints", "metrics", "log")
    }
    return TrainJob(
        encoder={"name": "text_transformer"},
        train={},
        seed=0,
        config_hash="mine",
        first_round=0,
        stop_round=2,
        length={"num_rounds": 2, "epochs_per_round": 1, "first_batches": 5, "later_batches": 5},
        **folders,
    )


def test_a_job_travels_as_json(job):
    text = job.model_dump_json()
    assert TrainJob(**json.loads(text)) == job


def test_waiting_ends_when_the_schedule_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_POLL_S", 0.01)
    fields = {"seed": 0, "round": 0, "strategy": "random"}
    ids = np.arange(4).reshape(2, 2)
    timer = threading.Timer(0.1, write_schedule, (tmp_path / "r", ids, ids[:0, 0], fields))
    timer.start()
    assert wait_for_schedule(tmp_path / "r", stop=tmp_path / "stop")
    timer.join()
    assert (tmp_path / "r" / "manifest.json").is_file()


def test_waiting_ends_when_it_is_asked_to(tmp_path):
    (tmp_path / "stop").touch()
    assert not wait_for_schedule(tmp_path / "r", stop=tmp_path / "stop")


def test_all_output_goes_to_the_log_and_comes_back(tmp_path, capfd):
    path = tmp_path / "logs" / "rank-0.log"
    with output_to(path):
        os.write(1, b"from C, stdout\n")
        os.write(2, b"from C, stderr\n")
        logging.getLogger("trainer.test").info("from %s", "logging")
    os.write(1, b"afterwards\n")
    text = path.read_text()
    assert all(part in text for part in ("from C, stdout", "from C, stderr", "from logging"))
    assert capfd.readouterr() == ("afterwards\n", "")
    with output_to(path):
        os.write(1, b"a second attempt\n")
    assert path.read_text().startswith(text)


def test_a_users_mistake_is_passed_on_and_logged(job, monkeypatch):
    def fail(job):
        raise ArtifactError("index: found nothing")

    monkeypatch.setattr(worker, "_train", fail)
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(ArtifactError, match="index: found nothing"):
        train(job)
    assert "index: found nothing" in (job.log_folder / "rank-5.log").read_text()


def test_anything_else_names_the_log_that_has_the_traceback(job, monkeypatch):
    monkeypatch.setattr(worker, "_train", lambda job: 1 // 0)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(JobError, match=r"ZeroDivisionError.*rank-0\.log"):
        train(job)
    assert "Traceback" in (job.log_folder / "rank-0.log").read_text()
