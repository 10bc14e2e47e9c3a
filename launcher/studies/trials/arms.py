"""The arms of a study: those that are named, and one for every value of every axis.

Axes are varied one at a time around an arm, so that the number of trials is the sum of their values, not the product.
"""

import json
from dataclasses import dataclass
from typing import Any

from launcher.config import RunConfig, differences
from launcher.studies.trials.config import Overrides, StudyConfig, trial_config
from selection.errors import ConfigError

_OWN = "selection."


@dataclass(frozen=True)
class Arm:
    """One way to choose batches."""

    name: str
    """In tables, and of its folder."""

    overrides: Overrides

    config: RunConfig
    """Of its trials, but for seed, folder and length."""


def build_arms(study: StudyConfig) -> list[Arm]:
    """All arms, the named ones first.

    Raises:
        ConfigError: a setting is unknown or wrong, two arms are the same, or an arm changes what all must share.
    """
    arms = [_arm(study, name, overrides) for name, overrides in study.arms.items()]
    for center, axes in study.axes.items():
        for axis, values in axes.items():
            for value in values:
                overrides = {**study.arms[center], axis: value}
                arm = _arm(study, f"{center} {_spell(axis, value)}", overrides)
                # the value of the arm itself needs no second one
                if arm.config.hash not in {other.config.hash for other in arms}:
                    arms.append(arm)
    _check_names(arms)
    return arms


def _arm(study: StudyConfig, name: str, overrides: Overrides) -> Arm:
    config = trial_config(study, overrides)
    for change in differences(trial_config(study, {}), config):
        if not change.startswith(_OWN):
            raise ConfigError(
                f"arm {name!r} changes {change}, but arms may differ in {_OWN}* alone, so that their steps cost the "
                "same; put it into the settings of all, or make another study"
            )
    if config.selection.overlaps:
        raise ConfigError(
            f"arm {name!r}: selection.refresh.mode is overlap, but a study prices training and selection by "
            "themselves; set it to alternate"
        )
    return Arm(name, overrides, config)


def _spell(axis: str, value: Any) -> str:
    return f"{axis.rpartition('.')[2]}={json.dumps(value)}"


def arm_folder(name: str) -> str:
    """What the folder of an arm is called."""
    return name.replace(" ", "-")


def _check_names(arms: list[Arm]) -> None:
    """Names are folders, and each must mean one configuration."""
    seen: dict[str, Arm] = {}
    for arm in arms:
        if "/" in arm.name or arm.name.startswith("."):
            raise ConfigError(
                f"arm {arm.name!r}: names are folders; leave out '/' and a leading '.'"
            )
        if arm.name in seen:
            raise ConfigError(f"arm {arm.name!r}: is there twice; rename one, or vary another key")
        for other in seen.values():
            if arm_folder(other.name) == arm_folder(arm.name):
                raise ConfigError(
                    f"arms {other.name!r} and {arm.name!r}: have the same folder; rename one"
                )
            if other.config.hash == arm.config.hash:
                raise ConfigError(f"arms {other.name!r} and {arm.name!r} are the same; drop one")
        seen[arm.name] = arm
