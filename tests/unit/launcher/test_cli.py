import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.cli import main

MAX_HELP_S = 1.0


def test_help_is_instant():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "launcher.cli", "--help"], check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < MAX_HELP_S


@pytest.mark.parametrize(
    "module",
    [
        "launcher.cli",
        "launcher.config",
        "launcher.studies.trials.config",
        "trainer.config",
        "selection.config",
    ],
)
def test_light_modules_stay_light(module):
    heavy = "torch", "ray", "faiss", "deepspeed", "numba", "scipy"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "configs/absent.yaml"], "configs/absent.yaml: no such file"),
        (["run", "configs/quickstart.yaml", "train.batch_sise=2"], "did you mean 'batch_size'"),
        (
            ["run", "configs/quickstart.yaml", "run_dir={tmp}/r", "data.train={tmp}/none-*.tar"],
            "data.train",
        ),
        (["compare", "{tmp}"], "holds no config.yaml"),
        (["status", "configs/quickstart.yaml"], "is a file; give the folder of a run"),
        (["cancel", "configs/quickstart.yaml"], "is a file; give the folder of a run"),
        (["search", "{tmp}", "query"], "holds no config.yaml"),
        (["index", "{tmp}/*.tar", "{tmp}/index"], "{tmp}"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(arguments) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("coterie: ")
    assert message.format(tmp=tmp_path) in text
    assert "\n" not in text


def test_a_wrong_run_leaves_no_folder_behind(tmp_path):
    arguments = [
        "run",
        "configs/quickstart.yaml",
        f"run_dir={tmp_path}/r",
        f"data.train={tmp_path}/no.tar",
    ]
    assert main(arguments) == 2
    assert list(tmp_path.iterdir()) == []


def test_no_command_is_wrong_input():
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"coterie \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_place_where_nothing_can_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "d")
    assert main(["dataset", "image-text", folder, "--pairs", "40", "--classes", "4"]) == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith(f"coterie: {tmp_path}/file")
    assert text.endswith(": Not a directory; choose another place")


def test_a_disk_that_is_full(monkeypatch, capsys):
    def fill(args):
        with Path("/dev/full").open("w") as file:
            file.write("x")

    monkeypatch.setattr("launcher.commands.index._index", fill)
    assert main(["index", "a.tar", "out"]) == 1
    text = capsys.readouterr().err.strip()
    assert text == (
        "coterie: No space left on device; make room, and the same command goes on from there"
    )
