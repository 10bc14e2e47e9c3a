"""How long a run will be, as far as its configuration and the number of its pairs tell."""

from launcher.config import RunConfig
from selection.errors import ConfigError
from selection.strategies import plan_num_batches
from trainer.length import RunLength


def expected_length(config: RunConfig, num_pairs: int) -> RunLength:
    """Rounds and steps.

    Args:
        config: of the run.
        num_pairs: N of the training pairs.

    Raises:
        ConfigError: the strategy does not suit the data, or its package is missing.
    """
    first = later = num_pairs // config.train.batch_size  # round 0 is random
    if config.rounds > 1:
        later = plan_num_batches(config.selection, num_pairs, config.train.batch_size)
    return RunLength(
        num_rounds=config.rounds,
        epochs_per_round=config.selection.refresh.epochs_per_round,
        first_batches=first,
        later_batches=later,
        num_steps=config.train.num_steps,
    )


def check_batch(config: RunConfig, num_pairs: int) -> None:
    """Refuse fewer pairs than make one batch.

    Raises:
        ConfigError: there are.
    """
    if num_pairs < config.train.batch_size:
        raise ConfigError(
            f"train.batch_size: is {config.train.batch_size}, but data.train has only {num_pairs} pairs; "
            "take a smaller batch or more shards"
        )


def check_length(config: RunConfig, num_pairs: int) -> None:
    """Refuse rounds that are too short for what is asked of them; arguments as for `expected_length`.

    Raises:
        ConfigError: no step is left for the last round, or a round has no checkpoint inside to select from.
    """
    *earlier, _ = expected_length(config, num_pairs).steps_by_round(known=[])
    num_steps = config.train.num_steps
    if num_steps is not None and num_steps <= sum(earlier):
        raise ConfigError(
            f"train.num_steps: is {num_steps:,}, but the {len(earlier)} rounds before the last have {sum(earlier):,}; "
            "take more steps or fewer rounds"
        )
    selection, first_save = config.selection, config.train.checkpoint_every_steps
    needs_one_inside = selection.selects_ahead and not selection.collects
    if needs_one_inside and earlier and first_save >= min(earlier):
        raise ConfigError(
            f"train.checkpoint_every_steps: is {first_save:,}, but must be less than the {min(earlier):,} steps of a "
            "round, for selection.refresh.mode=overlap selects from the first checkpoint inside; lower it"
        )
