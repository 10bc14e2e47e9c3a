"""What a user may give: embeddings that are arrays of unit rows, a batch size that the settings allow.

The inner modules trust their arguments. Every mistake is found here, before anything heavy starts, and is one line that
says how to go on.

Memory: a C-contiguous float32 array is used as it is, also when it is mapped from a file. Anything else (float16,
float64, a slice with steps) is copied to float32, 4 N d bytes, because the search and the compiled kernels need that.
Where some pairs are left over or drawn, the rows of the others are copied, for the same reason.

Legend: n pairs, d dimensions.
"""

import math
import operator

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import ArrayLike

from selection.config import SelectionConfig
from selection.errors import ConfigError

NORM_TOLERANCE = 1e-2
"""How far from 1 the norm of a row may be; rounding to float16 costs a tenth of it."""

_UNREADABLE = (TypeError, ValueError, RuntimeError)
"""What ragged lists raise, and tensors that are on a GPU, need gradients or are bfloat16."""


def unit_rows(embeddings: ArrayLike, name: str) -> Float32[np.ndarray, "n d"]:
    """`embeddings` as selection needs them: float32 in C order, each row on the unit sphere.

    Args:
        embeddings: whatever numpy can read as an array of floating point numbers.
        name: how their user calls them, for an error.

    Raises:
        ConfigError: they are of another kind or shape, or a row does not have norm 1.
    """
    try:
        array = np.asarray(embeddings)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name}: cannot be read as a numpy array: {reason}") from None
    if array.ndim != 2 or not len(array) or array.dtype.kind != "f":
        raise ConfigError(
            f"{name}: holds {array.dtype} of shape {array.shape}, expected floating point of shape "
            "(pairs, dimensions) with at least one pair"
        )
    with np.errstate(over="ignore"):  # too large for float32: infinite, and refused below
        rows = np.ascontiguousarray(array, np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    usable = (norms > 0) & np.isfinite(norms)
    _demand(usable, norms, f"{name}: row {{}} is zero or not finite", "leave such pairs out")
    _demand(
        np.abs(norms - 1) <= NORM_TOLERANCE,
        norms,
        f"{name}: row {{}} is not on the unit sphere",
        "divide each row by its norm: X / numpy.linalg.norm(X, axis=1, keepdims=True)",
    )
    return rows


def check_pairs(U: np.ndarray, V: np.ndarray, u_name: str = "U", v_name: str = "V") -> None:
    """Refuse embeddings that do not belong together.

    Raises:
        ConfigError: their shapes differ; the names are how their user calls them.
    """
    if U.shape != V.shape:
        raise ConfigError(
            f"{v_name}: has shape {V.shape}, but {u_name} has {U.shape}; row i of both must be pair i"
        )


def check_batch_size(batch_size: int, config: SelectionConfig, field: str = "batch_size") -> int:
    """A batch size that the settings allow; `field` is how its user calls it.

    Raises:
        ConfigError: it is below 2, or no whole number of clusters.
    """
    batch_size = whole_number(batch_size, field, least=2)
    config.hardness.check_batch_size(batch_size, field)
    return batch_size


def whole_number(value: int, field: str, least: int = 0) -> int:
    """`value` as a Python integer; numpy's are welcome, 64.0 is not.

    Raises:
        ConfigError: it is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{field}: is {value!r}, but must be a whole number, at least {least}")
    return number


def positive_number(value: float, field: str) -> float:
    """`value` as a Python float.

    Raises:
        ConfigError: it is no number, or not above 0.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(f"{field}: is {value!r}, but must be a number above 0")
    return number


def _demand(fine: Bool[np.ndarray, "n"], norms: np.ndarray, what: str, advice: str) -> None:
    """Complain about the rows that are not `fine`, if there are any; `what` has a place for the first."""
    if not fine.all():
        row, count = int(fine.argmin()), int((~fine).sum())
        others = f", one of {count:,} such rows among {len(fine):,}" if count > 1 else ""
        raise ConfigError(f"{what.format(row)} (norm {norms[row]:g}){others}; {advice}")
