import subprocess
import sys

import pytest

from launcher.shadows import check_working_folder
from selection.errors import ConfigError


def test_the_repository_itself_is_no_obstacle():
    check_working_folder()


@pytest.mark.parametrize("kind", ["file", "package", "folder"])
@pytest.mark.parametrize("name", ["trainer", "selection", "launcher"])
def test_modules_that_workers_would_take_for_ours(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    check_working_folder()
    if kind == "file":
        (tmp_path / f"{name}.py").touch()
    else:
        (tmp_path / name).mkdir()
    if kind == "package":
        (tmp_path / name / "__init__.py").touch()
    with pytest.raises(ConfigError, match=f"has '{name}', which Ray's workers would import"):
        check_working_folder()


def test_a_run_is_refused_before_it_begins(tmp_path):
    """As a console script is called, without the working folder on its path."""
    (tmp_path / "trainer.py").touch()
    (tmp_path / "run.yaml").write_text("run_dir: r\ndata: {train: a.tar, heldout: a.tar}\n")
    command = [sys.executable, "-P", "-m", "launcher.cli", "run", "run.yaml"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "has 'trainer', which Ray's workers" in found.stderr
    assert not (tmp_path / "r").exists()
