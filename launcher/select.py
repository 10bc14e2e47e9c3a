"""`coterie select`: batches for anybody's embeddings and any trainer, from two files on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from launcher.config import apply_override, validate
from selection.artifacts import MANIFEST
from selection.config import SelectionConfig
from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from selection.schedule import Schedule
from selection.select import make_schedule

NORM_TOLERANCE = 1e-2  # float16 costs a tenth of it


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
    settings: Sequence[str]


def select_files(request: SelectRequest, progress: Progress) -> Schedule:
    """Choose batches for two embedding files and write the schedule.

    Raises:
        ConfigError: a setting is wrong, the files do not belong together, or `out` holds something else.
        ArtifactError: a file is no array of embeddings on the unit sphere.
    """
    values: dict[str, Any] = {"strategy": request.strategy, "temperature": request.temperature}
    for setting in request.settings:
        apply_override(values, setting)
    config = validate(SelectionConfig, values, source="select")
    config.hardness.check_batch_size(request.batch_size, "--batch-size")
    if request.out.exists() and not (request.out / MANIFEST).is_file():
        raise ConfigError(f"--out: {request.out} exists and is no schedule; choose another folder")
    U = read_embeddings(request.u_file)
    V = U if request.v_file is None else read_embeddings(request.v_file)
    if U.shape != V.shape:
        raise ConfigError(
            f"{request.v_file}: has shape {V.shape}, but {request.u_file} has {U.shape}; "
            "row i of both must be pair i"
        )
    return make_schedule(
        request.out,
        (U, V),
        request.batch_size,
        config.temperature or request.temperature,
        config,
        (request.seed, 0),
        np.empty(0, np.int64),
        fields={},
        progress=progress,
    )


def read_embeddings(path: Path) -> Float32[np.ndarray, "n d"]:
    """The rows of a `.npy` file of float16 or float32, as float32.

    Raises:
        ArtifactError: it is absent, of another kind, or a row is not on the unit sphere.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; give a .npy file of embeddings") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a .npy file ({error}); save it with numpy.save") from None
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        raise ArtifactError(
            f"{path}: holds {array.dtype} of shape {array.shape}, expected float16 or float32 "
            "of shape (pairs, dimensions)"
        )
    rows = np.ascontiguousarray(array, np.float32)
    _check_unit_rows(path, rows)
    return rows


def _check_unit_rows(path: Path, rows: Float[np.ndarray, "n d"]) -> None:
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    off = ~(np.abs(norms - 1) <= NORM_TOLERANCE)  # also true for NaN
    if off.any():
        first = int(off.argmax())
        raise ArtifactError(
            f"{path}: row {first} has norm {norms[first]:g}, expected 1, as have {int(off.sum()):,} of "
            f"{len(rows):,} rows; divide each row by its norm, and leave out rows that are zero or NaN"
        )
