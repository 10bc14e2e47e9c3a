import subprocess
import sys

import pytest

from launcher.config import load_config
from launcher.run_dir import RunDir, append_line, open_run, read_lines
from selection.errors import ConfigError


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"run_dir: {tmp_path}/run\ndata: {{train: t, heldout: h}}\n")
    return load_config(path)


@pytest.fixture
def run_dir(config):
    return RunDir(config.run_dir)


def test_claimed_by_one_configuration(config, run_dir):
    for _ in range(2):
        with run_dir.claimed(config):
            run_dir.keep(config)
    assert open_run(run_dir.root)[1] == config
    other = config.model_copy(update={"seed": 5})
    with (
        pytest.raises(ConfigError, match=r"run of another configuration \(seed: 0 -> 5\)"),
        run_dir.claimed(other),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(config, run_dir):
    run_dir.root.mkdir()
    (run_dir.root / "thesis.tex").write_text("dear reader")
    with pytest.raises(ConfigError, match="not empty and holds no"), run_dir.claimed(config):
        pass
    assert [path.name for path in run_dir.root.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made(config, run_dir):
    run_dir.root.write_text("a file")
    with pytest.raises(ConfigError, match="File exists; choose another"), run_dir.claimed(config):
        pass


def test_locked_against_another_process(config, run_dir):
    attempt = (
        "import sys; from pathlib import Path; from launcher.run_dir import RunDir, open_run\n"
        "run_dir, config = open_run(Path(sys.argv[1]))\n"
        "with run_dir.claimed(config): pass"
    )
    command = [sys.executable, "-c", attempt, str(run_dir.root)]
    run_dir.keep(config)
    with run_dir.claimed(config):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "in use by process" in result.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_lock_file_alone_does_not_make_a_folder_foreign(config, run_dir):
    run_dir.root.mkdir()
    (run_dir.root / ".lock").touch()
    with run_dir.claimed(config):
        run_dir.keep(config)
    assert run_dir.config.is_file()


def test_a_configuration_that_was_not_kept_leaves_the_folder_free(config, run_dir):
    with run_dir.claimed(config):
        run_dir.index("train").mkdir(parents=True)
        run_dir.new_attempt()
    with run_dir.claimed(config.model_copy(update={"seed": 5})):
        pass


def test_a_run_that_was_killed_while_its_encoder_was_prepared_goes_on(config, run_dir):
    run_dir.root.mkdir()
    for name in ("index", "encoder", ".encoder.7.tmp", ".owner.json.7.tmp"):
        (run_dir.root / name).mkdir()
    with run_dir.claimed(config):
        run_dir.keep(config)
    assert run_dir.config.is_file()


def test_attempts_are_numbered(run_dir):
    assert run_dir.new_attempt().name == "attempt-001"
    second = run_dir.new_attempt()
    assert second.name == "attempt-002"
    assert (run_dir.root / "logs" / "latest").resolve() == second.resolve()


def test_old_embeddings_are_forgotten(run_dir):
    for number in range(3):
        run_dir.embeddings("train", number).mkdir(parents=True)
    run_dir.embeddings("heldout", 1).mkdir()

    def left():
        return sorted(
            str(p.relative_to(run_dir.all_embeddings)) for p in run_dir.all_embeddings.rglob("*")
        )

    run_dir.forget_embeddings(2, "train")
    assert left() == ["round-00001", "round-00001/heldout", "round-00002", "round-00002/train"]
    run_dir.forget_embeddings(2, "heldout", "validation")
    assert left() == ["round-00002", "round-00002/train"]


def test_lines_survive_a_cut_off_end(tmp_path):
    path = tmp_path / "m" / "x.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2')
    assert [line["a"] for line in read_lines(path)] == [1]
    append_line(path, {"a": 3})
    assert [line["a"] for line in read_lines(path)] == [1, 3]


def test_open_run_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        open_run(tmp_path)
