"""How long a run is: steps of every round, and of all of them, over which the learning rate decays.

Not every round has N // B batches: a strategy may take fewer, or a guard hold pairs back. Rounds to come are expected
to be like the last one that was selected, or as the strategy says before there is one. Schedules of later rounds are
never looked at, so that a round which is resumed has the learning rates that it began with.
"""

from collections.abc import Sequence

from pydantic import Field

from selection.config import Settings


class RunLength(Settings):
    """Rounds, epochs and steps of a run."""

    num_rounds: int = Field(ge=1)

    epochs_per_round: int = Field(ge=1)

    first_batches: int = Field(ge=1)
    """Batches of the first round, which are random."""

    later_batches: int = Field(ge=1)
    """Batches that each later round is expected to have, before any is selected."""

    num_steps: int | None = None
    """Steps of the whole run, at which its last round ends; null: when it has gone through its schedule."""

    def total_steps(self, known: Sequence[int]) -> int:
        """Steps of the whole run.

        Args:
            known: batches of the first rounds, as their schedules have them.
        """
        return self.num_steps or sum(self.steps_by_round(known))

    def steps_by_round(self, known: Sequence[int]) -> list[int]:
        """Steps of every round, if each goes through its schedule; `known` as for `total_steps`."""
        num_batches = list(known) or [self.first_batches]
        expected = self.later_batches if len(num_batches) == 1 else num_batches[-1]
        num_batches += [expected] * (self.num_rounds - len(num_batches))
        return [number * self.epochs_per_round for number in num_batches]

    def steps_of_round(self, round_number: int, num_batches: int, steps_before: int) -> int:
        """Steps of a round whose schedule is there, after `steps_before` steps of earlier rounds."""
        if self.num_steps is not None and round_number == self.num_rounds - 1:
            return self.num_steps - steps_before
        return num_batches * self.epochs_per_round


def step_to_select_from(checkpoint_every_steps: int, num_batches: int, collects: bool) -> int:
    """Step of a round with whose checkpoint the next one is selected, where that is done while the ranks train.

    Args:
        checkpoint_every_steps: of the configuration: it is the first checkpoint of the round.
        num_batches: of the round.
        collects: whether embeddings are those of training; then it is the end of the first epoch.
    """
    return num_batches if collects else checkpoint_every_steps
