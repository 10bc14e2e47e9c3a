"""Batches for anybody's embeddings and any trainer: `select_batches`, the one call that is needed.

The same as `coterie select`, without files: same embeddings and settings, same batches.
"""

from typing import Any, get_args

from numpy.typing import ArrayLike

from selection.checks import (
    check_batch_size,
    check_pairs,
    positive_number,
    unit_rows,
    whole_number,
)
from selection.choose import Selection
from selection.config import SelectionConfig, StrategyName
from selection.errors import ConfigError
from selection.progress import Progress, silent
from selection.schedule import Schedule
from selection.select import Embeddings, choose

DEFAULT_TEMPERATURE = 0.07


def select_batches(
    U: ArrayLike,
    V: ArrayLike | None = None,
    *,
    batch_size: int,
    temperature: float | None = None,
    strategy: StrategyName | None = None,
    seed: int = 0,
    round_number: int | None = None,
    previous: Selection | Schedule | None = None,
    config: SelectionConfig | None = None,
    progress: Progress = silent,
) -> Selection:
    """Put the pairs that a model confuses into the same batches.

    Args:
        U: first embeddings [n, d] on the unit sphere, row i of pair i: a numpy array, a memory map, a tensor on the
            CPU. Float32 in C order is used as it is, anything else is copied. So are the rows that take part where
            some do not, as when B does not divide N.
        V: second embeddings; None for single-view data, where U is compared with itself.
        batch_size: B, pairs per batch, over all ranks.
        temperature: t of the loss that is trained with; None takes that of `config`, or 0.07.
        strategy: how batches are formed; None takes that of `config`, which is `spectral` if not set.
        seed: same seed, same batches.
        round_number: how often batches were chosen before, for the seed and the curriculum; None counts on from
            `previous`, or is 0.
        previous: the batches used until now: the pairs that they left over are scheduled this time.
        config: every other setting.
        progress: told of every stage; `TerminalProgress()` draws a bar.

    Returns:
        `.batches`, int64 row numbers [m, B], each at most once; `.leftover`, those in no batch; `.fields`, how hard
        the batches are, and more.

    Raises:
        ConfigError: an argument is wrong; the message names it.
    """
    config = _with_shortcuts(config or SelectionConfig(), strategy, temperature)
    if not isinstance(previous, Selection | Schedule | None):
        raise ConfigError(
            f"previous: is a {type(previous).__name__}; give what select_batches or open_schedule returned"
        )
    batch_size = check_batch_size(batch_size, config)
    seeds = whole_number(seed, "seed"), this_round(previous, round_number)
    first = unit_rows(U, "U")
    second = first if V is None else unit_rows(V, "V")
    check_pairs(first, second)
    return choose_after(previous, (first, second), batch_size, config, seeds, progress)


def choose_after(
    previous: Selection | Schedule | None,
    embeddings: Embeddings,
    batch_size: int,
    config: SelectionConfig,
    seed: tuple[int, int],
    progress: Progress = silent,
) -> Selection:
    """What `select_batches` does when its other arguments are checked; `seed` is (seed, round).

    Raises:
        ConfigError: `previous` schedules other pairs, or the settings do not suit them; see `choose`.
    """
    if previous is not None:
        _check_previous(previous, len(embeddings[0]))
    return choose(
        embeddings,
        batch_size,
        config.temperature or DEFAULT_TEMPERATURE,
        config,
        seed,
        previous_leftover=None if previous is None else previous.leftover,
        previous_batches=None if previous is None else previous.batches,
        progress=progress,
    )


def _with_shortcuts(
    config: SelectionConfig, strategy: str | None, temperature: float | None
) -> SelectionConfig:
    """The settings, in which the two that have an argument of their own are replaced."""
    if not isinstance(config, SelectionConfig):
        raise ConfigError(
            f"config: is a {type(config).__name__}; give a SelectionConfig, such as SelectionConfig(strategy='random')"
        )
    changes: dict[str, Any] = {}
    if strategy is not None:
        names = get_args(StrategyName)
        if strategy not in names:
            raise ConfigError(f"strategy: is {strategy!r}; choose one of {', '.join(names)}")
        changes["strategy"] = strategy
    if temperature is not None:
        changes["temperature"] = positive_number(temperature, "temperature")
    return config.model_copy(update=changes)


def this_round(previous: Selection | Schedule | None, round_number: int | None = None) -> int:
    """The number of a round: the one that is given, or the one after `previous`, or 0."""
    if round_number is not None:
        return whole_number(round_number, "round_number")
    if previous is None:
        return 0
    fields = previous.fields if isinstance(previous, Selection) else previous.manifest
    return fields["round"] + 1


def _check_previous(previous: Selection | Schedule, num_pairs: int) -> None:
    """Refuse batches of other pairs: each pair is in a batch or left over, so the last one is somewhere."""
    num_before = 1 + max(int(ids.max(initial=-1)) for ids in (previous.batches, previous.leftover))
    if num_before != num_pairs:
        raise ConfigError(
            f"previous: schedules {num_before:,} pairs, but there are {num_pairs:,} embeddings; "
            "give batches of the same pairs, or leave it out"
        )
