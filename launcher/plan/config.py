"""The section `plan` of a configuration: what `coterie plan` cannot see from where it runs.

A run does not look at it, so `RunConfig.identity` leaves it out.
"""

from typing import Literal

from pydantic import Field, model_validator

from selection.config import Settings

GpuName = Literal["a100", "l40s", "h100", "h200", "b200"]


class PlanConfig(Settings):
    """Data and hardware of a run that is planned elsewhere."""

    gpu: GpuName = "a100"
    """What ranks and embedding workers with a GPU run on; `launcher/plan/hardware.py` says what that is."""

    num_pairs: int | None = Field(default=None, ge=1)
    """Pairs of `data.train`, for a machine on which its shards are not."""

    pair_bytes: int | None = Field(default=None, ge=1)
    """Bytes of a shard for each of its pairs, headers included; with `num_pairs`."""

    @model_validator(mode="after")
    def _data_is_described(self) -> "PlanConfig":
        if (self.num_pairs is None) != (self.pair_bytes is None):
            raise ValueError(
                f"num_pairs is {self.num_pairs} and pair_bytes {self.pair_bytes}, but one says nothing without the "
                "other; give both"
            )
        return self
