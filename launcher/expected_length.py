"""How long a run will be, as far as its configuration and the number of its pairs tell."""

from launcher.config import RunConfig
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
