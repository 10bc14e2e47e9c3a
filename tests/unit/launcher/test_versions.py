import json
import platform

import torch

from launcher.run_dir import VERSIONS, RunDir
from launcher.versions import versions


def test_what_decides_a_result_is_named_and_what_does_not_is_not():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert {"coterie", "numpy", "ray", "system", "machine"} <= found.keys()
    assert "ruff" not in found


def test_every_attempt_notes_them(tmp_path):
    attempt = RunDir(tmp_path).new_attempt()
    assert json.loads((attempt / VERSIONS).read_text()) == versions()
