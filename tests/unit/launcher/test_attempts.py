import json

import pytest

from launcher.attempts import find_error, last_error, noting_end, read_attempts, read_end
from launcher.run_dir import RunDir
from launcher.stopping import Stopped
from selection.errors import JobError


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "outcome", "text"),
    [
        (None, "finished", None),
        (Stopped(), "stopped", None),
        (KeyboardInterrupt(), "stopped", None),
        (JobError("rank 1 is lost; see its log"), "failed", "rank 1 is lost; see its log"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_every_end_is_noted_and_passed_on(run_dir, error, outcome, text):
    folder = run_dir.new_attempt()
    assert read_attempts(run_dir)[0].outcome is None
    if error is None:
        with noting_end(folder):
            pass
    else:
        with pytest.raises(type(error)), noting_end(folder):
            raise error
    (attempt,) = read_attempts(run_dir)
    assert (attempt.number, attempt.outcome, attempt.error) == (1, outcome, text)


LOG = """\
2026-11-26 11:52:59,440 INFO trainer.session: training
2026-11-26 11:53:00,001 ERROR trainer.worker: training failed
Traceback (most recent call last):
  File "a.py", line 1, in f
torch.cuda.OutOfMemoryError: CUDA out of memory
some words of C
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("Errors are none\nno ERROR here\n", None),
        ("INFO faiss.loader: no AVX2:\nModuleNotFoundError(\"No module named 'x'\")\n", None),
        ("AssertionError\n", "AssertionError"),
        (LOG, "torch.cuda.OutOfMemoryError: CUDA out of memory"),
        (LOG[: LOG.index("Traceback")], "training failed"),
        ("coterie: n1: slurm.setup: failed\nslurmstepd: end\n", "n1: slurm.setup: failed"),
        ("coterie: stopped on request; the same command\n", None),
        (LOG + "x" * 200_000 + "\n", None),  # too far from the end
    ],
)
def test_the_last_line_that_says_what_went_wrong(tmp_path, text, found):
    path = tmp_path / "rank-0.log"
    path.write_text(text)
    assert find_error([path]) == found


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"one\ntwo\nthree\n", b"three\n"),
        (b"10%|x| \r20%|x| \r30%|x| ", b"30%|x| "),
        (b"x\r\n1234567\r\nab", b"ab"),
        (b"a line that is longer than the window", b"he window"),
        (b"short\n", b"short\n"),
    ],
)
def test_the_end_of_a_file_begins_with_a_line_or_bar_where_one_begins(tmp_path, data, end):
    path = tmp_path / "rank-0.log"
    path.write_bytes(data)
    assert read_end(path, 9) == (end, len(data))


def test_the_newest_error_counts_and_a_stop_is_none(run_dir):
    for outcome, error in [("failed", "first"), (None, None), ("stopped", None)]:
        folder = run_dir.new_attempt()
        (folder / "rank-0.log").write_text(LOG)
        if outcome:
            (folder / "end.json").write_text(json.dumps({"outcome": outcome, "error": error}))
    attempts = read_attempts(run_dir)
    assert last_error(attempts) == (2, "torch.cuda.OutOfMemoryError: CUDA out of memory")
    assert last_error(attempts[:1]) == (1, "first")
    assert last_error(attempts[2:]) is None
