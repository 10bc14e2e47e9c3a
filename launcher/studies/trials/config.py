"""What a study is: one YAML file that names a run's configuration, arms, seeds and budgets.

Importing this module is cheap, as importing `launcher.config` is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from launcher.config import RunConfig, load_config, parse_overrides, read_values, validate
from selection.config import Settings
from selection.errors import ConfigError

Overrides = dict[str, Any]
"""Values by dotted key, such as `selection.hardness.cluster_size: 8`."""


Metric = Literal[
    "u_to_v/mrr", "u_to_v/recall_at_1", "u_to_v/recall_at_5", "u_to_v/recall_at_10",
    "v_to_u/mrr", "v_to_u/recall_at_1", "v_to_u/recall_at_5", "v_to_u/recall_at_10",
]  # fmt: skip
"""As `trainer.evaluate.retrieval_metrics` names them."""


class StudyConfig(Settings):
    """Arms, all trained from the same configuration with the same seeds."""

    study_dir: Path
    """Folder of the study; it is made, and gone on with when it is there."""

    base: Path
    """Configuration of a run. Its `rounds` times its `epochs_per_round` are the epochs of every trial at equal steps;
    how many rounds a trial has follows from the arm."""

    settings: Overrides = Field(default={})
    """What all trials change in `base`."""

    arms: dict[str, Overrides] = Field(default={"random": {"selection.strategy": "random"}})
    """What each arm changes, below `selection` only: everything else is equal, so that a step costs the same."""

    axes: dict[str, dict[str, list[Any]]] = Field(default={})
    """By the name of an arm, values by dotted key. Each value makes one more arm: that arm with one setting changed."""

    reference: str = "random"
    """The arm that all are compared with, seed by seed."""

    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    """Each makes other first weights, other first batches and another order; the same ones for every arm."""

    shares: list[float] = Field(default=[1.0])
    """Budgets of seconds, as shares of what the reference needs for its epochs. For each of them every other arm is
    trained once more, as long as fits, selection counted, with a learning rate that falls over just that time."""

    split: Literal["heldout", "validation", "corrupted"] = "heldout"
    """Where arms are compared. Settings are chosen on `validation`, and what was chosen is judged on the others."""

    metric: Metric = "u_to_v/mrr"
    """Score of `metrics/rounds.jsonl`."""

    trials_at_once: int = Field(default=1, ge=1)
    """Trials side by side. They disturb each other's seconds even on CPUs of their own: memory is shared."""

    cpus_per_trial: int | None = Field(default=None, ge=1)
    """CPUs of each trial, on which it is held; null takes what its ranks need."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "StudyConfig":
        for field, name in [("reference", self.reference), *(("axes", name) for name in self.axes)]:
            if name not in self.arms:
                raise ValueError(f"{field}: {name!r} is no arm; arms are {', '.join(self.arms)}")
        if twice := [seed for seed in self.seeds if self.seeds.count(seed) > 1]:
            raise ValueError(f"seeds: {twice[0]} is there twice; drop one")
        if wrong := [share for share in self.shares if share <= 0]:
            raise ValueError(f"shares: {wrong[0]:g} is not above 0; give shares such as 1.0")
        if twice := [share for share in self.shares if self.shares.count(share) > 1]:
            raise ValueError(f"shares: {twice[0]:g} is there twice; drop one")
        return self

    def with_strategies(self, names: Sequence[str]) -> "StudyConfig":
        """The same study of the arms with these names; for a strategy that it has no arm for, one with its defaults.

        All are compared with the first.
        """
        arms = {name: self.arms.get(name, {"selection.strategy": name}) for name in names}
        return self.model_copy(update={"arms": arms, "reference": names[0], "axes": {}})


def load_study(
    path: Path, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> StudyConfig:
    """Read a study file; a run's configuration is taken as the `base` of a study of its own.

    Args:
        path: a YAML file.
        overrides: `a.b=value`, settings of all trials.
        changes: fields of the study that replace those of the file.

    Raises:
        ConfigError: the file is neither, or a value is wrong.
    """
    values = read_values(path)
    if "base" not in values:
        run = load_config(path)  # a mistake in it is told as one of a run
        values = {
            "study_dir": f"studies/{path.stem}",
            "base": str(path),
            "arms": _run_and_random(run),
        }
    study = validate(StudyConfig, {**values, **(changes or {})}, source=str(path))
    settings = {**study.settings, **dict(parse_overrides(overrides))}
    study = study.model_copy(update={"settings": settings})
    _check_split(study, path)
    return study


def _check_split(study: StudyConfig, path: Path) -> None:
    """Whether arms can be compared where they are to be."""
    if not getattr(trial_config(study, {}).data, study.split):
        raise ConfigError(
            f"{path}: arms are compared on the {study.split} split, but there is none; "
            f"set data.{study.split} in its settings"
        )
    if study.split == "corrupted" and not study.metric.endswith("/recall_at_1"):
        raise ConfigError(
            f"{path}: metric is {study.metric}, but corrupted images are judged by u_to_v/recall_at_1 and "
            "v_to_u/recall_at_1; take one of them"
        )


def _run_and_random(run: RunConfig) -> dict[str, Overrides]:
    """What a run is compared with, where it does not say: random batches."""
    return {name: {"selection.strategy": name} for name in ("random", run.selection.strategy)}


def trial_config(study: StudyConfig, overrides: Overrides) -> RunConfig:
    """The run that a study makes of its base, its settings and `overrides`.

    Raises:
        ConfigError: there is no base, a key is unknown or a value is wrong.
    """
    if not study.base.is_file():
        raise ConfigError(
            f"base: {study.base}: no such file; give a configuration of a run, as seen from the current folder"
        )
    merged = {**study.settings, **overrides}
    # JSON is YAML, so that values go the way of those on a command line
    return load_config(study.base, [f"{key}={json.dumps(value)}" for key, value in merged.items()])
