import os

import pytest

from launcher import cpus
from launcher.cpus import quota_cpus, usable_cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("-1\n 100000\n", None),
    ],
)
def test_quota(text, expected):
    assert quota_cpus(text) == expected


def test_a_container_that_may_use_one_cpu_at_a_time(tmp_path, monkeypatch):
    held = len(os.sched_getaffinity(0))
    monkeypatch.setattr(cpus, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cpus, "_OLD_QUOTA", (tmp_path / "quota", tmp_path / "period"))
    assert usable_cpus() == held
    (tmp_path / "quota").write_text("100000\n")
    (tmp_path / "period").write_text("100000\n")
    assert usable_cpus() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cpus() == held
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert usable_cpus() == 1
