import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.config import load_config
from launcher.doctor import judging, probes
from launcher.network import HEAD_PORTS

GIB = 2**30


@pytest.mark.parametrize(
    ("finding", "level", "text"),
    [
        (judging.judge_compiler("/usr/bin/c++", "/usr/bin/ninja"), "ok", "c++"),
        (judging.judge_compiler(None, None), "ok", "no C++ compiler and no ninja; only needed"),
        (judging.judge_faiss({}), "problem", "pip install -e '.[cpu]'"),
        (judging.judge_faiss({"faiss-cpu": "1.15.1"}), "ok", "faiss-cpu 1.15.1"),
        (judging.judge_faiss({"faiss-cpu": "1", "faiss-gpu": "1"}), "problem", "overwrite"),
        (judging.judge_torch(None, None, None), "problem", "not installed"),
        (judging.judge_torch("2.13.0+cpu", None, None), "ok", "no GPU here"),
        (judging.judge_torch("2.13.0+cpu", None, "12.4"), "problem", "built for CPUs"),
        (judging.judge_torch("2.13.0", "13.0", "12.4"), "problem", "the driver serves 12.4"),
        (judging.judge_torch("2.13.0", "12.8", "12.4"), "ok", "CUDA 12.8"),
        (judging.judge_gpus([], wanted=["train.use_gpu"]), "warning", "train.use_gpu"),
        (judging.judge_gpus([], wanted=["selection.a"]), "warning", "asked for by selection.a;"),
        (judging.judge_gpus([], wanted=[]), "ok", "none"),
        (judging.judge_gpus(["H100", "H100"], wanted=["train.use_gpu"]), "ok", "2: H100"),
        (judging.judge_gpus([], wanted=[], error="no driver"), "problem", "fails: no driver;"),
        (judging.judge_shared_memory(GIB, 2 * GIB), "problem", "--shm-size"),
        (judging.judge_shared_memory(2 * GIB, GIB), "ok", "2.0 GiB free"),
        (judging.judge_ports(set(), 32768, True), "ok", "250 in a row"),
        (judging.judge_ports(set(range(32768)), 32768, True), "problem", "no 250 ports"),
        (judging.judge_ports(set(), 1024, True), "problem", "begins at 1024"),
        (judging.judge_ports(set(), 1024, False), "ok", "SLURM is not here"),
        (judging.judge_temp_dir("/tmp/ray"), "ok", "/tmp/ray"),
        (judging.judge_temp_dir("/" + "x" * 46), "ok", "/xx"),
        (judging.judge_temp_dir("/" + "x" * 47), "problem", "RAY_TMPDIR"),
        (judging.judge_open_files(1024, 1024), "warning", "4096"),
        (judging.judge_open_files(1024, 1048576), "ok", "1048576"),
        (judging.judge_slurm(["sbatch", "squeue", "sinfo"], None, ""), "ok", "not here"),
        (judging.judge_slurm(["sbatch"], "low", ""), "problem", "no sbatch"),
        (judging.judge_slurm([], None, "refused"), "warning", "(refused)"),
        (judging.judge_slurm([], "low\nhigh\n", ""), "ok", "low, high"),
        (judging.judge_ray_address(None, False), "ok", "none"),
        (judging.judge_ray_address("a:1", False), "problem", "unset RAY_ADDRESS"),
        (judging.judge_ray_address("a:1", True), "ok", "a:1"),
        (judging.judge_ray_address("ray://a:1", True), "problem", "host:6379"),
        (judging.judge_token("t", None, False), "ok", "none"),
        (judging.judge_token("t", None, True), "problem", "there is no t"),
        (judging.judge_token("t", 0o640, True), "problem", "chmod 600 t"),
        (judging.judge_token("t", 0o640, False), "warning", "chmod 600 t"),
        (judging.judge_token("t", 0o600, True), "ok", "t"),
        (judging.judge_threads("64", 2), "warning", "64"),
        (judging.judge_threads(None, 2), "ok", "not set"),
        (judging.judge_disk("/r", 20 * GIB, True), "ok", "20.0 GiB"),
        (judging.judge_disk("/r", GIB, True), "warning", "coterie plan"),
        (judging.judge_disk("/r", 20 * GIB, False), "problem", "cannot be written"),
        (judging.judge_clock(-60.0), "warning", "60.0 s"),
        (judging.judge_clock(0.0), "ok", "0.0 s"),
        (judging.judge_clock(None), "warning", "not compared"),
    ],
)
def test_what_facts_mean(finding, level, text):
    assert finding.level == level
    assert text in finding.text


def test_some_ports_in_use_are_passed_over():
    used = set(range(32768 - 20_000, 32768 - HEAD_PORTS - 500))
    assert judging.judge_ports(used, 32768, True).level == "ok"


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/tmp/ray"),
        ({"TMPDIR": "/scratch"}, "/scratch/ray"),
        ({"TMPDIR": "/scratch", "RAY_TMPDIR": "/local"}, "/local/ray"),
    ],
)
def test_the_temp_dir_is_rays(environ, path, monkeypatch):
    from ray._common.utils import get_default_ray_temp_dir

    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert probes._ray_temp_dir() == get_default_ray_temp_dir() == path


def command(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("value", [None, "", "ccache g++", "ccache"])
def test_a_compiler_may_be_several_words(value, tmp_path, monkeypatch):
    for name in ("ccache", "c++"):
        command(tmp_path, name, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if value is not None:
        monkeypatch.setenv("CXX", value)
    assert probes._compiler() == str(tmp_path / ("ccache" if value else "c++"))


def test_a_driver_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes._driver() == (None, [], "")
    command(tmp_path, "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert probes._driver() == (None, [], "NVIDIA-SMI has failed")
    command(tmp_path, "nvidia-smi", "[ $# = 0 ] && echo 'CUDA Version: 12.4' || echo H100")
    assert probes._driver() == ("12.4", ["H100"], "")


def test_gpus_that_are_not_for_ranks_are_asked_for_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = load_config(Path("configs/quickstart.yaml"), ["selection.embed.gpus_per_worker=1"])
    (found,) = (each for each in probes.examine(config) if each.name == "gpus")
    assert (found.level, "selection.embed.gpus_per_worker" in found.text) == ("warning", True)


def doctor(**environ):
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "doctor", "--config", "configs/quickstart.yaml"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - start < 10
    return result


def test_this_machine(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": "/t" * 40}
    result = doctor(**ray, RAY_ADDRESS="127.0.0.1:1")
    assert result.returncode == 1
    levels = {line[9:23].strip(): line.split()[0] for line in result.stdout.splitlines()}
    assert levels["compiler"] == levels["faiss"] == levels["disk"] == "ok"
    for name in ("ray token", "ray address", "temp dir"):
        assert levels[name] == "problem"
    assert "secret" not in result.stdout + result.stderr
    assert result.stderr.startswith("coterie: this machine is not ready: ")
    assert len(result.stderr.splitlines()) == 1
