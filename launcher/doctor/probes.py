"""Look at this machine; nothing heavy is imported, and only a temporary file is written."""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from launcher.config import RayConfig, RunConfig
from launcher.cpus import usable_cpus
from launcher.doctor import judging
from launcher.doctor.judging import Finding
from launcher.network import answers, first_ephemeral_port, is_plain, listening_ports
from launcher.versions import installed_version

_TIMEOUT_S = 3
_DRIVER_TIMEOUT_S = 30  # a driver that was unloaded comes back slowly, GPU by GPU
_FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
_SLURM = ("sbatch", "squeue", "sinfo")


def examine(config: RunConfig | None) -> list[Finding]:
    """All checks.

    Args:
        config: of the run that is meant; None checks for a small one in the working directory.
    """
    ray = config.ray if config else RayConfig()
    driver_cuda, gpus, driver_error = _driver()
    folder = _nearest_folder(config.run_dir if config else Path.cwd())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    address = ray.address or os.environ.get("RAY_ADDRESS")
    # ninja comes with the packages, whose commands need not be on the PATH
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return [
        judging.judge_compiler(_compiler(), shutil.which("ninja", path=path)),
        judging.judge_faiss({name: found for name in _FAISS if (found := installed_version(name))}),
        judging.judge_torch(installed_version("torch"), _torch_cuda(), driver_cuda),
        judging.judge_gpus(gpus, config.gpu_settings if config else [], driver_error),
        judging.judge_shared_memory(shutil.disk_usage("/dev/shm").free, ray.object_store_bytes),
        judging.judge_ports(
            listening_ports(), first_ephemeral_port(), has_slurm=any(map(shutil.which, _SLURM))
        ),
        judging.judge_temp_dir(_ray_temp_dir()),
        judging.judge_open_files(soft, hard),
        judging.judge_slurm(*_slurm()),
        judging.judge_ray_address(address, bool(address and (not is_plain(address) or answers(address)))),
        judging.judge_token(*_token()),
        judging.judge_threads(os.environ.get("OMP_NUM_THREADS"), usable_cpus()),
        judging.judge_disk(str(folder), shutil.disk_usage(folder).free, os.access(folder, os.W_OK)),
        judging.judge_clock(_clock_skew_s(folder)),
    ]  # fmt: skip


def _compiler() -> str | None:
    """The command of CXX, which may have words behind it or a cache in front: `ccache g++`."""
    words = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    return shutil.which(words[0])


def _ray_temp_dir() -> str:
    """As `ray._common.utils` chooses it, which takes seconds to import."""
    folder = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    return str(Path(folder) / "ray")


def _torch_cuda() -> str | None:
    """From torch's own note of how it was built; importing it takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    note = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda\b.*= '([\d.]+)'", note.read_text(), re.MULTILINE)
    return found[1] if found else None


def _driver() -> tuple[str | None, list[str], str]:
    """The newest CUDA that the driver serves, the names of the GPUs, and why a driver that is here does not say."""
    if not shutil.which("nvidia-smi"):
        return None, [], ""
    said, error = _output("nvidia-smi", timeout_s=_DRIVER_TIMEOUT_S)
    if said is None:
        return None, [], error or "no reason given"
    found = re.search(r"CUDA Version: ([\d.]+)", said)
    query = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    names, error = _output(*query, timeout_s=_DRIVER_TIMEOUT_S)
    if names is None:
        return None, [], error or "no reason given"
    return (found[1] if found else None), names.splitlines(), ""


def _slurm() -> tuple[list[str], str | None, str]:
    missing = [name for name in _SLURM if not shutil.which(name)]
    answer, error = _output("sinfo", "--noheader", "--format=%R")
    return missing, answer, error


def _token() -> tuple[str, int | None, bool]:
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default))
    is_wanted = os.environ.get("RAY_AUTH_MODE") == "token" and "RAY_AUTH_TOKEN" not in os.environ
    permissions = path.stat().st_mode & 0o777 if path.is_file() else None
    return str(path), permissions, is_wanted


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())


def _clock_skew_s(folder: Path) -> float | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            return Path(file.name).stat().st_mtime - time.time()
    except OSError:
        return None


def _output(*command: str, timeout_s: float = _TIMEOUT_S) -> tuple[str | None, str]:
    """What a command printed, None where it is not there, fails or hangs; and its message."""
    if not shutil.which(command[0]):
        return None, "not found"
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {timeout_s:g} s"
    # nvidia-smi says on stdout why it fails
    said = result.stderr or (result.stdout if result.returncode else "")
    return (None if result.returncode else result.stdout), " ".join(said.split())
