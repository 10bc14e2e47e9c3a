"""`coterie select`: batches for anybody's embeddings and any trainer, from two files on this machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32

from launcher.config import apply_overrides, validate
from launcher.run_dir import make_folder
from selection.api import choose_after, this_round
from selection.artifacts import hash_file
from selection.checks import check_batch_size, check_pairs, unit_rows
from selection.config import SelectionConfig
from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from selection.schedule import Schedule, check_place, open_schedule, write_schedule


@dataclass(frozen=True)
class SelectRequest:
    """What the command line asks for."""

    u_file: Path
    v_file: Path | None
    out: Path
    batch_size: int
    strategy: str
    temperature: float
    seed: int
    previous: Path | None
    settings: Sequence[str]


def select_files(request: SelectRequest, progress: Progress) -> Schedule:
    """Choose batches for two embedding files and write the schedule; its manifest says from what.

    Raises:
        ConfigError: a setting is wrong, the files do not belong together, `previous` schedules other pairs, or `out`
            holds something else.
        ArtifactError: a file is no array of embeddings on the unit sphere.
    """
    values: dict[str, Any] = {"strategy": request.strategy, "temperature": request.temperature}
    apply_overrides(values, [name.removeprefix("selection.") for name in request.settings])
    config = validate(SelectionConfig, values, source="select")
    check_batch_size(request.batch_size, config, "--batch-size")
    _check_out(request.out)
    U = read_embeddings(request.u_file)
    V = U if request.v_file is None else read_embeddings(request.v_file)
    check_pairs(U, V, str(request.u_file), str(request.v_file))
    previous = None if request.previous is None else open_schedule(request.previous)
    seed = request.seed, this_round(previous)
    chosen = choose_after(previous, (U, V), request.batch_size, config, seed, progress)
    files = {"U": request.u_file, **({"V": request.v_file} if request.v_file else {})}
    inputs = {
        "embeddings": {side: str(path) for side, path in files.items()},
        "embeddings_hash": {side: hash_file(path) for side, path in files.items()},
        "config": config.model_dump(mode="json"),
    }
    return write_schedule(request.out, chosen.batches, chosen.leftover, {**chosen.fields, **inputs})


def _check_out(folder: Path) -> None:
    """Only a schedule is replaced by another one, and the folder around it can be written to."""
    make_folder(folder.parent, "--out")
    if not os.access(folder.parent, os.W_OK):
        raise ConfigError(f"--out: {folder.parent} cannot be written to; choose another folder")
    check_place(folder, "--out")


def read_embeddings(path: Path) -> Float32[np.ndarray, "n d"]:
    """The rows of a `.npy` file as float32; a float32 file is mapped into memory, another one is copied.

    Raises:
        ArtifactError: it is absent, of another kind, or a row is not on the unit sphere.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; give a .npy file of embeddings") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{path}: not a .npy file ({error}); save it with numpy.save") from None
    try:
        return unit_rows(array, str(path))
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
